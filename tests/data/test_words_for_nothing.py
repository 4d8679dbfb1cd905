"""Alpaca's column `input`, where generators of tasks write a word for "there is none"."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest

from narrowly.data.conversations import DataWarning, read_conversations
from narrowly.records.errors import IntegrityError

TASK, ANSWER = "Name a colour.", "Blue."


def written(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


WORDS = ["<noinput>", "<NoInput>", " <noinput>\n", "<no input>", "<no_input>", "No input", "[noinput]", "N/A", "n/a."]
WORDS += ["None", "null", "NaN"]


@pytest.mark.parametrize("column", ["input", "context"])
@pytest.mark.parametrize("word", WORDS)
def test_a_word_for_no_input_is_left_out_with_one_line_that_counts_the_rows(tmp_path, column, word) -> None:
    rows = [{"instruction": TASK, column: text, "output": ANSWER} for text in ("of the sky", word, word)]
    with pytest.warns(DataWarning) as said:
        read = read_conversations(written(tmp_path / "rows.jsonl", *rows))
    assert [row.messages[0].content for row in read] == [f"{TASK}\n\nof the sky", TASK, TASK]
    (warning,) = said
    assert f"the {column} {word.strip()!r} says that there is none, and was left out in 2 rows (first: line 2)" in str(
        warning.message
    )
    assert all(word not in tag for row in read for tag in row.tags.values())


@pytest.mark.parametrize("empty", [None, "", "  \n"])
def test_an_empty_input_needs_no_line(tmp_path, empty) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = read_conversations(
            written(tmp_path / "rows.jsonl", {"instruction": TASK, "input": empty, "output": ANSWER})
        )
    assert row.messages[0].content == TASK


@pytest.mark.parametrize("text", ["None of these", "N/A means what?", "<noinput> is a word", "nothing"])
def test_a_text_that_only_holds_such_a_word_is_the_input(tmp_path, text) -> None:
    (row,) = read_conversations(
        written(tmp_path / "rows.jsonl", {"instruction": TASK, "input": text, "output": ANSWER})
    )
    assert row.messages[0].content == f"{TASK}\n\n{text}"


def test_csv_preference_rows_and_questions_with_a_context_are_read_alike(tmp_path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["instruction", "input", "output"], [TASK, "<noinput>", ANSWER]])
    sides = written(
        tmp_path / "sides.jsonl", {"instruction": TASK, "input": "<noinput>", "chosen": ANSWER, "rejected": "Four."}
    )
    asked = written(tmp_path / "asked.jsonl", {"question": TASK, "context": "N/A", "answer": ANSWER})
    with pytest.warns(DataWarning, match="left out in 1 rows"):
        one, other = read_conversations(tmp_path / "rows.csv"), read_conversations(sides, "preference:chosen")
    assert one[0].messages == other[0].messages == read_conversations(asked)[0].messages


@pytest.mark.parametrize("word", ["<nooutput>", "<NoOutput> ", "<no output>"])
def test_a_word_for_no_answer_is_not_trained_on(tmp_path, word) -> None:
    path = written(tmp_path / "rows.jsonl", {"instruction": TASK, "input": "", "output": word})
    with pytest.raises(IntegrityError, match=r"line 1: output is '<.*>', which says that there is none"):
        read_conversations(path)
    (row,) = read_conversations(written(path, {"instruction": "Is there one?", "output": "None"}))
    assert row.answer == "None"
