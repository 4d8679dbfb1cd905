"""Make the page of a matched comparison: the verdict, the figure, every base with its support, branches and noise."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from narrowly.analysis.matching.schema import Contrast, Matched
from narrowly.report.kit import (
    Cell,
    Column,
    Figure,
    Listing,
    Page,
    Paragraph,
    Section,
    Table,
    measured,
    number,
    plain,
    write_page,
)
from narrowly.report.matching_figure import matching_figure
from narrowly.report.matching_words import branches, noise, sentences
from narrowly.report.style import svg_text


def matching_page(found: Matched) -> Page:
    """Return the page of a comparison."""
    title = f"{found.first.name} against {found.second.name}, at equal {found.at.replace('_', ' ')}"
    return Page(
        title=title,
        kicker=_kicker(found),
        sections=[
            Section("result", "Result", [*map(Paragraph, sentences(found)), _figure(found, title)]),
            Section("bases", "Every base", [_lines(found.primary, found)]),
            Section("branches", "Branches", [_contrasts(found)]),
            Section("limits", "Noise and what was left out", [Paragraph(noise(found)), *_left_out(found)]),
        ],
    )


def write_matching_page(found: Matched, path: Path) -> None:
    """Write the page of a comparison, with its figure and the points of both sets beside it.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    write_page(matching_page(found), path)


def _kicker(found: Matched) -> str:
    studies = list(dict.fromkeys(one.study for one in (found.first, found.second) if one.study))
    return f"narrowly match, {' and '.join(studies)}" if studies else "narrowly match"


def _figure(found: Matched, title: str) -> Figure:
    data = pl.DataFrame([point.model_dump() for point in found.points])
    return Figure(
        "matching",
        "Curves of both sets, and the difference of each base",
        f"Left: every organism; lines join those of one base, domain and seed in the order of {found.first.dial}. "
        f"Right: difference over the levels that both sets reach, {found.primary.compared} of {found.primary.bases} "
        f"{found.over}s.",
        "Dotted: after the turn. Bars at the foot: common support of each base. Diamond and thick line: mean and 95 % "
        "t interval over bases; grey line: crossed bootstrap. Grey band: the margin.",
        svg_text(matching_figure(found), "matching", title),
        None,
        data,
    )


def _ends(ends: tuple[float, float] | None) -> Cell:
    if ends is None:
        return Cell("none")
    return Cell(f"{number(ends[0])} to {number(ends[1])}", sort=ends[0])


def _lines(found: Contrast, whole: Matched) -> Table:
    return Table(
        f"Both rising branches: ranges of {whole.at_words} ({whole.at_unit}), the levels that both pass, and the mean "
        f"difference over them ({whole.unit}).",
        [
            Column("base"),
            Column("domain"),
            Column("seed"),
            Column(whole.first.name, whole.at_unit),
            Column(whole.second.name, whole.at_unit),
            Column("support", whole.at_unit),
            Column("difference", whole.unit, "number"),
        ],
        [
            [
                Cell(line.base),
                Cell(line.domain or "–"),
                Cell("–" if line.seed is None else str(line.seed)),
                _ends(line.first_range),
                _ends(line.second_range),
                Cell(line.reason) if line.support is None and line.reason else _ends(line.support),
                plain(line.difference, signed=True),
            ]
            for line in found.lines
        ],
    )


def _contrasts(found: Matched) -> Table:
    rows = [
        [
            Cell(branches(found, one)),
            measured(one.interval, signed=True),
            Cell("–") if one.bootstrap is None else measured(one.bootstrap, signed=True),
            Cell(f"{one.compared} of {one.bases}", sort=one.compared),
            plain(one.p_equivalence, 3),
            Cell(one.verdict, below=() if one.reason is None else (one.reason,)),
        ]
        for one in (found.primary, *found.others)
    ]
    return Table(
        f"Each pair of branches; the first row is the primary contrast, all others are secondary. Margin "
        f"{number(found.margin)} {found.unit}.",
        [
            Column("branches"),
            Column("difference, t", found.unit, "number"),
            Column("crossed bootstrap", found.unit, "number"),
            Column(f"{found.over}s"),
            Column("p, equivalence", "", "number"),
            Column("verdict"),
        ],
        rows,
    )


def _left_out(found: Matched) -> list[Paragraph | Listing]:
    return [Listing(list(found.left_out))] if found.left_out else [Paragraph("No unit was left out.")]
