"""Pure functions of the step and of the seed: learning-rate factor, row order, random streams."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from narrowly.records.run_spec import ScheduleSpec
from narrowly.records.streams import stream_seed
from narrowly.train.order import micro_batches, row_order
from narrowly.train.schedule import build_scheduler, lr_factor
from tiny_base import make_rows

GOLDEN = {
    "constant": [0, 0.5, 1, 1, 1, 1, 1, 1],
    "linear": [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    "cosine": [0, 0.5, 1, 0.9330127018922194, 0.75, 0.5, 0.25, 0.0669872981077807],
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_the_factor_of_every_step_is_the_golden_one(kind: str) -> None:
    schedule = ScheduleSpec(kind=kind, warmup_steps=2)  # type: ignore[arg-type]
    assert [lr_factor(schedule, step, 8) for step in range(8)] == pytest.approx(GOLDEN[kind], abs=1e-12)


@pytest.mark.parametrize("kind", GOLDEN)
def test_without_warm_up_the_first_step_has_the_full_lr(kind: str) -> None:
    assert lr_factor(ScheduleSpec(kind=kind, warmup_steps=0), 0, 5) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "theirs"), [("constant", "constant_with_warmup"), ("linear", "linear"), ("cosine", "cosine")]
)
@pytest.mark.parametrize(("warmup", "steps"), [(0, 7), (5, 80), (6, 7)])
def test_the_scheduler_equals_that_of_transformers(kind: str, theirs: str, warmup: int, steps: int) -> None:
    def rates(scheduler: torch.optim.lr_scheduler.LRScheduler) -> list[float]:
        found = []
        for _ in range(steps):
            found.append(scheduler.get_last_lr()[0])
            scheduler.optimizer.step()
            scheduler.step()
        return found

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)

    ours = build_scheduler(ScheduleSpec(kind=kind, warmup_steps=warmup), optimizer(), steps)  # type: ignore[arg-type]
    expected = get_scheduler(theirs, optimizer(), num_warmup_steps=warmup, num_training_steps=steps)
    assert rates(ours) == pytest.approx(rates(expected), abs=1e-12)


@given(st.integers(1, 50), st.integers(1, 300), st.integers(0, 2**40))
def test_the_order_is_one_permutation_after_the_other(rows: int, count: int, seed: int) -> None:
    order = row_order(rows, count, seed)
    assert len(order) == count
    for start in range(0, count, rows):
        part = order[start : start + rows]
        assert len(set(part)) == len(part)
        assert len(part) < rows or sorted(part) == list(range(rows))
    assert max(Counter(order).values()) - (min(Counter(order).values()) if count >= rows else 0) <= 1
    assert row_order(rows, count + 7, seed)[:count] == order  # a longer run begins like a shorter one


def test_the_order_depends_on_the_seed_and_is_shuffled_anew_in_every_epoch() -> None:
    first = row_order(40, 80, 0)
    assert first != row_order(40, 80, 1)
    assert first[:40] != first[40:]
    assert row_order(6, 12, 0) == [5, 3, 2, 4, 0, 1, 4, 1, 5, 2, 0, 3]  # golden: the same on every machine


def test_random_streams_have_nothing_in_common() -> None:
    seeds = {stream_seed(seed, stream) for seed in range(50) for stream in ("lora", "order/0", "dropout/0")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_resumed_run_gets_the_micro_batches_that_are_left() -> None:
    rows = make_rows(10)
    settings = {"seed": 3, "steps": 5, "batch_size": 2, "accumulation": 3, "pad_id": 0}
    whole = micro_batches(rows, first_step=0, **settings)
    rest = micro_batches(rows, first_step=3, **settings)
    assert len(whole) == 15
    assert len(rest) == 6
    for left, right in zip(whole[9:], rest, strict=True):
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_accumulation_splits_the_same_rows_of_a_step() -> None:
    rows = make_rows(10)
    whole = micro_batches(rows, seed=0, steps=3, first_step=0, batch_size=4, accumulation=1, pad_id=0)
    parts = micro_batches(rows, seed=0, steps=3, first_step=0, batch_size=2, accumulation=2, pad_id=0)
    for step, batch in enumerate(whole):
        split = [row[row != 0].tolist() for part in parts[2 * step : 2 * step + 2] for row in part["input_ids"]]
        assert split == [row[row != 0].tolist() for row in batch["input_ids"]]
