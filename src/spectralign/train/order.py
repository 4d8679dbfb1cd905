"""Which rows a step sees: a pure function of (seed, number of rows, step). Nothing else decides it.

Because the order depends on neither the optimiser nor how far a run has come, all arms of one base and seed
see the same rows in the same order, and a resumed run continues exactly where the killed one stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spectralign.data.rows import Row, collate

if TYPE_CHECKING:
    from torch import Tensor


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed for one named stream of random numbers of a run, 0 ... 2^63 - 1.

    Streams (LoRA init, row order, dropout of step n) are independent of each other, so that drawing more from
    one moves no other.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]) >> 1


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


def micro_batches(
    rows: Sequence[Row],
    *,
    seed: int,
    steps: int,
    first_step: int,
    batch_size: int,
    accumulation: int,
    pad_id: int,
) -> list[dict[str, Tensor]]:
    """Return the collated micro-batches of optimiser steps `first_step` ... `steps` - 1, in order.

    They are collated beforehand because tokens are tiny beside a model; the list stands in for a data loader
    and draws no random numbers. Batch b x accumulation a covers the same rows per step as batch a * b.
    """
    order = row_order(len(rows), steps * accumulation * batch_size, seed)
    starts = range(first_step * accumulation * batch_size, len(order), batch_size)
    return [collate([rows[index] for index in order[start : start + batch_size]], pad_id) for start in starts]
