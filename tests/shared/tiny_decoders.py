"""Tiny decoders of several families of Transformers, with random weights, and texts to read with them."""

from __future__ import annotations

import random
from typing import Any

import torch

from narrowly.records.likelihood import ScoredText

FAMILIES = ("qwen3", "llama", "gpt2", "gemma2", "gpt_neox", "opt")
HIDDEN, BLOCKS, WORDS = 16, 3, 40


def tiny_decoder(family: str = "qwen3", seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Return a causal language model of three blocks, in eval mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": WORDS, "hidden_size": HIDDEN, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 24, "max_position_embeddings": 32,
        "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
    }  # fmt: skip
    if family == "gpt2":
        sizes = {"vocab_size": WORDS, "n_embd": HIDDEN, "n_layer": BLOCKS, "n_head": 4, "n_positions": 32}
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1}
    elif family == "opt":
        sizes |= {"ffn_dim": 24, "word_embed_proj_dim": HIDDEN, "dropout": 0.0, "bos_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.3)
    return model.to(dtype).eval()


def tiny_texts(count: int = 12, seed: int = 0) -> list[ScoredText]:
    """Return texts of 2 to 6 tokens of prompt and 2 to 5 of answer, the last of which closes the turn."""
    draw = random.Random(seed)
    return [
        ScoredText(
            tuple(draw.randrange(2, WORDS) for _ in range(2 + row % 5)),
            (*(draw.randrange(2, WORDS) for _ in range(1 + row % 4)), 1),
            1,
        )
        for row in range(count)
    ]
