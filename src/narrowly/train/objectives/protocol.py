"""Define what a run asks of its objective: the rows of each step, and the loss of a micro-batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = dict[str, Any]
"""Tensors of a micro-batch by name, rows first; it is cut into rows where memory does not suffice."""


class Objective(Protocol):
    """Give a run its micro-batches and their loss; steps are counted from 0 at the first one still to do.

    The trainer knows no more of what is minimised. A step's loss is a sum over its micro-batches and processes, each
    divided by the same `items` of the whole step, so that accumulation and several processes change nothing.
    """

    @property
    def micro_batches(self) -> Sequence[Batch]:
        """Return those of this process, of all steps still to do, in order.

        Each is asked for right before its step, so that one may be made from the model as it is then.
        """

    @property
    def per_step(self) -> int:
        """Return the number of micro-batches of this process in a step."""

    def rows_of_step(self, step: int) -> list[int]:
        """Return the indices of the rows of a step, of all processes."""

    def tokens_of_step(self, step: int) -> int:
        """Return the number of tokens that all processes read in a step, padding left out."""

    def items_of_step(self, step: int) -> int:
        """Return what the loss of a step is divided by: its supervised tokens, or its pairs."""

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch, or the part of one that memory suffices for, as `loss` takes it; still on the CPU."""

    def loss(self, model: nn.Module, batch: Batch, items: Tensor | int) -> Tensor:
        """Return the loss of a prepared batch on the model's device: its sum, divided by `items`; 0-dim."""
