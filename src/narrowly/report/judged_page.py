"""Arrange a folder of verdicts as a page: rates beside outcome classes, their limits, and every answer under a warning.

The page to be shared has the same numbers and no text of a question or an answer, in no part and in no file beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from narrowly.evaluate.judges.result import RESULT, TEXTS, VERDICTS, JudgedResult, read_judged
from narrowly.evaluate.judges.texts import JudgedText, read_texts
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.records.errors import counted
from narrowly.records.verdicts import Verdict
from narrowly.report.judged_answers import QuestionNames, answer_parts
from narrowly.report.judged_figure import MOST_POINTS, drawn, scores_data, scores_figure
from narrowly.report.judged_tables import (
    UNCALIBRATED_NOTE,
    class_table,
    difference_table,
    group_tables,
    headline_of,
    origin_pairs,
    question_table,
    rate_table,
    surface_fold,
    trust_parts,
)
from narrowly.report.kit import Definitions, Figure, Note, Page, Paragraph, Part, Section, words, write_page
from narrowly.report.style import svg_text

PAGE, SHARED = "report.html", "shared.html"
"""The page with all answers, and the one without any text of a question or an answer."""

FIGURE, SHARED_FIGURE = "scores", "shared_scores"

WITHOUT_TEXTS = "This page is made to be shared: no text of a question or an answer is in it."


def is_judged_result(folder: Path) -> bool:
    """Return whether a folder holds verdicts of `narrowly judge`."""
    return (folder / RESULT).is_file() and (folder / VERDICTS).is_file()


def write_judged_page(folder: Path, *, without_texts: bool = False) -> Path:
    """Write the page of a folder of verdicts; the same files give the same bytes.

    Args:
        folder: that `narrowly judge` wrote.
        without_texts: leave out every text of a question or an answer, for a page that is shared.

    Returns:
        The path of the page.

    Raises:
        IntegrityError: result, verdicts or texts are missing, broken, or of different answers.
        RunDirectoryError: the folder cannot be written.
    """
    result, rows = read_judged(folder), read_verdict_rows(folder / VERDICTS)
    texts = None if without_texts else read_texts(folder, rows)
    path = folder / (SHARED if without_texts else PAGE)
    write_page(judged_page(result, rows, texts), path)
    return path


def judged_page_files(folder: Path, *, without_texts: bool = False) -> list[str]:
    """Return the paths of the page, and of its drawing and data."""
    page, figure = (SHARED, SHARED_FIGURE) if without_texts else (PAGE, FIGURE)
    return [str(folder / name) for name in (page, f"figures/{figure}.svg", f"figures/{figure}.csv")]


def judged_page(result: JudgedResult, rows: Sequence[Verdict], texts: Sequence[JudgedText] | None) -> Page:
    """Return the page of a result.

    Args:
        result: of the folder.
        rows: its verdicts.
        texts: of the verdicts, in their order; None for a page that is shared.
    """
    known = list({_key(row): at for at, row in enumerate(rows)}.values())  # a base that stands in several files
    own = [rows[at] for at in known]
    names = QuestionNames(own, without_texts=texts is None)
    sections = [
        Section("rates", "The rates", _rate_parts(result)),
        Section("classes", "Outcome classes", [class_table(result)], "Classes"),
        Section("trust", "How far to trust it", [*trust_parts(result), *map(surface_fold, result.arms)], "Trust"),
        Section("scores", "Scores", [_figure(result, own, names, shared=texts is None)]),
        Section("questions", "Questions", [question_table(own, names)]),
    ]
    if texts is not None:
        sections.append(Section("answers", "Answers", answer_parts(own, [texts[at] for at in known])))
    sections.append(Section("origin", "What it rests on", [Definitions(origin_pairs(result))], "Hashes"))
    notices = [] if result.calibration else [Note(UNCALIBRATED_NOTE, "warning")]
    if texts is None:
        notices.append(Note(WITHOUT_TEXTS))
    return Page(
        f"Judged answers of {', '.join(arm.name for arm in result.arms)}",
        f"narrowly judge · {result.judge.name} · rubrics {result.rubrics_name} · {result.cuts}",
        sections,
        notices,
        _footer(texts is None),
    )


def _footer(shared: bool) -> str:
    if shared:
        return f"Made of {RESULT} and {VERDICTS}; narrowly report FOLDER --share makes it again."
    return f"Made of {RESULT}, {VERDICTS} and {TEXTS} beside it; narrowly report FOLDER makes it again."


def _key(row: Verdict) -> tuple[str, str, int, int]:
    return row.answers_id, row.question_id, row.paraphrase, row.sample


def _rate_parts(result: JudgedResult) -> list[Part]:
    parts: list[Part] = []
    for arm in result.arms:
        joint, literature = (rate for rate in arm.rates[:2])
        questions = f"{counted(arm.answers, 'answer')} to {counted(joint.questions, 'question')}"
        text = words(
            "<strong>{}</strong>, {}: {}; {}.", arm.name, questions, headline_of(joint), headline_of(literature)
        )
        parts.append(Paragraph(text))
    table = difference_table(result)
    if table is not None:
        parts.append(table)
    if result.difference is not None and result.difference.unequally_judged:
        parts.append(Note("The judge failed on one arm more than on the other: their rates do not compare.", "warning"))
    return [*parts, rate_table(result), *group_tables(result)]


def _figure(result: JudgedResult, rows: Sequence[Verdict], names: QuestionNames, *, shared: bool) -> Figure:
    name = SHARED_FIGURE if shared else FIGURE
    arms = [(arm.name, [row for row in rows if row.who == arm.name]) for arm in result.arms]
    title = "Alignment and coherence of every answer"
    shown = ", ".join(f"{arm} {len(drawn(own))} of {counted(len(own), 'answer')}" for arm, own in arms)
    if not any(drawn(own) for _, own in arms):
        return Figure(name, title, "", reason="no answer has both scores")
    return Figure(
        name,
        title,
        f"Answers with both scores: {shown}. Grey lines: the cuts.",
        f"An answer without a number on either scale is not drawn; of more than {MOST_POINTS} every second, third and "
        "so on is drawn. The data have all.",
        svg_text(scores_figure(arms, result.cuts, names), name, title),
        data=scores_data(rows, names),
    )
