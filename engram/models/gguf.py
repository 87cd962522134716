"""GGUF, llama.cpp's format: convert a file of the llama architecture into a model folder with float32 weights.

A GGUF file holds settings, tokenizer, chat template and weights. Anybody can make one, so every count, length and
offset in it is compared with the file's size before it is used.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from engram.models.safetensors_file import Entry, float32_header
from engram.support import locks
from engram.support.console import Pulse, make_console
from engram.support.errors import EngramError, readable_errors
from engram.support.files import cache_folder, new_folder, write_text
from engram.support.text import shorten, visible

HEADER = 1 << 25  # bytes of a header; one of 150,000 tokens has 6 million
PIECE = 1 << 20  # numbers that are converted at once
SHOWN = 20  # problems
RECORD = "gguf.json"  # in a converted folder: the file that it was made of
CONVERTER = 1  # raise it when the same file becomes another folder
FIX = "take another MODEL; read are llama models with a byte-level BPE tokenizer and a chat template"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # transformers' names, and GGUF's
_TEXTS = (("Sequence", "A"), ("Sequence", "B"))
# by GGUF's name, transformers' name and the shape of each tensor that a model needs
Wanted = dict[str, tuple[str, tuple[int, ...]]]


def split(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that isolates the matches of a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """The pre-tokenizer that writes bytes as characters, with or without GPT-2's own split."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp's names of pre-tokenizers, the common ones first, and the same split in the words of tokenizer.json
CANDIDATES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "gpt-2": [byte_level(True)],
    "smollm": [split(r"\p{N}"), byte_level(True)],
    "qwen2": [split(_CONTRACTIONS + _WORDS + r"\p{N}" + _REST), byte_level(False)],
    "llama-bpe": [split(_CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _REST), byte_level(False)],
    "ufakzeka": [split(_WORDS + r"\p{N}" + _REST), byte_level(False)],
}
WHOLE_WORDS = "llama-bpe"  # with this split alone, llama.cpp keeps a word that is a token whole


class Stored(NamedTuple):
    """A tensor of the file: GGUF's number of its quantization, shape (rows first), and offset within the data."""

    kind: int
    shape: tuple[int, ...]
    offset: int


class Content(NamedTuple):
    """A file's settings by name, its tensors by name, and where their data starts."""

    fields: dict[str, Any]
    tensors: dict[str, Stored]
    start: int


def cached(name: str, digest: str) -> Path | None:
    """The folder converted earlier from the file with this SHA-256, None if there is none or it is not whole."""
    folder = place(name, digest)
    try:
        same = json.loads((folder / RECORD).read_text("utf-8")) == _record(folder, digest)
    except (OSError, ValueError):
        return None
    return folder if same else None


@contextlib.contextmanager
def new(name: str, digest: str) -> Iterator[Path]:
    """An empty folder to convert into, which `cached` finds if the block ends without an error.

    Raises EngramError if it can't be written, or while another process writes it.
    """
    folder = place(name, digest)
    with locks.held(folder, f"engram, converting {name}"), new_folder(folder) as work:
        yield work
        write_text(work / RECORD, json.dumps(_record(work, digest)) + "\n")


def convert(path: Path, folder: Path, check: Callable[[], object]) -> None:
    """Write the model in the GGUF file `path` into `folder`: configuration, tokenizer, chat template, weights.

    `check` is called before the weights are written, to try tokenizer and chat template. Raises EngramError with every
    reason why the file can't be used.
    """
    with readable_errors(path, "read this file"), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = _parse(file)
        except (ValueError, LookupError, OverflowError) as error:
            what, fix = f"not a whole GGUF file ({visible(shorten(str(error), 200))})", "fetch or copy it again"
            raise EngramError(what, where=visible(path.name), fix=fix) from error
        texts, wanted = _read(content, size, path.name)
        for name, text in texts.items():
            write_text(folder / name, text)
        check()
        _write_weights(file, content, wanted, folder / "model.safetensors", path.name)


@contextlib.contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` bytes are done, as the block tells it: a bar, or lines where none can be drawn."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = make_console()
    if not console.is_terminal:
        with Pulse() as pulse:
            pulse.say(text)
            yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(visible(text), total=total)
        yield lambda done: bar.update(task, completed=min(done, total))


def place(name: str, digest: str) -> Path:
    """Where the file with this SHA-256 is converted to: below ENGRAM_MODELS, else in the cache."""
    root = os.environ.get("ENGRAM_MODELS")
    return (Path(root) if root else cache_folder() / "models") / f"{name[:80]}-{digest[:16]}"


def _record(folder: Path, digest: str) -> dict[str, Any]:
    size = (folder / "model.safetensors").stat().st_size
    return {"gguf_sha256": digest, "converter": CONVERTER, "model.safetensors": size}


class _Reader:
    """A header's values, one after the other; raises ValueError where one would go beyond its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def room(self, count: int, each: int) -> None:
        if count * each > len(self.data) - self.at:
            raise ValueError(f"its header is cut off, or larger than {HEADER >> 20} MiB")

    def take(self, size: int) -> bytes:
        self.room(size, 1)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """One value; a list of numbers as an array, which takes no more memory than its bytes."""
        import numpy as np

        if kind == _STRING:
            return self.text()
        if kind != _LIST:
            return self.number(_SCALARS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            self.room(count, 8)
            return [self.text() for _ in range(count)]
        code = "<" + _SCALARS[kind]
        self.room(count, struct.calcsize(code))
        return np.frombuffer(self.take(count * struct.calcsize(code)), code)


def _parse(file: BinaryIO) -> Content:
    """The header; raises ValueError, LookupError or OverflowError if it is none."""
    reader = _Reader(file.read(HEADER))
    if reader.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if (version := reader.number("I")) not in (2, 3):
        raise ValueError(f"version {version:,}; read are 2 and 3, little-endian")
    tensor_count, field_count = reader.number("Q"), reader.number("Q")
    fields: dict[str, Any] = {}
    tensors: dict[str, Stored] = {}
    for _ in range(field_count):  # each turn takes bytes, so the header's end ends the loop
        if (key := reader.text()) in fields:
            raise ValueError(f"{key} stands twice")
        fields[key] = reader.value(reader.number("I"))
    for _ in range(tensor_count):
        if (name := reader.text()) in tensors:
            raise ValueError(f"{name} stands twice")
        if not 1 <= (dimensions := reader.number("I")) <= 4:
            raise ValueError(f"{name} has {dimensions:,} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
        tensors[name] = Stored(reader.number("I"), shape, reader.number("Q"))
    if (align := fields.get("general.alignment", 32)) not in [8 << n for n in range(14)]:
        raise ValueError("general.alignment is no power of two")
    return Content(fields, tensors, -(-reader.at // align) * align)


def _read(content: Content, size: int, name: str) -> tuple[dict[str, str], Wanted]:
    """The small files of the folder, and the tensors that are wanted; `size` is the GGUF file's in bytes.

    Raises EngramError with every problem.
    """
    problems: list[str] = []
    rows = content.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in content.tensors else 0
    texts, wanted = _tokenizer(content.fields, rows, problems), Wanted()
    if (architecture := _shown(content.fields.get("general.architecture"))) != "llama":
        problems.insert(0, f"architecture: {architecture} (read is llama)")
    elif config := _config(content, rows, problems):
        texts["config.json"] = json.dumps(config, indent=2) + "\n"
        wanted = _wanted(config)
        problems += _tensor_problems(content, wanted, size)
    if problems:
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        shown = [visible(shorten(problem, 300)) for problem in problems[:SHOWN]] + more
        raise EngramError("this GGUF file cannot be used", where=visible(name), problems=shown, fix=FIX)
    return texts, wanted


def _config(content: Content, rows: int, problems: list[str]) -> dict[str, Any]:
    """The settings as transformers names them; empty if they are unusable, which is then among `problems`."""
    fields = {key[6:]: value for key, value in content.fields.items() if key.startswith("llama.")}
    before = len(problems)

    def number(key: str, kind: type[int] | type[float], default: Any = None, most: float = 1 << 24) -> Any:
        value: Any = fields.pop(key, default)
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value <= most:
            problems.append(f"llama.{key}: {_shown(value)} (needed is a number above 0, at most {most:,})")
            return 2
        return value if kind is int else float(f"{value:.7g}")  # 1e-05, which float32 does not hold exactly

    heads, width = number("attention.head_count", int), number("embedding_length", int)
    kv_heads, head = number("attention.head_count_kv", int, heads), number("attention.key_length", int, width // heads)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "dtype": "float32",
        "head_dim": head,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": number("feed_forward_length", int),
        "max_position_embeddings": number("context_length", int),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": number("block_count", int, most=len(content.tensors)),
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon", float),
        "rope_theta": number("rope.freq_base", float, 10000.0, 1e12),
        "tie_word_embeddings": "output.weight" not in content.tensors,
        "vocab_size": rows,
    }
    for name in ("bos", "eos", "pad"):
        config[f"{name}_token_id"] = content.fields.get(f"tokenizer.ggml.{_SPECIAL[name]}_token_id")
    for key, only in (("attention.value_length", head), ("rope.dimension_count", head), ("vocab_size", rows)):
        if (value := _shown(fields.pop(key, only))) != str(only):
            problems.append(f"llama.{key}: {value} (read is {only})")
    if heads % kv_heads or head % 2:
        problems.append(f"attention: {heads} heads of {head} numbers, {kv_heads} for keys and values")
    problems += [  # experts, scaled rotations and others; a 0 says that there are none
        f"llama.{key}: {_shown(value)} (not read: it may change what the model computes)"
        for key, value in fields.items()
        if str(value) not in ("0", "0.0", "False", "none")
    ]
    return config if len(problems) == before else {}


def _wanted(config: Mapping[str, Any]) -> Wanted:
    """The tensors of a model with this configuration."""
    width, inner, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    block = {
        "attn_norm": ("input_layernorm", (width,)),
        "attn_q": ("self_attn.q_proj", (queries, width)),
        "attn_k": ("self_attn.k_proj", (keys, width)),
        "attn_v": ("self_attn.v_proj", (keys, width)),
        "attn_output": ("self_attn.o_proj", (width, queries)),
        "ffn_norm": ("post_attention_layernorm", (width,)),
        "ffn_gate": ("mlp.gate_proj", (inner, width)),
        "ffn_up": ("mlp.up_proj", (inner, width)),
        "ffn_down": ("mlp.down_proj", (width, inner)),
    }
    found: Wanted = {"token_embd.weight": ("model.embed_tokens.weight", (rows, width))}
    for n in range(config["num_hidden_layers"]):
        for name, (there, shape) in block.items():
            found[f"blk.{n}.{name}.weight"] = (f"model.layers.{n}.{there}.weight", shape)
    found["output_norm.weight"] = ("model.norm.weight", (width,))
    return found if config["tie_word_embeddings"] else found | {"output.weight": ("lm_head.weight", (rows, width))}


def _tensor_problems(content: Content, wanted: Wanted, size: int) -> list[str]:
    """Unknown, missing, misshapen and overlapping tensors, and those that don't end within the file."""
    problems = [f"{name}: this tensor is missing" for name in wanted if name not in content.tensors]
    end = content.start
    for name, stored in sorted(content.tensors.items(), key=lambda item: item[1].offset):
        if name not in wanted:
            problems.append(f"{name}: not a tensor of a llama model without rope scaling, experts and biases")
        elif stored.shape != (shape := wanted[name][1]) or 0 in shape:
            problems.append(f"{name}: its shape is {list(stored.shape)}, not {list(shape)}")
        elif not (row := _row_bytes(stored)):
            problems.append(f"{name}: quantization {_kind(stored.kind)} cannot be read in rows of {shape[-1]} numbers")
        else:
            begin = content.start + stored.offset
            if begin < end:
                problems.append(f"{name}: it overlaps another tensor")
            if (end := begin + math.prod(shape[:-1]) * row) > size:
                problems.append(f"{name}: bytes {begin:,} to {end:,} of a file of {size:,} (cut off?)")
    return problems


def _row_bytes(stored: Stored) -> int:
    """The bytes of a tensor's row; 0 if its quantization is unknown, or has no blocks that fit this row."""
    import gguf
    import numpy as np

    try:
        kind = gguf.GGMLQuantizationType(stored.kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except (ValueError, LookupError, NotImplementedError):
        return 0
    return 0 if stored.shape[-1] % block else stored.shape[-1] // block * int(size)


def _kind(number: int) -> str:
    import gguf

    return {int(kind): str(kind.name) for kind in gguf.GGMLQuantizationType}.get(number, f"{number:,}")


def _tokenizer(fields: Mapping[str, Any], rows: int, problems: list[str]) -> dict[str, str]:
    """The tokenizer's files and the chat template, for an embedding of so many `rows`; unusable if `problems` grow."""
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    kind, pre, template = _shown(about.get("model")), _shown(about.get("pre")), fields.get("tokenizer.chat_template")
    tokens, merges, types = about.get("tokens"), about.get("merges"), about.get("token_type")
    if kind != "gpt2":
        problems.append(f"tokenizer: {kind} (read is gpt2, byte-level BPE)")
    elif pre not in CANDIDATES:
        problems.append(f"pre-tokenizer: {pre} (read are {', '.join(CANDIDATES)})")
    if not isinstance(template, str) or not template.strip():
        problems.append("chat template: missing (take an instruct model)")
    if not isinstance(tokens, list) or not isinstance(merges, list):
        problems.append("tokenizer: tokens or merges are missing")
    if problems or not isinstance(tokens, list) or not isinstance(merges, list):
        return {}
    vocabulary = {token: number for number, token in enumerate(tokens)}
    kinds: list[Any] = [1] * len(tokens) if types is None else types.tolist() if hasattr(types, "tolist") else []
    if len(tokens) > rows:
        problems.append(f"tokenizer: {len(tokens):,} tokens, and an embedding of {rows:,} rows")
    if not len(vocabulary) == len(tokens) == len(kinds):
        problems.append(f"tokenizer: {len(vocabulary):,} different tokens of {len(tokens):,}, {len(kinds):,} types")
    numbers = {
        f"{name}_token": about[f"{key}_token_id"] for name, key in _SPECIAL.items() if f"{key}_token_id" in about
    }
    wrong = [name for name, number in numbers.items() if type(number) is not int or not 0 <= number < len(tokens)]
    pairs = [merge.split(" ") for merge in merges]
    if wrong or any(len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys() for pair in pairs):
        problems.append(f"tokenizer: {', '.join(wrong) or 'merges'}: not of its tokens")
        return {}
    special = {name: tokens[number] for name, number in numbers.items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": number, "content": token, **flags, "special": one == _CONTROL}
        for number, (token, one) in enumerate(zip(tokens, kinds))
        if one in (_CONTROL, _USER_DEFINED)
    ]
    bpe = {"type": "BPE", "ignore_merges": pre == WHOLE_WORDS, "vocab": vocabulary, "merges": pairs}
    first = special.get("bos_token") if about.get("add_bos_token") is True else None
    whole = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(CANDIDATES[pre])},
        "post_processor": _beginning(first, vocabulary[first]) if first else None,
        "decoder": byte_level(True),
        "model": bpe,
    }
    settings = {**special, "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "tokenizer.json": json.dumps(whole, ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2) + "\n",
        "chat_template.jinja": str(template),
    }


def _beginning(token: str, number: int) -> dict[str, Any]:
    """The post-processor that puts a token before each text."""
    first, *parts = ({kind: {"id": name, "type_id": 0}} for kind, name in (("SpecialToken", token), *_TEXTS))
    known = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [first, parts[0]], "pair": [first, *parts], "special_tokens": known}


def _write_weights(file: BinaryIO, content: Content, wanted: Wanted, out: Path, name: str) -> None:
    """Write the tensors in float32, a piece in memory at a time.

    transformers rotates (rope) each row i of a head with row i + size/2, llama.cpp with its neighbour: the rows of
    queries and keys go back to transformers' order.
    """
    import gguf
    import numpy as np

    head = wanted["blk.0.attn_q.weight"][1][0] // content.fields["llama.attention.head_count"]
    total, done = 4 * sum(math.prod(shape) for _, shape in wanted.values()), 0
    with progress(f"converting {name}", total) as show, readable_errors(out, "write this file"), out.open("wb") as made:
        made.write(float32_header({there: Entry(out, "F32", shape, 0, 0) for there, shape in wanted.values()}))
        for key, (_, shape) in wanted.items():
            kind, _, offset = content.tensors[key]
            size, rows, width = _row_bytes(content.tensors[key]), math.prod(shape[:-1]), shape[-1]
            file.seek(content.start + offset)
            at_once = max(PIECE // width // head, 1) * head
            for count in (min(at_once, rows - first) for first in range(0, rows, at_once)):
                data = file.read(count * size)
                if len(data) != count * size:
                    raise EngramError("the file changed while it was read", where=visible(name), fix="try again")
                raw = np.frombuffer(data, np.uint8).reshape(count, size)
                values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind))
                if not np.isfinite(values).all():
                    raise EngramError(f"{key}: a weight is not a finite number", where=visible(name), fix=FIX)
                if key.endswith(("attn_q.weight", "attn_k.weight")):
                    values = values.reshape(-1, head // 2, 2, width).swapaxes(1, 2)
                made.write(np.ascontiguousarray(values, "<f4").tobytes())
                show(done := done + 4 * count * width)


def _shown(value: object) -> str:
    return "missing" if value is None else shorten(str(value), 60)
