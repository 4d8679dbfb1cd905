"""Ask the organism that a run began with: the trained factors as they were before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Reference:
    """Hold the trained parameters of a model as they are now, and put them in place of the live ones for a while.

    Args:
        model: at its start, before a state to resume from is put into it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pairs = [(one, one.detach().clone()) for one in model.parameters() if one.requires_grad]

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Let the model be the reference meanwhile, without gradients; it must not be trained inside."""
        import torch

        live = [parameter.data for parameter, _ in self._pairs]
        try:
            for parameter, kept in self._pairs:
                parameter.data = kept.to(parameter.device)
            with torch.no_grad():
                yield
        finally:
            for (parameter, _), data in zip(self._pairs, live, strict=True):
                parameter.data = data


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Switch the adapter off for a while; what is trainable stays so, which PEFT would set anew."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, required in trainable:
            parameter.requires_grad_(required)
