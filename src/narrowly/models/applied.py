"""Prove that an adapter acts: the logits with it are not those of the base (D15 of the defects our tests rule out)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from narrowly.records.errors import AdapterError


@dataclass(frozen=True, slots=True)
class Applied:
    """Hold what the proof found.

    Attributes:
        largest_difference: largest absolute difference of a logit, adapter against base, behind the prompt.
        is_zero: whether every B is zero, so that the organism is its base.
    """

    largest_difference: float
    is_zero: bool


def check_applied(model: Any, prompt: Sequence[int], name: str) -> Applied | None:
    """Compare the logits behind a prompt with the adapter and without it; None for a model without an adapter.

    Args:
        model: a live model, its adapter not merged.
        prompt: token ids, at least one.
        name: of the organism, for the message.

    Raises:
        AdapterError: the logits are equal although some B is not zero: the adapter is off, was merged nowhere or has no
            weight in this dtype.
    """
    import torch

    if not hasattr(model, "disable_adapter"):
        return None
    device = next(model.parameters()).device
    ids_1_T = torch.tensor([list(prompt)], device=device)
    with torch.inference_mode():
        on_V = model(input_ids=ids_1_T, use_cache=False).logits[0, -1].float()
        with model.disable_adapter():
            off_V = model(input_ids=ids_1_T, use_cache=False).logits[0, -1].float()
    difference = float((on_V - off_V).abs().max())
    is_zero = not any(bool(weight.any()) for key, weight in model.named_parameters() if _starts_at_zero(key))
    if difference == 0 and not is_zero:
        raise AdapterError(
            f"the adapter of {name} changes no logit although its B is not zero: it is not applied, or too small for "
            "this dtype; nothing was measured"
        )
    return Applied(difference, is_zero)


def _starts_at_zero(name: str) -> bool:
    """Return whether a parameter is the factor of a LoRA that is zero before training."""
    return any(part in ("lora_B", "lora_embedding_B") for part in name.split("."))
