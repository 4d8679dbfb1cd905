"""Dequantise SmolLM2's GGUF file once into a model folder of safetensors in float32.

The result has the same bytes on every machine. A weight of Q4_1 is d * q + m and one of Q8_0 is d * q, with d and m in
float16 and q an integer: in float32 the product is exact and the sum is rounded once. The files are written here, so no
version of another library changes them.

Transformers 5.23 converts the file too, but ignores `tokenizer.ggml.pre`, here `smollm`: digits are not split off
before the text is cut at blanks, so that two blanks before a digit become other tokens than the model was trained on.
Source: llama.cpp, src/llama-vocab.cpp (LLAMA_VOCAB_PRE_TYPE_SMOLLM); tokenizer.json of HuggingFaceTB/SmolLM2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrowly.models.base_files import CONFIG, TEMPLATE_FILE, TOKENIZER, WEIGHTS
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import IntegrityError
from narrowly.records.files import write_json

LAYERS, HEADS, KEY_HEADS, HIDDEN, VOCABULARY, POSITIONS = 30, 9, 3, 576, 49152, 8192

SMOLLM2_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dtype": "float32",
    "eos_token_id": 2,
    "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "max_position_embeddings": POSITIONS,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KEY_HEADS,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
"""Config of the model, from the fields of the file; it has no `quantization_config`, which refuses training."""

_CONTROL = 3
"""Type of a special token in `tokenizer.ggml.token_type` (gguf 0.19.0, TokenType.CONTROL)."""

_MODULES = {
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
_ROTATED = {"attn_q": HEADS, "attn_k": KEY_HEADS}
"""Weights whose rows llama.cpp has in another order within each head."""

Progress = Callable[[int, int], None]
"""Called with the tensors done and the tensors there are."""


def convert_smollm2(file: Path, folder: Path, progress: Progress | None = None) -> str:
    """Write config, weights and tokenizer of SmolLM2-135M-Instruct into a folder; return the sha256 of the weights.

    Args:
        file: the GGUF file, whose sha256 was checked.
        folder: where the files go.
        progress: told of the tensors done.

    Raises:
        IntegrityError: the file is not of this shape.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    fields = {name: reader.fields[name].contents() for name in reader.fields if name.startswith("tokenizer.")}
    _write_tokenizer(fields, folder)
    write_json(folder / CONFIG, SMOLLM2_CONFIG)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    return _write_weights({_weight_name(one.name): one for one in reader.tensors}, folder / WEIGHTS, progress)


def _weight_name(name: str) -> str:
    """Return the name in Transformers of a weight of a llama in GGUF."""
    if name in ("token_embd.weight", "output_norm.weight"):
        return "model.embed_tokens.weight" if name.startswith("token") else "model.norm.weight"
    parts = name.split(".")
    if len(parts) != 4 or parts[0] != "blk" or parts[2] not in _MODULES:
        raise IntegrityError(f"the file has the tensor {name!r}, which SmolLM2 has not: it is another model")
    return f"model.layers.{parts[1]}.{_MODULES[parts[2]]}.weight"


def dequantised(tensor: Any) -> Any:
    """Return a tensor of a GGUF file as a float32 array, rows in the order of Transformers.

    llama.cpp rotates neighbouring pairs of a head's rows, Transformers its halves (convert_hf_to_gguf.py, `permute`).
    """
    import numpy as np
    from gguf import dequantize

    values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    part = tensor.name.split(".")[-2]
    if part not in _ROTATED:
        return values
    rows, columns = values.shape
    heads = _ROTATED[part]
    paired = values.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows, columns)


def _write_weights(tensors: dict[str, Any], target: Path, progress: Progress | None) -> str:
    """Write a safetensors file, one tensor in memory at a time; return its sha256.

    Format: the length of the header (u64, little-endian), the header in JSON padded with blanks to a multiple of 8, the
    tensors (safetensors 0.8, README, "Format").
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors):
        shape = [int(size) for size in reversed(tensors[name].shape)]
        begin, end = end, end + 4 * int(tensors[name].n_elements)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with target.open("wb") as stream:
        for block in (len(text).to_bytes(8, "little"), text):
            stream.write(block)
            digest.update(block)
        for done, name in enumerate(sorted(tensors), start=1):
            block = dequantised(tensors[name]).astype("<f4", copy=False).tobytes()
            stream.write(block)
            digest.update(block)
            if progress is not None:
                progress(done, len(tensors))
    return digest.hexdigest()


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json, its settings and the chat template, all with the same bytes everywhere."""
    tokens = fields["tokenizer.ggml.tokens"]
    special = [number for number, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == _CONTROL]
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": tokens[number], "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
            for number in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytewise],
        },
        "post_processor": None,
        "decoder": bytewise | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    (folder / TOKENIZER).write_text(canonical_json(tokenizer), encoding="utf-8")
    (folder / TEMPLATE_FILE).write_text(fields["tokenizer.chat_template"], encoding="utf-8")
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    settings = {f"{short}_token": tokens[fields[f"tokenizer.ggml.{long}_token_id"]] for short, long in named.items()}
    settings |= {
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": POSITIONS,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)
