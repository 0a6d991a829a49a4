"""Converts SmolLM2 from GGUF to Hugging Face's layout: weights, configuration, tokenizer, chat template.

Used by `source.py` only, once per machine; takes 5 to 7 s for 135 million parameters. The pure-Python package `gguf`
reads the file. transformers can read it too, but takes 21 s and tokenizes digits wrongly (measured).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from server.errors import BadRequest

END_OF_TURN = "<|im_end|>"
_CONTROL_TOKEN = 3
"""GGUF's type of special tokens."""
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(gguf: Path, directory: Path) -> None:
    """Write a model directory in bfloat16.

    Raises:
        BadRequest: the file holds another architecture.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    facts: dict[str, Any] = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    if facts["general.architecture"] != "llama" or facts.get("tokenizer.ggml.pre") != "smollm":
        raise BadRequest(f"{gguf} is not a SmolLM2 file", code="bad_model")
    directory.mkdir(parents=True, exist_ok=True)
    names = _write_weights(reader, facts, directory / "model.safetensors")
    _write_json(directory / "config.json", _config(facts, tied="lm_head.weight" not in names))
    ends = {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }
    _write_json(directory / "generation_config.json", ends)
    _write_json(directory / "tokenizer.json", _tokenizer(facts))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(facts))


def _write_weights(reader: Any, facts: dict[str, Any], path: Path) -> set[str]:
    """Dequantize every tensor and write it in bfloat16; return the names."""
    import numpy as np
    from gguf.quants import dequantize

    heads, kv_heads = facts["llama.attention.head_count"], facts["llama.attention.head_count_kv"]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            values = _unpermute(values, heads if ".attn_q." in tensor.name else kv_heads)
        blob = _bfloat16(values)
        header[_name(tensor.name)] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for blob in blobs:
            file.write(blob)
    return set(header)


def _unpermute(values: Any, heads: int) -> Any:
    """Undo llama.cpp's interleaving of each head's rotary halves."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _bfloat16(values: Any) -> bytes:
    """Round float32 to the nearest bfloat16, ties to even."""
    import numpy as np

    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    raw: bytes = rounded.astype("<u2").tobytes()
    return raw


def _name(name: str) -> str:
    """Return Hugging Face's name of a tensor."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.weight"
    return f"{_OUTER[parts[0]]}.weight"


def _config(facts: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads, hidden = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    theta = facts["llama.rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "torch_dtype": "bfloat16",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]), "hidden_size": hidden, "head_dim": hidden // heads,
        "intermediate_size": facts["llama.feed_forward_length"], "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads, "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "max_position_embeddings": facts["llama.context_length"], "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        # The file holds the round number's nearest float32.
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"], "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }  # fmt: skip


def _tokenizer(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of tokenizer.json: byte-level BPE that splits digits first."""
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [
        {"id": i, "content": token, "special": True, "normalized": False, "single_word": False, "lstrip": False,
         "rstrip": False}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL_TOKEN
    ]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]]},
    }  # fmt: skip


def _tokenizer_config(facts: dict[str, Any]) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": facts["llama.context_length"],
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]], "eos_token": END_OF_TURN,
        "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
        "additional_special_tokens": ["<|im_start|>", END_OF_TURN], "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "chat_template": facts["tokenizer.chat_template"],
    }  # fmt: skip


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
