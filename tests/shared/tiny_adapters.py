"""A tiny Qwen3 with a trained-looking LoRA adapter, and hostile variants of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def tiny_base() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def tiny_model(**changes: Any) -> PeftModel:
    """Return the base with LoRA on all linear modules, whose B is no longer zero."""
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": TARGETS} | changes
    model = get_peft_model(tiny_base(), LoraConfig(task_type="CAUSAL_LM", **fields)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def saved(folder: Path, **changes: Any) -> Path:
    """Save the adapter of `tiny_model` and return its folder."""
    tiny_model(**changes).save_pretrained(folder)
    return folder


def change_tensors(folder: Path, **changes: Any) -> None:
    """Rewrite the weights: a suffix of keys mapped to None drops them, to a function replaces the first match."""
    tensors = load_file(folder / WEIGHTS)
    for suffix, change in changes.items():
        for key in [key for key in tensors if key.endswith(suffix.replace("__", "."))]:
            tensor = tensors.pop(key)
            if change is not None:
                tensors[key] = change(tensor)
    save_file(tensors, folder / WEIGHTS)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(12)[None]).logits


def gpt2() -> torch.nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_head=2, n_embd=24, vocab_size=32, bos_token_id=0, eos_token_id=0)
    ).eval()


def moe() -> torch.nn.Module:
    config = Qwen3MoeConfig(
        vocab_size=32, hidden_size=24, intermediate_size=40, moe_intermediate_size=16, num_experts=4,
        num_experts_per_tok=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=12,
        decoder_sparse_step=1,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config).eval()


def gpt_oss() -> torch.nn.Module:
    """Return a mixture whose experts are stored as inputs x outputs."""
    config = GptOssConfig(
        vocab_size=32, hidden_size=24, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    return GptOssForCausalLM(config).eval()


def adapted(base: torch.nn.Module, **fields: Any) -> PeftModel:
    """Return a base with an adapter all of whose tensors are random."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8} | fields)
    model = get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model
