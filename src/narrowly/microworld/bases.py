"""Find bases, shipped by name or one's own by folder, check their sha256 and load them in float32."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from narrowly.microworld.cards import BaseCard, base_folder, load_card, verify_weights
from narrowly.microworld.quiet import no_progress_bars
from narrowly.microworld.world import World


class Base(NamedTuple):
    """A loaded base: float32 model in eval mode, its tokenizer, its world and its card."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    world: World
    card: BaseCard
    folder: Path


def load_base(name_or_path: str, *, verify: bool = True) -> Base:
    """Load a base: weights as stored (bfloat16) in float32, eval mode.

    Args:
        name_or_path: a shipped name or a folder.
        verify: compare the weights' sha256 with the card's first.

    Raises:
        UnknownNameError: no such base.
        IntegrityError: the weights differ from the card.
    """
    folder = base_folder(name_or_path)
    card = verify_weights(name_or_path) if verify else load_card(name_or_path)
    with no_progress_bars():
        model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Base(model, tokenizer, World(card.config, card.world_seed), card, folder)
