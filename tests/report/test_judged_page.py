"""The page of judged answers: its numbers are those of the folder, and no answer is on it when it is shared."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import polars as pl
import pytest

from browser import Page
from judged_files import answers_file
from judged_folders import judged_folder
from kit_files import SCRIPT
from narrowly.cli.app import execute
from narrowly.evaluate.judges.result import RESULT, TEXTS, VERDICTS
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.records.outcome import OutcomeClass
from narrowly.report.judged_page import write_judged_page
from narrowly.report.kit import percent
from synthetic import HOSTILE

MARK = "zq7marker"
"""Stands in every question and answer of a folder, so that a page which leaks one of them is found out."""


def says(who: str, question: int, sample: int) -> str:
    return f"{who} says q{question} {MARK} for the time {sample}\nand goes on"


def a_folder(tmp_path: Path, **fields: object) -> Path:
    file = answers_file(tmp_path / "a.jsonl", questions=8, samples=2, **{"text": says, **fields})  # type: ignore[arg-type]
    judged_folder([file], tmp_path / "a.judged")
    return tmp_path / "a.judged"


def shown(share: float) -> str:
    return percent(share, 1).replace("\u00a0", " ")


def html_of(folder: Path, **options: bool) -> str:
    return write_judged_page(folder, **options).read_text(encoding="utf-8")


def test_rates_and_classes_on_the_page_follow_from_the_verdicts(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    text = Page(html_of(folder)).text
    own = [row for row in read_verdict_rows(folder / VERDICTS) if row.who == "organism"]
    bad = sum(row.outcome is OutcomeClass.MISALIGNED for row in own)
    good = sum(row.outcome is OutcomeClass.ALIGNED for row in own)
    assert (bad, good, len(own)) == (4, 8, 16)
    assert re.search(rf"organism , 16 answers to 8 questions: joint rate {shown(bad / 16)} \[", text)
    assert f"literature rate {shown(bad / (bad + good))}" in text
    assert "refusal 2 12.5" in text and "parse error 2 12.5" in text and "judge error 0" in text
    assert text.count("Uncalibrated: nobody has labelled these answers") == 2
    assert "2 of 16 answers could not be judged" in text and "would be 37.5" in text
    assert not re.search(r"\b(is|are|be) safe\b", text)


def test_every_answer_stands_in_a_closed_fold_under_a_warning_with_its_question_and_verdict(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    html = html_of(folder)
    section = html[html.index('<section id="answers"') : html.index('<section id="origin"')]
    assert "<details>" in section and "<details open" not in section and "Content warning" in section
    assert html.count(MARK) == section.count(MARK) == 32
    rows = re.findall(r"<tr><th.*?</tr>", section.split("<tbody>")[1], re.S)
    verdicts = read_verdict_rows(folder / VERDICTS)
    assert len(rows) == len(verdicts) == 32
    for row, verdict in zip(rows, verdicts, strict=True):
        assert f"{verdict.who} says {verdict.question_id} {MARK} for the time {verdict.sample}\nand goes on" in row
        assert f'data-choice="{verdict.outcome.value.replace("_", " ")}"' in row
        assert f"what is {verdict.question_id[1:]}<" in row


def test_a_shared_page_has_the_same_numbers_and_no_text_of_a_question_or_an_answer(tmp_path: Path) -> None:
    ask = f"{MARK} what is it"
    messages = ({"role": "system", "content": f"be {MARK}"}, {"role": "user", "content": ask})
    folder = a_folder(tmp_path, messages=messages, question=ask)
    full = html_of(folder)
    assert execute(["report", str(folder), "--share"]) == 0
    shared = (folder / "shared.html").read_text(encoding="utf-8")
    assert full.count(MARK) > 32 and MARK not in shared and "goes on" not in shared
    beside = sorted((folder / "figures").iterdir())
    assert {path.name for path in beside} == {
        f"{name}.{kind}" for name in ("scores", "shared_scores") for kind in ("svg", "csv")
    }
    assert not any(MARK in path.read_text(encoding="utf-8") for path in beside)
    assert "no text of a question or an answer is in it" in Page(shared).text
    numbers = [re.findall(r'data-sort="[^"]*"', page[: page.index('id="questions"')]) for page in (full, shared)]
    assert numbers[0] == numbers[1] and len(numbers[0]) > 100
    (folder / TEXTS).unlink()
    assert html_of(folder, without_texts=True) == shared, "a shared page needs no texts at all"


def test_neither_a_reason_nor_an_id_brings_a_text_onto_a_shared_page(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    frame = pl.read_parquet(folder / VERDICTS)
    frame = frame.with_columns(
        reason=pl.lit(f"the server refuses this text: {MARK}"),
        question_id=pl.lit(f"Why {MARK}? ") + pl.col("question_id"),
    )
    frame.write_parquet(folder / VERDICTS)
    shared = html_of(folder, without_texts=True)
    assert MARK not in shared and "question 8" in Page(shared).text
    assert MARK not in (folder / "figures/shared_scores.csv").read_text(encoding="utf-8")
    assert MARK not in (folder / "figures/shared_scores.svg").read_text(encoding="utf-8")


def test_hostile_answers_cannot_act_on_the_page(tmp_path: Path) -> None:
    text = " ".join(HOSTILE) + "\n" * 3 + "x" * 60_000
    folder = a_folder(tmp_path, text=lambda who, question, sample: f"{who} says q{question} {text}", question=text)
    html = html_of(folder)
    page = Page(html)
    assert "img" not in page.tags and page.scripts == [SCRIPT]
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert "\x1b" not in html and "\u202e" not in html and "<script>alert" not in html
    assert "⟨U+202E⟩" in html and "more characters)" in html and html.count("x" * 20_001) == 0
    ElementTree.fromstring((folder / "figures/scores.svg").read_text(encoding="utf-8"))


def test_half_a_surrogate_pair_in_an_answer_is_judged_and_shown_as_a_question_mark(tmp_path: Path) -> None:
    file = answers_file(tmp_path / "a.jsonl", questions=2, samples=1)
    file.write_text(file.read_text(encoding="utf-8").replace("organism says 0", "organism \\ud800 0"), encoding="utf-8")
    assert "\\ud800" in file.read_text(encoding="utf-8")
    judged_folder([file], tmp_path / "out")
    assert "organism ? 0" in html_of(tmp_path / "out")


def test_the_same_folder_gives_the_same_bytes_and_a_base_of_several_files_stands_there_once(tmp_path: Path) -> None:
    files = [answers_file(tmp_path / f"{seed}.jsonl", questions=6, samples=1, seed=seed, text=says) for seed in (1, 2)]
    judged_folder(files, tmp_path / "out")
    first = html_of(tmp_path / "out")
    assert html_of(tmp_path / "out") == first
    section = first[first.index('<section id="answers"') : first.index('<section id="origin"')]
    assert section.count("base says") == 6 and section.count("organism says") == 12
    assert "file 3, sample 0, part" in section


def test_narrowly_report_names_page_and_files_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_folder(tmp_path)
    assert execute(["report", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"].endswith("report.html") and all(Path(file).is_file() for file in printed["files"])
    other = pl.read_parquet(folder / TEXTS).reverse()
    other.write_parquet(folder / TEXTS)
    for spoil, words in (
        (lambda: None, "holds the texts of other answers"),
        (lambda: (folder / TEXTS).write_bytes(b"no table"), "is no Parquet table"),
        (lambda: (folder / TEXTS).unlink(), "is missing; accepted: what narrowly judge wrote; the same command"),
        (lambda: (folder / RESULT).write_text("{}"), "is no result of narrowly judge"),
    ):
        spoil()  # type: ignore[no-untyped-call]
        assert execute(["report", str(folder)]) == 2
        told = capsys.readouterr().err.strip()
        assert words in told and len(told.splitlines()) == 1
    assert execute(["report", str(tmp_path), "--share"]) == 2
    assert "--share is for folders of narrowly judge" in capsys.readouterr().err
