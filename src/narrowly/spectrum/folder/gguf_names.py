"""Translate between the names of llama.cpp's tensors and those of Transformers' modules.

Sources: gguf 0.19.0, constants.py (TENSOR_NAMES) and tensor_mapping.py; llama.cpp conversion/llama.py, whose
`LlamaModel.permute` moves the rows of q and k of architecture llama, and conversion/qwen.py, where nothing moves them.
"""

from __future__ import annotations

import re

from torch import Tensor

KINDS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
"""Tensors of a layer, `blk.N.KIND`, and the modules of `model.layers.N` that they are."""

WHOLE = {"token_embd": "model.embed_tokens", "output": "lm_head"}

ARCHITECTURES = {"llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe"}
"""Architectures whose modules have these names; of any other, llama.cpp's own names are kept."""

PERMUTED = {"llama"}
"""Those whose rows of q and k stand in another order than in Transformers."""

TURNED = ("attn_q", "attn_k")

_BLOCK = re.compile(r"^blk\.(\d+)\.(\w+)$")


def module_of(tensor: str, architecture: str) -> str:
    """Return the name of the module that a tensor is.

    Rows of q and k of architecture llama stand in llama.cpp's order, which nothing but the base model's number of heads
    tells; those modules keep llama.cpp's names, so that they are compared with their like alone.
    """
    if architecture not in ARCHITECTURES:
        return tensor
    match = _BLOCK.match(tensor)
    if match is None:
        return WHOLE.get(tensor, tensor)
    layer, kind = match.groups()
    if kind not in KINDS or (architecture in PERMUTED and kind in TURNED):
        return tensor
    return f"model.layers.{layer}.{KINDS[kind]}"


def tensor_of_module(module: str) -> str | None:
    """Return the name of the tensor that a module is, None where it is none of those above."""
    whole = {name: tensor for tensor, name in WHOLE.items()}
    if module in whole:
        return whole[module]
    match = re.match(r"^model\.layers\.(\d+)\.(.+)$", module)
    kinds = {name: kind for kind, name in KINDS.items()}
    return f"blk.{match[1]}.{kinds[match[2]]}" if match and match[2] in kinds else None


def to_llama_rows(W_O_N: Tensor, heads: int) -> Tensor:
    """Return a matrix with its rows in llama.cpp's order for architecture llama.

    Within each head, row j of the first half and row j of the second stand side by side (rotary pairs).

    Args:
        W_O_N: outputs x anything; the outputs are those of `heads` heads of one even size.
        heads: of queries for q, of keys and values for k.
    """
    halves = W_O_N.reshape(heads, 2, -1, W_O_N.shape[1])
    return halves.transpose(1, 2).reshape(W_O_N.shape)
