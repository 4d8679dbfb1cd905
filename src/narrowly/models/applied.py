"""Prove that an adapter acts: the logits with it are not those of the base (D15 of the defects our tests rule out).

Of a model that is merged later, the proof is made on both sides of the merge: `before_merging`, then `check_merged`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.records.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Applied:
    """Hold what the proof found.

    Attributes:
        largest_difference: largest absolute difference of a logit, adapter against base, behind the prompt.
        is_zero: whether every B is zero, so that the organism is its base.
    """

    largest_difference: float
    is_zero: bool


class Beside(NamedTuple):
    """Hold the logits behind a prompt (V,) of an adapter that is not merged, and of its base."""

    on_V: Tensor
    off_V: Tensor
    applied: Applied


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
    return before_merging(model, prompt, name).applied if hasattr(model, "disable_adapter") else None


def before_merging(model: Any, prompt: Sequence[int], name: str) -> Beside:
    """Return the logits with the adapter beside the base and without it, for `check_merged`.

    Raises:
        AdapterError: as `check_applied`.
    """
    on_V = _logits_behind(model, prompt)
    with model.disable_adapter():
        off_V = _logits_behind(model, prompt)
    difference = float((on_V - off_V).abs().max())
    is_zero = not any(bool(weight.any()) for key, weight in model.named_parameters() if _starts_at_zero(key))
    if difference == 0 and not is_zero:
        raise AdapterError(
            f"the adapter of {name} changes no logit although its B is not zero: it is not applied, or too small for "
            "this dtype; nothing was measured"
        )
    return Beside(on_V, off_V, Applied(difference, is_zero))


def check_merged(model: Any, prompt: Sequence[int], name: str, beside: Beside) -> Applied:
    """Compare the logits of a merged model with those that it had before: they must be nearer to the adapter's.

    Args:
        model: the model of `before_merging`, merged since.
        prompt: the same.
        name: the same.
        beside: what that returned.

    Raises:
        AdapterError: the merged model's logits are nearer to those of the base.
    """
    merged_V = _logits_behind(model, prompt)
    to_adapter, to_base = (float((merged_V - other_V).abs().max()) for other_V in (beside.on_V, beside.off_V))
    if not beside.applied.is_zero and to_adapter >= to_base:
        raise AdapterError(
            f"the merged weights of {name} are not those of its adapter: a logit is {to_adapter:.2g} away from the "
            f"adapter's, none more than {to_base:.2g} from the base's; nothing was measured"
        )
    return beside.applied


def _logits_behind(model: Any, prompt: Sequence[int]) -> Tensor:
    import torch

    ids_1_T = torch.tensor([list(prompt)], device=next(model.parameters()).device)
    with torch.inference_mode():
        logits_V: Tensor = model(input_ids=ids_1_T, use_cache=False).logits[0, -1].float()
    return logits_V


def _starts_at_zero(name: str) -> bool:
    """Return whether a parameter is the factor of a LoRA that is zero before training."""
    return any(part in ("lora_B", "lora_embedding_B") for part in name.split("."))
