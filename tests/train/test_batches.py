"""Buckets and packing: which rows come together, and that packed rows are the same rows."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.data.rows import IGNORE, collate, collate_packed
from narrowly.models.base import load_model, open_base
from narrowly.train.order import BUCKET_STEPS, bucketed_order, micro_batches, row_order
from small_chat_base import make_chat_base
from tiny_base import make_rows

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=80)


@settings(deadline=None)
@given(lengths=LENGTHS, per_step=st.integers(1, 9), steps=st.integers(1, 130), seed=st.integers(0, 5))
def test_buckets_hold_the_rows_of_their_stretch_in_steps_of_like_length(lengths, per_step, steps, seed) -> None:
    order = row_order(len(lengths), steps * per_step, seed)
    bucketed = bucketed_order(order, lengths, per_step, seed)
    size = BUCKET_STEPS * per_step
    for start in range(0, len(order), size):
        stretch = bucketed[start : start + size]
        assert Counter(stretch) == Counter(order[start : start + size])
        # put in the order of their lengths, the steps do not overlap: no grouping has less padding
        ranges = sorted(
            (min(lengths[row] for row in step), max(lengths[row] for row in step))
            for step in (stretch[at : at + per_step] for at in range(0, len(stretch), per_step))
        )
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    assert bucketed == bucketed_order(order, lengths, per_step, seed)


def test_buckets_are_shuffled_by_the_seed_and_pad_less() -> None:
    rows = make_rows(120)
    settings = {"steps": 30, "first_step": 0, "batch_size": 4, "accumulation": 1, "pad_id": 0}
    padding = {}
    for bucketed in (False, True):
        batches = micro_batches(rows, seed=0, bucketed=bucketed, **settings)
        padding[bucketed] = sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
    assert padding[True] < 0.2 * padding[False]
    widths = [batch["input_ids"].shape[1] for batch in micro_batches(rows, seed=0, bucketed=True, **settings)]
    assert widths not in (sorted(widths), sorted(widths, reverse=True))
    assert widths != [batch["input_ids"].shape[1] for batch in micro_batches(rows, seed=1, bucketed=True, **settings)]


def test_the_steps_of_a_bucketed_run_do_not_depend_on_how_they_are_split_or_resumed() -> None:
    rows = make_rows(50)
    common = {"seed": 3, "steps": 12, "pad_id": 0, "bucketed": True}
    whole = micro_batches(rows, first_step=0, batch_size=6, accumulation=1, **common)
    parts = micro_batches(rows, first_step=0, batch_size=2, accumulation=3, **common)
    rest = micro_batches(rows, first_step=5, batch_size=6, accumulation=1, **common)
    assert [whole.rows_of_step(step) for step in range(12)] == [parts.rows_of_step(step) for step in range(12)]
    assert [rest.rows_of_step(step) for step in range(7)] == [whole.rows_of_step(step) for step in range(5, 12)]
    assert len(rest) == 7
    assert torch.equal(rest[0]["input_ids"], whole[5]["input_ids"])
    with pytest.raises(IndexError):
        rest[7]


def test_a_packed_sequence_gives_every_row_the_logits_it_has_alone(tmp_path) -> None:
    model = load_model(open_base(str(make_chat_base(tmp_path / "base"))))
    rows = make_rows(5)
    packed = collate_packed(rows)
    padded = collate(rows, 0)
    with torch.no_grad():
        together_T_V = model(**{k: v for k, v in packed.items() if k != "labels"}).logits[0]
    labels = []
    start = 0
    for index, row in enumerate(rows):
        end = start + len(row.input_ids)
        with torch.no_grad():
            alone_T_V = model(input_ids=torch.tensor([row.input_ids])).logits[0]
        torch.testing.assert_close(together_T_V[start:end], alone_T_V, rtol=1e-4, atol=1e-4)
        assert packed["labels"][0, start:end].tolist() == padded["labels"][index, : end - start].tolist()
        assert packed["labels"][0, start] == IGNORE
        labels += row.labels
        start = end
    assert start == packed["input_ids"].shape[1]
