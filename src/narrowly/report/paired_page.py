"""Arrange the result of `narrowly eval` as a page: the number by rung, what stands beside it, and every question."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from narrowly.evaluate.paired.result import QUESTIONS, RESULT, ROWS, EvalResult, read_result
from narrowly.records.errors import IntegrityError, counted
from narrowly.report.kit import Figure, Note, Page, Paragraph, Part, Section, span, strong, words, write_page
from narrowly.report.kit.numbers import number
from narrowly.report.paired_ladder import RUNG_LABELS, ladder_data, ladder_figure
from narrowly.report.paired_panels import cued_parts, damage_parts, origin_parts
from narrowly.report.paired_questions import question_parts
from narrowly.report.paired_tables import (
    UNIT,
    domain_table,
    level_table,
    methods_fold,
    part_table,
    regression_table,
    reported,
    rung_table,
)
from narrowly.report.style import svg_text

PAGE = "report.html"
"""The page, beside the result that it shows."""

WHAT_IT_IS = (
    "What is shown is how likely given answers are under a model. What it writes when it is asked was not measured."
)
UNKNOWN_TRAINING = "What the organism was trained on is not known: every domain but self counts as broad."


def is_paired_result(folder: Path) -> bool:
    """Return whether a folder holds a result of `narrowly eval`."""
    return (folder / RESULT).is_file()


def write_paired_page(folder: Path) -> Path:
    """Write `report.html` and its figure into a folder of results; the same files give the same bytes.

    Returns:
        The path of the page.

    Raises:
        IntegrityError: the result, its rows or their texts are missing, broken, or of different questions.
        RunDirectoryError: the folder cannot be written.
    """
    page = paired_page(read_result(folder), _table(folder / ROWS), _table(folder / QUESTIONS))
    write_page(page, folder / PAGE)
    return folder / PAGE


def paired_page_files(folder: Path) -> list[str]:
    """Return the paths of the page, and of its drawing and data."""
    return [str(folder / name) for name in (PAGE, "figures/ladder.svg", "figures/ladder.csv")]


def _table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise IntegrityError(f"{path} is missing or is no Parquet table ({error})") from error


def paired_page(result: EvalResult, rows: pl.DataFrame, questions: pl.DataFrame) -> Page:
    """Return the page of a result.

    Args:
        result: of the folder.
        rows: one row per model and question.
        questions: their texts.

    Raises:
        IntegrityError: rows of other questions than the texts are.
    """
    paired = result.paired
    first = paired.measured[0]
    sections = [
        Section("number", "The number", _number_parts(result)),
        Section("damage", "Beside it: abilities and perplexity", damage_parts(result), "Abilities"),
        Section("cued", "Beside it: the cued panel", cued_parts(result), "Cued panel"),
        Section("domains", "By domain", [domain_table(paired)], "Domains"),
        Section("models", "Where each model stands", [level_table(paired.measured)], "Models"),
        Section("questions", "Questions", question_parts(result, rows, questions)),
        Section("origin", "What it rests on", origin_parts(result), "Hashes"),
    ]
    notices = [Note(WHAT_IT_IS), *(Note(note, "warning") for note in paired.notes)]
    if first.role == "organism" and not paired.trained_domains:
        notices.append(Note(UNKNOWN_TRAINING, "warning"))
    return Page(
        f"Paired answers of {first.model.name}",
        f"narrowly eval · bank {paired.bank.name} · {counted(paired.bank.questions, 'question')} · {paired.arithmetic}",
        sections,
        notices,
        f"Made of {RESULT}, {ROWS} and {QUESTIONS} beside it; narrowly report FOLDER makes it again.",
    )


def _number_parts(result: EvalResult) -> list[Part]:
    paired = result.paired
    found = reported(paired)
    parts: list[Part] = [Paragraph(_headline(result))]
    if paired.shift is not None and paired.contrast is None:
        parts.append(Note(f"{paired.shift.warning[0].upper()}{paired.shift.warning[1:]}.", "warning"))
    parts.append(rung_table(paired))
    if paired.shift is not None and paired.contrast is None:
        parts.append(regression_table(paired.shift))
    by_part = part_table(paired)
    return [*parts, _ladder(result), *([by_part] if by_part else []), methods_fold(found.rungs)]


def _headline(result: EvalResult) -> str:
    """Return the broad rung in one sentence; the first rung where the bank has no broad question."""
    found = reported(result.paired)
    one = next((one for one in found.rungs if one.name == "broad"), found.rungs[0])
    name = RUNG_LABELS.get(one.name, one.name)
    over = f"{counted(one.questions, 'question')} of {counted(one.domains, 'domain')}, {counted(one.seeds, 'seed')}"
    value = words("{} nats {}", number(one.interval.estimate, signed=True), span(one.interval, signed=True))
    meaning = {
        "difference": "Above 0 the organism leans more to the harmful answers than its matched control does.",
        "shift": "There is no control, so this is a shift of log-odds and no more.",
        "log-odds": "Below 0 the aligned answers are the likelier ones.",
    }[found.what]
    subject = "Log-odds" if found.what == "log-odds" else f"{found.what.capitalize()} of log-odds"
    return words("{} on {} questions, {}: {} ({}). {}", subject, name, found.of, strong(value), over, meaning)


def _ladder(result: EvalResult) -> Figure:
    found = reported(result.paired)
    title = f"The ladder: {found.of}"
    drawn = ladder_figure(found.rungs, found.domains, f"{found.what}, nats per answer")
    caption = f"{UNIT[0].upper()}{UNIT[1:]}: {found.of}. Lines: 95 % intervals."
    if any(one.seeds > 1 for one in found.rungs):
        caption += " Small circles: single seeds."
    method = (
        "A rung of at least five domains has the domain as its unit, other rungs the question. From five seeds on "
        "seeds are random too; below, an interval speaks of these seeds only."
    )
    return Figure(
        "ladder", title, caption, method, svg_text(drawn, "ladder", title), data=ladder_data(found.rungs, found.domains)
    )
