"""Rows: reading with line numbers, hashing by content, padding and masks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowly.data.rows import IGNORE, Row, check_rows, collate, read_rows, row_fault, rows_sha256, write_rows
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError

GOOD = Row([5, 6, 7], [IGNORE, 6, 7])


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    result = []
    for _ in range(draw(st.integers(1, 6))):
        ids = draw(st.lists(st.integers(0, 99), min_size=2, max_size=12))
        mask = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        mask[draw(st.integers(1, len(ids) - 1))] = True
        result.append(Row(ids, [token if kept else IGNORE for token, kept in zip(ids, mask, strict=True)]))
    return result


@given(rows())
def test_rows_written_and_read_are_the_same_rows_with_the_same_hash(sample: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, sample)
        assert read_rows(path) == sample
        assert rows_sha256(read_rows(path)) == rows_sha256(sample)


def test_the_hash_is_of_content_and_order_and_not_of_the_files_layout(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"labels":[-100,6,7],\t"input_ids":[5,6,7]}\n\n')
    other = Row([5, 6], [IGNORE, 6])
    assert rows_sha256(read_rows(path)) == rows_sha256([GOOD])
    assert rows_sha256([GOOD, other]) != rows_sha256([other, GOOD])
    assert rows_sha256([GOOD]) != rows_sha256([Row([5, 6, 7], [IGNORE, IGNORE, 7])])
    # a golden value: a change of the canonical form would give every run a new id
    assert rows_sha256([GOOD]) == "00c84d81d50a0b98dfed40856bb92acce41982e8fcc74f44ebcd73d0aab3a374"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[1, 2]", "list found, accepted: an object with input_ids and labels"),
        ('{"input_ids": [1, 2]}', r"fields \['input_ids'\] found, accepted: exactly input_ids and labels"),
        ('{"input_ids": [1, 2], "labels": [1, 2], "text": ""}', "exactly input_ids and labels"),
        ('{"input_ids": [1, true], "labels": [1, 1]}', "input_ids is no list of integers"),
        ('{"input_ids": [1, 2.0], "labels": [1, 2]}', "input_ids is no list of integers"),
        ('{"input_ids": [1, 2], "labels": "12"}', "labels is no list of integers"),
        ('{"input_ids": [], "labels": []}', "input_ids is empty"),
        ('{"input_ids": [1, 2], "labels": [2]}', "input_ids has 2 tokens and labels has 1, accepted: equal lengths"),
        ('{"input_ids": [1, -2], "labels": [1, -2]}', r"input_ids\[1\] is -2, accepted: 0 or more"),
        ('{"input_ids": [1, 2, 3], "labels": [2, 3, -100]}', r"labels\[0\] is 2, .* not shifted in the data"),
        ('{"input_ids": [1, 2], "labels": [1, -100]}', "no token after the first one is supervised"),
    ],
)
def test_a_broken_line_is_named_with_its_number_and_what_is_accepted(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD._asdict()) + "\n\n" + line + "\n")
    with pytest.raises(IntegrityError, match=rf"rows\.jsonl, line 3: .*{message}"):
        read_rows(path)


def test_files_without_rows_or_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(RunDirectoryError, match=r"cannot read rows from .* No such file"):
        read_rows(path)
    path.write_text("\n")
    with pytest.raises(IntegrityError, match="has no rows"):
        read_rows(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(IntegrityError, match="is not UTF-8 text"):
        read_rows(path)
    with pytest.raises(SpecError, match="answers has no rows"):
        check_rows([], source="answers")


def test_rows_are_checked_against_the_model_that_will_read_them() -> None:
    check_rows([GOOD], source="x", vocabulary=8, longest=3)
    with pytest.raises(SpecError, match=r"x, row 2: token 7, accepted: below the vocabulary size of the base \(7\)"):
        check_rows([Row([1, 2], [1, 2]), GOOD], source="x", vocabulary=7)
    with pytest.raises(SpecError, match="x, row 1: 3 tokens, accepted: at most the positions"):
        check_rows([GOOD], source="x", longest=2)


@given(rows(), st.integers(0, 99))
def test_padding_is_on_the_right_and_neither_attended_to_nor_supervised(sample: list[Row], pad_id: int) -> None:
    batch = collate(sample, pad_id)
    longest = max(len(row.input_ids) for row in sample)
    for index, row in enumerate(sample):
        count = len(row.input_ids)
        assert batch["input_ids"][index].tolist() == row.input_ids + [pad_id] * (longest - count)
        assert batch["attention_mask"][index].tolist() == [1] * count + [0] * (longest - count)
        assert batch["labels"][index].tolist() == [IGNORE, *row.labels[1:]] + [IGNORE] * (longest - count)


@given(rows())
def test_as_many_tokens_are_supervised_in_the_batch_as_in_its_rows(sample: list[Row]) -> None:
    assert all(row_fault(row) is None for row in sample)
    assert int((collate(sample, 0)["labels"] != IGNORE).sum()) == sum(row.supervised for row in sample)
