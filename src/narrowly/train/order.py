"""Which rows a step sees: a pure function of (seed, number of rows, step). Nothing else decides it.

Because the order depends on neither the optimiser nor how far a run has come, all arms of one base and seed
see the same rows in the same order, and a resumed run continues exactly where the killed one stopped.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from narrowly.data.rows import Row, collate, collate_packed
from narrowly.records.streams import stream_seed

if TYPE_CHECKING:
    from torch import Tensor


def row_order(rows: int, count: int, seed: int) -> list[int]:
    """Return `count` row indices: permutations of all rows, one after the other, each shuffled anew.

    Args:
        rows: number of rows, at least 1.
        count: how many indices are needed; the last permutation is cut.
        seed: the run seed.
    """
    order: list[int] = []
    epoch = 0
    while len(order) < count:
        indices = list(range(rows))
        # random.Random keeps its streams over Python versions, torch.randperm makes no such promise
        random.Random(stream_seed(seed, f"order/{epoch}")).shuffle(indices)
        order.extend(indices)
        epoch += 1
    return order[:count]


BUCKET_STEPS = 50
"""Optimiser steps whose rows are sorted by length together: transformers' own grouping by length takes 50 batches."""


def bucketed_order(order: Sequence[int], lengths: Sequence[int], per_step: int, seed: int) -> list[int]:
    """Return the order with the rows of every `BUCKET_STEPS` steps regrouped by length, and these steps shuffled.

    The same rows come in each of these stretches, only with others of their length; which is drawn from the seed alone.

    Args:
        order: row indices, as `row_order` gives them.
        lengths: tokens of each row.
        per_step: rows of an optimiser step.
        seed: the run seed.
    """
    result: list[int] = []
    for stretch, start in enumerate(range(0, len(order), BUCKET_STEPS * per_step)):
        by_length = sorted(order[start : start + BUCKET_STEPS * per_step], key=lambda row: lengths[row])
        steps = [by_length[begin : begin + per_step] for begin in range(0, len(by_length), per_step)]
        random.Random(stream_seed(seed, f"buckets/{stretch}")).shuffle(steps)
        result += [row for step in steps for row in step]
    return result


def cut(begin: int, end: int, parts: int) -> list[tuple[int, int]]:
    """Cut `begin` ... `end` into consecutive parts as equal as they can be; return where each begins and ends."""
    ends = [begin + (end - begin) * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(ends))


class MicroBatches(Sequence["dict[str, Tensor]"]):
    """The micro-batches of the steps still to do that this process computes, collated when they are asked for.

    Attributes:
        rows: all rows of the run.
        order: their indices, step by step.
        per_step: rows per optimiser step.
        places: where in the rows of a step each of its micro-batches begins and ends.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        order: Sequence[int],
        per_step: int,
        places: Sequence[tuple[int, int]],
        put: _Collate,
        pad_id: int,
    ) -> None:
        self.rows, self.order, self.per_step, self.places = rows, order, per_step, places
        self._put, self._pad_id = put, pad_id

    def __len__(self) -> int:
        return len(self.order) // self.per_step * len(self.places)

    def __getitem__(self, index: Any) -> Any:
        """Return one micro-batch, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        step, place = divmod(range(len(self))[index], len(self.places))
        begin, end = self.places[place]
        return self._put([self.rows[row] for row in self.rows_of_step(step)[begin:end]], self._pad_id)

    def rows_of_step(self, step: int) -> list[int]:
        """Return the indices of the rows of a step, of all processes, counted from 0 at the first step still to do."""
        return list(self.order[step * self.per_step : (step + 1) * self.per_step])

    def supervised_of_step(self, step: int) -> int:
        """Return the number of tokens that carry a loss in the rows of a step, of all processes."""
        return sum(self.rows[row].supervised for row in self.rows_of_step(step))


_Collate = Callable[[Sequence[Row], int], "dict[str, Tensor]"]


def micro_batches(
    rows: Sequence[Row],
    *,
    seed: int,
    steps: int,
    first_step: int,
    batch_size: int,
    accumulation: int,
    pad_id: int,
    bucketed: bool = False,
    packing: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> MicroBatches:
    """Return the micro-batches of optimiser steps `first_step` ... `steps` - 1, in order.

    They stand in for a data loader and draw no random numbers. Batch b x accumulation a covers the same rows per step
    as batch a * b. Of several processes each gets its share of every step's rows (shares differ by one row at most),
    in as few micro-batches of at most `batch_size` rows as will do.

    Args:
        rows: all rows of the run.
        seed: the run seed.
        steps: optimiser steps of the whole run.
        first_step: steps that are done.
        batch_size: rows per micro-batch.
        accumulation: micro-batches per optimiser step, if one process does them all.
        pad_id: token to pad with.
        bucketed: rows of similar length in each step.
        packing: a micro-batch is one sequence.
        rank: of this process, 0 ... `processes` - 1.
        processes: at most the rows of a step, so that each has something to do.
    """
    per_step = accumulation * batch_size
    order = row_order(len(rows), steps * per_step, seed)
    if bucketed:
        order = bucketed_order(order, [len(row.input_ids) for row in rows], per_step, seed)
    begin, end = cut(0, per_step, processes)[rank]
    places = cut(begin, end, -(-(end - begin) // batch_size))
    put = collate_packed if packing else collate
    return MicroBatches(rows, order[first_step * per_step :], per_step, places, put, pad_id)
