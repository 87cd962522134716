"""The merged model as one GGUF file for llama.cpp: its settings, tensors, tokenizer and pre-tokenizer.

Matrices are f16 or q8_0, vectors f32. A model that llama.cpp cannot hold exactly is refused with every reason.
"""

from __future__ import annotations

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
ARCHITECTURES: Mapping[str, str] = {f"{name}ForCausalLM": name.lower() for name in ("Llama", "Qwen2", "Qwen3")}
# settings that change the computation, and the one value that llama.cpp's architecture computes
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "use_sliding_window": False, "mlp_bias": False}
# texts that pre-tokenizers split differently: contractions, numbers, blanks, line ends, scripts, marks, symbols
HARD_CASES: tuple[str, ...] = (*json.loads(Path(__file__).with_name("hard_cases.json").read_text("utf-8")),)
NORMALIZERS = (None, "NFC")  # llama.cpp normalises nothing; typed text is NFC already


def check(model: Model, lora: Lora, quantize: str) -> dict[str, Entry]:
    """The model's tensors; raises EngramError with everything that a GGUF file could not hold."""
    found, known = fuse.check(model, lora), model.config
    problems = _problems(known) + _tokenizer_problems(model)
    if _architecture(known) in ARCHITECTURES:
        if unknown := [name for name in found if not _gguf_name(name, known)]:
            problems.append(f"tensors: no name in llama.cpp for {listed(unknown)}")
        # llama.cpp's qwen2 has biases on q, k and v; the other architectures' biases are not tested here
        read = ("q_proj", "k_proj", "v_proj") if _architecture(known) == "Qwen2ForCausalLM" else ()
        if biases := [name for name in found if name.endswith(".bias") and name.split(".")[-2] not in read]:
            problems.append(f"biases: {listed(biases)}")
    odd = [name for name, entry in found.items() if len(entry.shape) == 2 and entry.shape[1] % ROW]
    if quantize == "q8_0" and odd:
        problems.append(f"q8_0: rows that are no multiple of {ROW} numbers long: {listed(odd)}")
    if problems:
        raise EngramError(f"a GGUF file cannot hold {model.name}", where="--format gguf", problems=problems, fix=FIX)
    return found


def _problems(known: Mapping[str, Any]) -> list[str]:
    """Every reason why a GGUF file cannot hold a model of this configuration."""
    if (named := _architecture(known)) not in ARCHITECTURES:
        return [f"architecture: {named} (written are {', '.join(ARCHITECTURES)})"]
    kind = _rope(known).get("rope_type") or _rope(known).get("type") or "default"
    scaled = [f"rope scaling: {kind} (written is the default alone)"] if kind != "default" else []
    other = [key for key, only in ONLY.items() if known.get(key, only) != only]
    return scaled + [f"{key}: {known[key]!r} (written is {ONLY[key]!r})" for key in other]


def _architecture(known: Mapping[str, Any]) -> str:
    return str((known.get("architectures") or ["not named"])[0])


def _rope(known: Mapping[str, Any]) -> dict[str, Any]:
    return {**(known.get("rope_parameters") or {}), **(known.get("rope_scaling") or {})}


def _kv_heads(known: Mapping[str, Any]) -> int:
    return int(known.get("num_key_value_heads") or known["num_attention_heads"])


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

    `pre` is llama.cpp's name of the pre-tokenizer. Raises EngramError as `check` does, and for a number beyond f16.
    """
    import gguf
    import numpy as np

    known, found = model.config, check(model, lora, quantize)
    file_type = gguf.LlamaFileType[f"MOSTLY_{quantize.upper()}"]
    matrix = gguf.GGMLQuantizationType[quantize.upper()]
    kinds = {name: matrix if len(entry.shape) > 1 else gguf.GGMLQuantizationType.F32 for name, entry in found.items()}
    writer = gguf.GGUFWriter(path, ARCHITECTURES[_architecture(known)])
    _add_settings(writer, known, model.name, int(file_type))
    _add_tokenizer(writer, model, encoder, known["vocab_size"], pre)
    for name, entry in found.items():
        block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        length = math.prod(entry.shape) // block * size
        any_dtype = np.dtype(np.float32)  # an argument that the writer does not use, once told the kind
        writer.add_tensor_info(_gguf_name(name, known), entry.shape, any_dtype, length, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, entry in found.items():
        values = ordered(name, fuse.merged(name, entry, lora), known)
        if not abs(values).max(initial=0.0) <= F16_LIMIT:  # a NaN is not below it either
            raise EngramError(f"{name}: a number does not fit {quantize}", where="--format gguf", fix=FIX)
        writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))
    writer.close()


def ordered(name: str, values: NDArray[np.float32], known: Mapping[str, Any]) -> NDArray[np.float32]:
    """The tensor with q's and k's rows in the order in which llama.cpp rotates them.

    transformers rotates (rope) each row i of a head with row i + size/2; llama.cpp's llama with its neighbour i + 1.
    """
    heads = {"q_proj": known["num_attention_heads"], "k_proj": _kv_heads(known)}.get(name.split(".")[-2])
    if heads is None or ARCHITECTURES[_architecture(known)] != "llama":
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _gguf_name(name: str, known: Mapping[str, Any]) -> str:
    import gguf

    kind = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[ARCHITECTURES[_architecture(known)]]
    names = gguf.get_tensor_name_map(kind, known["num_hidden_layers"])
    return names.get_name(name, try_suffixes=(".weight", ".bias")) or ""


def _add_settings(writer: Any, known: Mapping[str, Any], name: str, file_type: int) -> None:
    """Give the writer the model's shape."""
    import gguf

    writer.add_type("model")
    writer.add_name(f"{name} with an adapter of engram")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(known["num_hidden_layers"])
    writer.add_context_length(known["max_position_embeddings"])
    writer.add_embedding_length(known["hidden_size"])
    writer.add_feed_forward_length(known["intermediate_size"])
    writer.add_head_count(known["num_attention_heads"])
    writer.add_head_count_kv(_kv_heads(known))
    head_size = known.get("head_dim") or known["hidden_size"] // known["num_attention_heads"]
    for add in (writer.add_key_length, writer.add_value_length, writer.add_rope_dimension_count):
        add(head_size)
    writer.add_rope_freq_base(_rope(known).get("rope_theta") or known.get("rope_theta") or 10000.0)
    writer.add_layer_norm_rms_eps(known["rms_norm_eps"])
    writer.add_vocab_size(known["vocab_size"])


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
    kinds = [gguf.TokenType.NORMAL if number in words else gguf.TokenType.UNUSED for number in range(size)]
    for number, token in added.items():
        kinds[number] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in known["model"]["merges"]])
    writer.add_eos_token_id(encoder.end_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
    writer.add_eot_token_id(encoder.end_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_pad_token_id(encoder.pad_id)
    first = tokenizer.encode("x", add_special_tokens=True)[:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id])
    writer.add_chat_template(tokenizer.chat_template)


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
        what = f"pre-tokenizer: none of those known here ({', '.join(CANDIDATES)}) splits text as this model does"
        raise EngramError(what, where="--format gguf", fix=FIX)
    return best


def _with(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    split = {"type": "Sequence", "pretokenizers": list(CANDIDATES[name])}
    model = {**own["model"], "ignore_merges": name == WHOLE_WORDS}
    return {**own, "pre_tokenizer": split, "normalizer": None, "model": model}  # llama.cpp normalises nothing


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
