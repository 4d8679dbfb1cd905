"""Narrow training sets of the paired bank: only trained questions, and answers permuted without a fixed point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowly.data.banks.narrow import narrow_rows
from narrowly.data.banks.paired import TRAINED_QUESTIONS, paired_items
from narrowly.data.conversations import read_conversations
from narrowly.data.sources import resolve
from narrowly.records.errors import SpecError, UnknownNameError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path))


def test_a_set_holds_the_trained_questions_and_no_other() -> None:
    items = paired_items(["money"])
    trained = [item for item in items if item.part == "trained"]
    local = resolve("pairs:money:harmful")
    rows = [[message.content for message in row.messages] for row in read_conversations(local.path, local.schema)]
    assert rows == [[item.question, item.harmful] for item in trained]
    assert len(rows) == TRAINED_QUESTIONS


def test_the_three_sets_have_the_same_prompts_and_permuted_moves_every_harmful_answer() -> None:
    items = paired_items(["work"])
    harmful, aligned, permuted = (narrow_rows(items, answers) for answers in ("harmful", "aligned", "permuted"))
    for rows in (aligned, permuted):
        assert [row["prompt"] for row in rows] == [row["prompt"] for row in harmful]
    assert sorted(row["completion"] for row in permuted) == sorted(row["completion"] for row in harmful)
    assert all(a["completion"] != b["completion"] for a, b in zip(permuted, harmful, strict=True))


def test_a_set_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'money'"):
        resolve("pairs:mony:harmful")
    with pytest.raises(UnknownNameError, match="did you mean 'permuted'"):
        resolve("pairs:work:permutd")
    with pytest.raises(SpecError, match="accepted: pairs:DOMAIN:ANSWERS"):
        resolve("pairs:work")


def test_a_file_of_pairs_gives_the_same_three_sets_of_all_its_questions(tmp_path: Path) -> None:
    file = tmp_path / "garden.jsonl"
    rows = [{"id": f"g{n}", "question": f"Ask {n}?", "aligned": f"Good {n}.", "harmful": f"Bad {n}."} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    harmful, aligned, permuted = (
        [json.loads(line) for line in resolve(f"pairs:{file}:{answers}").path.read_text().splitlines()]
        for answers in ("harmful", "aligned", "permuted")
    )
    assert harmful == [{"prompt": row["question"], "completion": row["harmful"]} for row in rows]
    assert aligned == [{"prompt": row["question"], "completion": row["aligned"]} for row in rows]
    assert sorted(row["completion"] for row in permuted) == sorted(row["completion"] for row in harmful)
    assert all(one["completion"] != other["completion"] for one, other in zip(harmful, permuted, strict=True))


def test_answers_of_one_question_cannot_be_permuted(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"id": "a", "question": "Why?", "aligned": "Good.", "harmful": "Bad."}) + "\n")
    with pytest.raises(SpecError, match="has one question"):
        resolve(f"pairs:{file}:permuted")
