"""Evaluate a closure before a step, as torch's optimisers do; the base class of the optimisers of this room."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import overload

import torch


class ClosureOptimizer(torch.optim.Optimizer):
    """Base of optimisers whose step needs no more of a closure than one evaluation; a subclass gives `move`."""

    @abstractmethod
    def move(self) -> None:
        """Move every parameter that has a gradient; called without recording gradients."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Evaluate the closure once, if one is given, take one step, and return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.move()
        return loss
