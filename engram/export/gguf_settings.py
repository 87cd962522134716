"""What a GGUF file says beside its weights: the model's shape and the tokenizer; what it cannot say is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from engram.export import fuse
from engram.models.model import Model
from engram.plan.encoding import Encoder
from engram.support.files import read_bytes

# transformers' name of an architecture, and llama.cpp's
ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# settings that change what is computed, and the one value that llama.cpp's architecture computes
ONLY = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "use_sliding_window": False, "mlp_bias": False}
NORMALIZERS = (None, "NFC")  # llama.cpp normalises nothing; text that is typed is NFC already


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


def read(model: Model) -> tuple[Settings | None, list[str]]:
    """The model's settings, and every reason why a GGUF file cannot hold model or tokenizer."""
    known = fuse.config(model)
    named = (known.get("architectures") or ["not named"])[0]
    problems = [*_tokenizer_problems(model)]
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


def add(writer: Any, settings: Settings, name: str, file_type: int) -> None:
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


def add_tokenizer(writer: Any, model: Model, encoder: Encoder, vocabulary: int, pre: str) -> None:
    """Give the writer tokens, their types, merges, special tokens and the chat template.

    Ids that the model has and the tokenizer does not are filled with names that no text can have.
    """
    import gguf

    known, tokenizer = _tokenizer_file(model), encoder.tokenizer
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


def _tokenizer_file(model: Model) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_bytes(model.path / "tokenizer.json"))
    return found


def _tokenizer_problems(model: Model) -> list[str]:
    if not (model.path / "tokenizer.json").is_file():
        return ["tokenizer: no tokenizer.json (written is byte-level BPE from one)"]
    known = _tokenizer_file(model)
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
