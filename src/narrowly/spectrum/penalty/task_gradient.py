"""Measure the norm of the task gradient: what the loss adds to `.grad` on a penalty's seed, before clipping.

Clipping happens between the last backward and whatever a trainer lets us see, so the norm is taken while gradients
are accumulated: after each backward a hook compares a factor's gradient with the seed; the last micro-batch's stands.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from narrowly.spectrum.pairs import LoraPair


class TaskGradient:
    """Watch the gradients of live factors as long as it lives itself.

    It keeps a copy of each seed: memory of one more gradient.

    Args:
        pairs: whose factors are watched, as far as they require a gradient.
    """

    def __init__(self, pairs: Sequence[LoraPair]) -> None:
        every = [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]
        self._factors = list({id(factor): factor for factor in every if factor.requires_grad}.values())
        device = every[0].device
        self._squares = [torch.zeros((), device=factor.device) for factor in self._factors]
        self._seeds: list[Tensor | None] = [None] * len(self._factors)
        self._loaded: Tensor | None = torch.zeros((), device=device)
        self._device, self._scale = device, 1.0
        owner = weakref.ref(self)
        handles = [
            factor.register_post_accumulate_grad_hook(_hook(owner, index))  # type: ignore[no-untyped-call]  # torch's
            for index, factor in enumerate(self._factors)
        ]
        weakref.finalize(self, remove_all, handles)

    def compare(self, index: int, factor: Tensor) -> None:
        """Take what a backward pass has just added to the gradient of one factor."""
        if self._loaded is None and factor.grad is not None:
            seed = self._seeds[index]
            gradient = factor.grad.detach().float()
            task = gradient if seed is None else gradient - seed
            self._squares[index].copy_(task.square().sum())

    def measure(self) -> None:
        """Take what is in the gradients of all factors now."""
        for index, factor in enumerate(self._factors):
            self.compare(index, factor)

    def watch(self, scale: float) -> None:
        """Take the present gradients for the seeds of the step that begins now, its loss scaled by `scale`."""
        self._scale, self._loaded = scale, None
        for index, factor in enumerate(self._factors):
            self._squares[index].zero_()
            self._seeds[index] = None if factor.grad is None else factor.grad.detach().float().clone()

    def norm(self) -> Tensor:
        """Return the norm over all factors, of the step that was watched last; 0 before the first."""
        if self._loaded is not None:
            return self._loaded
        return torch.stack([square.to(self._device) for square in self._squares]).sum().sqrt() / self._scale

    def load(self, norm: float) -> None:
        """Set the norm that a resumed run goes on from."""
        self._loaded = torch.full((), norm, device=self._device)


def remove_all(handles: Sequence[Any]) -> None:
    """Take hooks off what they were put on."""
    for handle in handles:
        handle.remove()


def _hook(owner: weakref.ref[TaskGradient], index: int) -> Callable[[Tensor], None]:
    def compare(factor: Tensor) -> None:
        watcher = owner()  # a hook that held it would keep it, and its copies, as long as the model
        if watcher is not None:
            watcher.compare(index, factor)

    return compare
