"""The merged model as one GGUF file for llama.cpp: its settings, tensors, tokenizer and pre-tokenizer.

Matrices are f16 or q8_0, vectors f32. A model that the format or llama.cpp cannot hold exactly is refused with every
reason.
"""

# ruff: noqa: E501 - the hard cases are in rows of one kind

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engram.export import fuse
from engram.models.adapters import Lora, listed
from engram.models.gguf import CANDIDATES, WHOLE_WORDS
from engram.models.model import Model
from engram.models.safetensors_file import Entry
from engram.models.tokenizer import Encoder
from engram.support.errors import EngramError
from engram.support.files import read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUANTIZE = ("f16", "q8_0")
ROW = 32  # q8_0 packs a row in blocks of this many numbers
F16_LIMIT = 65504.0  # the largest finite number
FIX = "export another format: --format fused, peft or mlx"
# transformers' name of an architecture, and llama.cpp's
ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# settings that change the computation, and the one value that llama.cpp's architecture computes
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "use_sliding_window": False, "mlp_bias": False}
NORMALIZERS = (None, "NFC")  # llama.cpp normalises nothing; typed text is NFC already


class Settings(NamedTuple):
    """A configuration's numbers, in the model's own terms."""

    architecture: str
    blocks: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    inner: int
    context: int
    vocabulary: int
    epsilon: float
    theta: float


def check(model: Model, lora: Lora, quantize: str) -> tuple[Settings, dict[str, Entry]]:
    """The model's settings and tensors; raises EngramError with everything that a GGUF file could not hold."""
    found = fuse.check(model, lora)
    settings, problems = _settings(model)
    if settings:
        names = {name: _gguf_name(name, settings) for name in found}
        if unknown := [name for name, there in names.items() if not there]:
            problems.append(f"tensors: no name in llama.cpp for {listed(unknown)}")
        if biases := [name for name in found if name.endswith(".bias") and not _bias_is_known(name, settings)]:
            problems.append(f"biases: {listed(biases)}")
    odd = [name for name, entry in found.items() if len(entry.shape) == 2 and entry.shape[1] % ROW]
    if quantize == "q8_0" and odd:
        problems.append(f"q8_0: rows that are no multiple of {ROW} numbers long: {listed(odd)}")
    if problems or not settings:
        what = f"a GGUF file cannot hold {model.name}"
        raise EngramError(what, where="--format gguf", problems=problems, fix=FIX)
    return settings, found


def _settings(model: Model) -> tuple[Settings | None, list[str]]:
    """The model's settings, and every reason why a GGUF file cannot hold model or tokenizer."""
    known = fuse.config(model)
    named = (known.get("architectures") or ["not named"])[0]
    problems = _tokenizer_problems(model)
    if named not in ARCHITECTURES:
        return None, [f"architecture: {named} (written are {', '.join(ARCHITECTURES)})", *problems]
    rope = {**(known.get("rope_parameters") or {}), **(known.get("rope_scaling") or {})}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        problems.append(f"rope scaling: {kind} (written is the default alone)")
    problems += [
        f"{key}: {known[key]!r} (written is {only!r})" for key, only in ONLY.items() if known.get(key, only) != only
    ]
    heads = known["num_attention_heads"]
    settings = Settings(
        architecture=named,
        blocks=known["num_hidden_layers"],
        heads=heads,
        kv_heads=known.get("num_key_value_heads") or heads,
        head_size=known.get("head_dim") or known["hidden_size"] // heads,
        hidden=known["hidden_size"],
        inner=known["intermediate_size"],
        context=known["max_position_embeddings"],
        vocabulary=known["vocab_size"],
        epsilon=known["rms_norm_eps"],
        theta=rope.get("rope_theta") or known.get("rope_theta") or 10000.0,
    )
    return settings, problems


def _tokenizer_problems(model: Model) -> list[str]:
    if not (model.path / "tokenizer.json").is_file():
        return ["tokenizer: no tokenizer.json (written is byte-level BPE from one)"]
    known = _tokenizer_file(model.path)
    kind = known["model"].get("type")
    normalizer = (known.get("normalizer") or {}).get("type")
    splits = known.get("pre_tokenizer") or {}
    levels = [part.get("type") for part in splits.get("pretokenizers", [splits])]
    problems = []
    if kind != "BPE" or known["model"].get("byte_fallback") or "ByteLevel" not in levels:
        problems.append(f"tokenizer: {kind} that is not byte-level BPE")
    if normalizer not in NORMALIZERS:
        problems.append(f"normalizer: {normalizer} (llama.cpp normalises nothing)")
    return problems


def _tokenizer_file(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_bytes(folder / "tokenizer.json"))
    return found


def write(model: Model, lora: Lora, encoder: Encoder, pre: str, quantize: str, path: Path) -> None:
    """Write the merged model to the file `path`, one tensor at a time in memory.

    `pre` is llama.cpp's name of the pre-tokenizer. Raises EngramError as `check` does, and for a number that is too
    large for f16.
    """
    import gguf
    import numpy as np

    settings, found = check(model, lora, quantize)
    file_type, matrix = {
        "f16": (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
        "q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
    }[quantize]
    kinds = {name: matrix if len(entry.shape) > 1 else gguf.GGMLQuantizationType.F32 for name, entry in found.items()}
    writer = gguf.GGUFWriter(path, ARCHITECTURES[settings.architecture])
    _add_settings(writer, settings, model.name, int(file_type))
    _add_tokenizer(writer, model, encoder, settings.vocabulary, pre)
    for name, entry in found.items():
        block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        length = math.prod(entry.shape) // block * size
        any_dtype = np.dtype(np.float32)  # an argument that the writer does not use, once told the kind
        writer.add_tensor_info(_gguf_name(name, settings), entry.shape, any_dtype, length, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, entry in found.items():
        values = ordered(name, fuse.merged(name, entry, lora), settings)
        if not abs(values).max(initial=0.0) <= F16_LIMIT:  # a NaN is not below it either
            raise EngramError(f"{name}: a number does not fit {quantize}", where="--format gguf", fix=FIX)
        writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    writer.close()


def ordered(name: str, values: NDArray[np.float32], settings: Settings) -> NDArray[np.float32]:
    """The tensor with q's and k's rows in the order in which llama.cpp rotates them.

    transformers rotates (rope) each row i of a head with row i + size/2; llama.cpp's llama with its neighbour i + 1.
    """
    heads = {"q_proj": settings.heads, "k_proj": settings.kv_heads}.get(name.split(".")[-2])
    if heads is None or ARCHITECTURES[settings.architecture] != "llama":
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _gguf_name(name: str, settings: Settings) -> str:
    import gguf

    known = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[settings.architecture]]
    names = gguf.get_tensor_name_map(known, settings.blocks)
    return names.get_name(name, try_suffixes=(".weight", ".bias")) or ""


def _bias_is_known(name: str, settings: Settings) -> bool:
    """llama.cpp's qwen2 has biases on q, k and v; the other architectures' biases are not tested here."""
    return settings.architecture == "Qwen2ForCausalLM" and name.split(".")[-2] in ("q_proj", "k_proj", "v_proj")


def _add_settings(writer: Any, settings: Settings, name: str, file_type: int) -> None:
    """Give the writer the model's shape."""
    import gguf

    writer.add_type("model")
    writer.add_name(f"{name} with an adapter of engram")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(settings.blocks)
    writer.add_context_length(settings.context)
    writer.add_embedding_length(settings.hidden)
    writer.add_feed_forward_length(settings.inner)
    writer.add_head_count(settings.heads)
    writer.add_head_count_kv(settings.kv_heads)
    writer.add_key_length(settings.head_size)
    writer.add_value_length(settings.head_size)
    writer.add_rope_dimension_count(settings.head_size)
    writer.add_rope_freq_base(settings.theta)
    writer.add_layer_norm_rms_eps(settings.epsilon)
    writer.add_vocab_size(settings.vocabulary)


def _add_tokenizer(writer: Any, model: Model, encoder: Encoder, vocabulary: int, pre: str) -> None:
    """Give the writer tokens, their types, merges, special tokens and the chat template.

    Ids that the model has and the tokenizer does not are filled with names that no text can have.
    """
    import gguf

    known, tokenizer = _tokenizer_file(model.path), encoder.tokenizer
    words = {number: word for word, number in known["model"]["vocab"].items()}
    added = {token["id"]: token for token in known.get("added_tokens", [])}
    words |= {number: token["content"] for number, token in added.items()}
    size = max(vocabulary, max(words) + 1)
    kinds = []
    for number in range(size):
        kind = gguf.TokenType.NORMAL if number in words else gguf.TokenType.UNUSED
        if number in added:
            kind = gguf.TokenType.CONTROL if added[number]["special"] else gguf.TokenType.USER_DEFINED
        kinds.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in known["model"]["merges"]])
    eos = encoder.end_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    writer.add_eos_token_id(eos)
    writer.add_eot_token_id(encoder.end_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_pad_token_id(encoder.pad_id)
    first = tokenizer.encode("x", add_special_tokens=True)[:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id])
    writer.add_chat_template(tokenizer.chat_template)


# splits differ in contractions, numbers, blanks, line ends, scripts, marks, symbols
HARD_CASES = (
    *("it's", "IT'S", "we'll we've we're I'm he'd don't", "o'reilly", "'static' x'static'", "rock'n'roll d'accord"),
    *("7", "42", "1234567", "3.14159", "a1b2c3", " 42", "  42", "x  1", "1  2", "20 %", "$1,234.56", "0x1F", "１２３", "½"),
    *(" a", "  a", "   a", "a ", "a  ", "a   b", "\ta", "\t\ta", " \t a", "a\u00a0b", "a\u3000b", " ", "    "),
    *("a\nb", "a\n\nb", "a\n\n\nb", "a \n b", "a\n  b", "a\n    b\n", "\n", "\n\n", "a\r\nb", "a:\n\nb", "a\n \nb"),
    *("def f(x):\n    return x[0] + 1\n", "for i in range(10):\n\tprint(i)", "x += 1; y -= 2", "a->b::c", "!= <= >= =="),
    *("snake_case camelCase PascalCase SCREAMING_CASE", "/usr/local/bin:$PATH", "user@example.com", "(((a)))", "....!?"),
    *("café naïve", "cafe\u0301", "Straße", "Привет, мир", "Ελληνικά", "שלום", "مرحبا", "नमस्ते", "สวัสดี", "日本語の文", "漢字1字", "한국어"),
    *("😀", "👍🏽 ok", "👩‍👩‍👧", "❤️", "—“”…", "→∑≠", "\u200bx", "\ufeffx", "a\u0000b", "<|im_start|>user\nhi<|im_end|>", "<|im_end"),
)  # fmt: skip


class Found(NamedTuple):
    """The nearest candidate, how many hard cases there are, and those that it splits otherwise."""

    name: str
    texts: int
    differing: tuple[str, ...]


def identify(folder: Path, prompts: Sequence[str]) -> Found:
    """The candidate that gives the same ids as the tokenizer in `folder` for every prompt and the most hard cases.

    A GGUF file names the way to split text before BPE, it cannot hold it: so each candidate is put into the model's own
    tokenizer, and the ids are compared. Of equal candidates the first. Raises EngramError if none agrees on every
    prompt and on nine in ten of the hard cases.
    """
    from tokenizers import Tokenizer

    own = _tokenizer_file(folder)
    right = Tokenizer.from_str(json.dumps(own))
    wanted = {text: _ids(right, text) for text in (*prompts, *HARD_CASES)}
    best: Found | None = None
    for name in CANDIDATES:
        other = Tokenizer.from_str(json.dumps(_with(own, name)))
        if any(_ids(other, text) != wanted[text] for text in prompts):
            continue
        differing = tuple(text for text in HARD_CASES if _ids(other, text) != wanted[text])
        if best is None or len(differing) < len(best.differing):
            best = Found(name, len(HARD_CASES), differing)
    if best is None or len(best.differing) > len(HARD_CASES) // 10:
        raise EngramError(
            f"pre-tokenizer: none of those known here ({', '.join(CANDIDATES)}) splits text as this model does",
            where="--format gguf",
            fix=FIX,
        )
    return best


def _with(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(own))
    changed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": list(CANDIDATES[name])}
    changed["normalizer"] = None  # llama.cpp has none
    changed["model"]["ignore_merges"] = name == WHOLE_WORDS
    return changed


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
