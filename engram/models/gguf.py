"""GGUF, llama.cpp's format: convert a file of the llama architecture into a model folder with float32 weights.

A GGUF file holds settings, tokenizer, chat template and weights. The `gguf` package reads it; what this module does not
know is refused, since it may change what the model computes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.models.safetensors_file import float32_header
from engram.support.console import Pulse, make_console
from engram.support.errors import EngramError, readable_errors
from engram.support.files import cache_folder, write_text
from engram.support.text import first, shorten, visible

PIECE = 1 << 20  # numbers that are converted at once
READS = 8_000_000  # values of a header; large tokenizers have one million
CONVERTER = 2  # raise it when the same file becomes another folder
FIX = "take another MODEL; read are llama models with a byte-level BPE tokenizer and a chat template"
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


def convert(path: Path, folder: Path, check: Callable[[], object]) -> None:
    """Write the model in the GGUF file `path` into `folder`: configuration, tokenizer, chat template, weights.

    `check` is called before the weights are written, to try tokenizer and chat template. Raises EngramError with every
    reason why the file can't be used.
    """
    with readable_errors(path, "read this file"):
        try:
            reader = _reader(path)
            fields = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, LookupError, ArithmeticError, RecursionError) as error:
            what = f"not a whole GGUF file, it may be cut off ({visible(shorten(str(error), 200))})"
            raise EngramError(what, where=visible(path.name), fix="fetch or copy it again") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    texts, wanted = _read(fields, tensors, path.name)
    for name, text in texts.items():
        write_text(folder / name, text)
    check()
    _write_weights(fields, tensors, wanted, folder / "model.safetensors", path.name)


def _reader(path: Path) -> Any:
    """The package's reader, which raises ValueError behind the end of the file, and after READS values."""
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        values = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            found = super()._get(offset, dtype, count, override_order)
            self.values += 1
            if self.values > READS:
                raise ValueError("its header is too long")
            if len(found) < count:
                raise ValueError("it ends before what its header says")
            return found

    return Reader(path)


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
    return (Path(root) if root else cache_folder() / "models") / f"{name[:80]}-{digest[:16]}-{CONVERTER}"


def _read(fields: Mapping[str, Any], tensors: Mapping[str, Any], name: str) -> tuple[dict[str, str], Wanted]:
    """The small files of the folder, and the tensors that are wanted; raises EngramError with every problem."""
    problems: list[str] = []
    rows = _shape(tensors["token_embd.weight"])[0] if "token_embd.weight" in tensors else 0
    texts, wanted = _tokenizer(fields, rows, problems), Wanted()
    if (architecture := _shown(fields.get("general.architecture"))) != "llama":
        problems.insert(0, f"architecture: {architecture} (read is llama)")
    elif config := _config(fields, tensors, rows, problems):
        texts["config.json"] = json.dumps(config, indent=2) + "\n"
        wanted = _wanted(config)
        problems += _tensor_problems(tensors, wanted)
    if problems:
        shown = first([visible(shorten(problem, 300)) for problem in problems])
        raise EngramError("this GGUF file cannot be used", where=visible(name), problems=shown, fix=FIX)
    return texts, wanted


def _config(said: Mapping[str, Any], tensors: Mapping[str, Any], rows: int, problems: list[str]) -> dict[str, Any]:
    """The settings as transformers names them; empty if they are unusable, which is then among `problems`."""
    fields = {key[6:]: value for key, value in said.items() if key.startswith("llama.")}
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
        "num_hidden_layers": number("block_count", int, most=len(tensors)),
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon", float),
        "rope_theta": number("rope.freq_base", float, 10000.0, 1e12),
        "tie_word_embeddings": "output.weight" not in tensors,
        "vocab_size": rows,
    }
    for name in ("bos", "eos", "pad"):
        config[f"{name}_token_id"] = said.get(f"tokenizer.ggml.{_SPECIAL[name]}_token_id")
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


def _tensor_problems(tensors: Mapping[str, Any], wanted: Wanted) -> list[str]:
    """A line for each tensor that is unknown, missing, misshapen or in a quantization that is not read."""
    import gguf
    import numpy as np

    problems = [f"{name}: this tensor is missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        if name not in wanted:
            problems.append(f"{name}: not a tensor of a llama model without rope scaling, experts and biases")
        elif _shape(tensor) != (shape := wanted[name][1]) or 0 in shape:
            problems.append(f"{name}: its shape is {list(_shape(tensor))}, not {list(shape)}")
        else:
            try:
                gguf.quants.dequantize(np.atleast_2d(tensor.data)[:1], tensor.tensor_type)
            except NotImplementedError:
                problems.append(f"{name}: quantization {tensor.tensor_type.name} cannot be read")
    return problems


def _shape(tensor: Any) -> tuple[int, ...]:
    """The shape of a tensor of the file, rows first."""
    return tuple(tensor.shape.tolist()[::-1])


def _tokenizer(fields: Mapping[str, Any], rows: int, problems: list[str]) -> dict[str, str]:
    """The tokenizer's files and the chat template, for an embedding of so many `rows`; unusable if `problems` grow."""
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    kind, pre, template = _shown(about.get("model")), _shown(about.get("pre")), fields.get("tokenizer.chat_template")
    tokens, merges, types = (about.get(key) for key in ("tokens", "merges", "token_type"))
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
    kinds = [1] * len(tokens) if types is None else types if isinstance(types, list) else []
    if len(tokens) > rows:
        problems.append(f"tokenizer: {len(tokens):,} tokens, and an embedding of {rows:,} rows")
    if not len(vocabulary) == len(tokens) == len(kinds):
        problems.append(f"tokenizer: {len(vocabulary):,} different tokens of {len(tokens):,}, {len(kinds):,} types")
    ids = {name: f"{key}_token_id" for name, key in _SPECIAL.items()}
    numbers = {f"{name}_token": about[key] for name, key in ids.items() if key in about}
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
    first = special.get("bos_token") if about.get("add_bos_token") is True else None
    whole = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(CANDIDATES[pre])},
        "post_processor": _beginning(first, vocabulary[first]) if first else None,
        "decoder": byte_level(True),
        "model": {"type": "BPE", "ignore_merges": pre == WHOLE_WORDS, "vocab": vocabulary, "merges": pairs},
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


def _write_weights(fields: Mapping[str, Any], tensors: Mapping[str, Any], wanted: Wanted, out: Path, name: str) -> None:
    """Write the tensors in float32, a piece in memory at a time.

    transformers rotates (rope) each row i of a head with row i + size/2, llama.cpp with its neighbour: the rows of
    queries and keys go back to transformers' order.
    """
    import gguf
    import numpy as np

    head = wanted["blk.0.attn_q.weight"][1][0] // fields["llama.attention.head_count"]
    total, done = 4 * sum(math.prod(shape) for _, shape in wanted.values()), 0
    with progress(f"converting {name}", total) as show, readable_errors(out, "write this file"), out.open("wb") as made:
        made.write(float32_header(dict(wanted.values())))
        for key, (_, shape) in wanted.items():
            rows, width = np.atleast_2d(tensors[key].data), shape[-1]
            at_once = max(PIECE // width // head, 1) * head
            for first in range(0, len(rows), at_once):
                values = gguf.quants.dequantize(rows[first : first + at_once], tensors[key].tensor_type)
                if not np.isfinite(values).all():
                    raise EngramError(f"{key}: a weight is not a finite number", where=visible(name), fix=FIX)
                if key.endswith(("attn_q.weight", "attn_k.weight")):
                    values = values.reshape(-1, head // 2, 2, width).swapaxes(1, 2)
                made.write(np.ascontiguousarray(values, "<f4").tobytes())
                show(done := done + 4 * values.size)


def _shown(value: object) -> str:
    return "missing" if value is None else shorten(str(value), 60)
