"""Make the micro-batches of an objective from the rows of each step, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from narrowly.train.objectives.protocol import Batch
from narrowly.train.order import MicroBatches

Make = Callable[[int, Sequence[int], int], Batch]
"""Called with a step, counted from 0 at the first one still to do, the indices of the micro-batch's rows, and the place
of the first of them in the step."""


class Made(Sequence[Batch]):
    """The micro-batches of the steps still to do that this process computes, each made by a function.

    Args:
        order: says which rows they have.
        make: makes one.
    """

    def __init__(self, order: MicroBatches, make: Make) -> None:
        self._order, self._make = order, make

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        """Return one micro-batch, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        step, place = divmod(range(len(self))[index], len(self._order.places))
        begin, end = self._order.places[place]
        return self._make(step, self._order.rows_of_step(step)[begin:end], begin)
