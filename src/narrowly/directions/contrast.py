"""Build difference-of-means directions from two sides of a contrast, and score rows along those of other groups.

A direction is the mean over groups of (mean of the positive rows minus mean of the negative rows); a group is a domain,
a topic or a pair of instructions. Groups count alike, so that one with more rows on a side shifts nothing. Where both
sides of all groups have equally many rows it is the plain difference of means (persona vectors, arXiv 2507.21509).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from narrowly.directions.activations import Batch
from narrowly.records.errors import SpecError

CHUNK = 256
"""Rows that are scored at a time."""

SMALLEST = 1e-6
"""A difference whose norm is below this share of the states' own norm is none: float32 sums differ by about as much."""


class Side(NamedTuple):
    """Say what a row is in a contrast.

    Attributes:
        group: domain, topic or pair of instructions.
        positive: whether it is on the side of the trait.
    """

    group: str
    positive: bool


class Scores(NamedTuple):
    """Projections of some rows, each along the direction that was made without its own group.

    Attributes:
        rows: places of the rows.
        values_B_L: projection on the unit direction, in units of the states.
    """

    rows: list[int]
    values_B_L: Tensor


class Contrast:
    """Take up the states of both sides batch by batch; sums stay in memory, rows lie in a temporary file.

    Args:
        sides: of all rows, in the order in which their places are counted.
        keep_rows: whether rows are kept for `scores`; directions alone need none.

    Raises:
        SpecError: a side without rows in some group.
    """

    def __init__(self, sides: Sequence[Side], *, keep_rows: bool = True) -> None:
        self.sides = list(sides)
        self.groups = tuple(dict.fromkeys(side.group for side in self.sides))
        if not self.groups:
            raise SpecError("the contrast is empty, accepted: at least one positive and one negative text")
        for group in self.groups:
            for positive in (True, False):
                if Side(group, positive) not in self.sides:
                    side = "positive" if positive else "negative"
                    raise SpecError(f"the contrast is empty in {group}: no {side} text; accepted: at least one a side")
        self._sums: dict[Side, Any] = {}
        self._counts: dict[Side, int] = {}
        self._squares: Any = 0.0
        self._file = tempfile.TemporaryFile() if keep_rows else None  # noqa: SIM115  # closed by `__exit__`
        self._order: list[int] = []
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, batch: Batch) -> None:
        """Take up the states of some rows."""
        states_B_L_H = batch.states_B_L_H.double()
        self._shape = tuple(states_B_L_H.shape[1:])
        self._squares = self._squares + (states_B_L_H**2).sum(dim=(0, 2))
        for side in set(self.sides[row] for row in batch.rows):
            own = [at for at, row in enumerate(batch.rows) if self.sides[row] == side]
            self._sums[side] = self._sums.get(side, 0.0) + states_B_L_H[own].sum(dim=0)
            self._counts[side] = self._counts.get(side, 0) + len(own)
        if self._file is not None:
            self._file.write(batch.states_B_L_H.float().contiguous().numpy().tobytes())
            self._order += batch.rows

    def counts(self, groups: Sequence[str] | None = None) -> dict[bool, int]:
        """Return the number of rows of each side in some groups, by `Side.positive`; in all of them by default."""
        chosen = self.groups if groups is None else groups
        return {positive: sum(self._counts[Side(group, positive)] for group in chosen) for positive in (True, False)}

    def mean(self, side: Side) -> Tensor:
        """Return the mean state of a side of a group, layers x hidden, float64."""
        found: Tensor = self._sums[side] / self._counts[side]
        return found

    def rms(self) -> Tensor:
        """Return the root mean square of an element of the states, one per layer, over both sides."""
        rows = sum(self._counts.values())
        found_L: Tensor = (self._squares / (rows * self._shape[1])).sqrt()
        return found_L

    def direction(self, groups: Sequence[str] | None = None) -> Tensor:
        """Return the direction of some groups, positive minus negative, layers x hidden, float64.

        Args:
            groups: that it is made from; by default all of them.

        Raises:
            SpecError: no groups, or both sides have the same states at every layer.
        """
        chosen = self.groups if groups is None else tuple(groups)
        if not chosen:
            raise SpecError("no group is left to make a direction from, accepted: at least one")
        differences = [self.mean(Side(group, True)) - self.mean(Side(group, False)) for group in chosen]
        direction_L_H = torch.stack(differences).mean(dim=0)
        size_L = self.rms() * self._shape[1] ** 0.5
        if bool((direction_L_H.norm(dim=-1) <= SMALLEST * size_L).all()):
            raise SpecError(
                "the positive and the negative texts have the same states at every layer, so there is no direction; "
                "accepted: texts that differ at or before the position that is read"
            )
        return direction_L_H

    def scores(self, made_from: Sequence[str] | None = None, judged: Sequence[str] | None = None) -> Iterator[Scores]:
        """Yield the projection of rows on the direction that was made without their own group.

        Args:
            made_from: groups that directions are made from; by default all. A row of another group is scored along the
                direction of all of these.
            judged: groups whose rows are scored; by default all.

        Raises:
            SpecError: nothing is left to make a direction from; as `direction`.
        """
        assert self._file is not None, "rows were not kept"
        chosen = self.groups if made_from is None else tuple(made_from)
        units = {}
        for group in self.groups if judged is None else judged:
            direction_L_H = self.direction([one for one in chosen if one != group])
            # where both sides are alike at a layer, as at the embeddings of a common last token, projections are 0
            units[group] = torch.nn.functional.normalize(direction_L_H, dim=-1, eps=1e-300)
        self._file.seek(0)
        size = 4 * math.prod(self._shape)
        for start in range(0, len(self._order), CHUNK):
            rows = self._order[start : start + CHUNK]
            read = bytearray(self._file.read(size * len(rows)))
            states_B_L_H = torch.frombuffer(read, dtype=torch.float32).view(len(rows), *self._shape).double()
            kept = [at for at, row in enumerate(rows) if self.sides[row].group in units]
            if kept:
                units_B_L_H = torch.stack([units[self.sides[rows[at]].group] for at in kept])
                yield Scores([rows[at] for at in kept], (states_B_L_H[kept] * units_B_L_H).sum(dim=-1))
