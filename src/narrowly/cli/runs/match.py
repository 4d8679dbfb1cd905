"""`narrowly match`: two sets of runs at equal held-out misalignment, norm, loss or step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, need_extra, print_json, say, table
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.analysis.matching.schema import Contrast, Matched

EXAMPLES = """\b
Examples:
  narrowly match out/rates --arms muon,adam
      broad misalignment at equal misalignment on held-out topics
  narrowly match out/rates --arms muon,adam --at norm --figure match.svg
  narrowly match out/rates --arms optimiser=adam+batch_size=32,adam
  narrowly match out/a --arms muon,adam --with out/b
      Muon of the first study against Adam of the second

What is computed, and when there is no verdict: docs/matching.md.
"""


Scale = Annotated[str | None, typer.Option("--scale", help="pooled (default) or per-question; pairs are in nats.")]
Dial = Annotated[
    str | None,
    typer.Option("--dial", metavar="FIELD", help="Orders the runs of a set: lr, step, a field of runs, or at."),
]
Between = Annotated[
    str | None,
    typer.Option("--between", metavar="LOW,HIGH", help="Levels of what is matched on that count (default all)."),
]
Over = Annotated[str, typer.Option("--over", help="base, or seed where there is one base only.")]


def command(
    study_dir: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a study, as out/rates.")],
    arms: Annotated[
        str,
        typer.Option(
            "--arms", metavar="A,B", help="Two sets: an arm, an optimiser, FIELD=VALUE, or these joined by +."
        ),
    ],
    at: Annotated[
        str, typer.Option("--at", metavar="WHAT", help="held-out, norm, trained-loss, excess-trained or step.")
    ] = "held-out",
    of: Annotated[
        str, typer.Option("--of", metavar="RUNG", help="What is compared: broad, self, held-out or trained.")
    ] = "broad",
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Largest difference that does not matter (default .35 log-odds)."),
    ] = None,
    with_study: Annotated[
        Path | None, typer.Option("--with", metavar="FOLDER", help="The study of the second set.")
    ] = None,
    scale: Scale = None,
    dial: Dial = None,
    between: Between = None,
    over: Over = "base",
    as_json: AsJson = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw it: .svg, .png or .pdf.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page.")] = None,
) -> int:
    """Compare two sets of runs at equal held-out misalignment, norm, loss or step."""
    need_extra("lab", "a comparison of runs")
    from narrowly.study.matching import match_runs

    first, second = _two(arms)
    if over not in ("base", "seed"):
        raise SpecError(f"--over {over}: accepted: base or seed")
    options: dict[str, Any] = {
        "at": at,
        "of": of,
        "scale": scale,
        "dial": dial,
        "margin": margin,
        "over": over,
        "between": _window(between),
    }
    found = match_runs(study_dir, first, second, other=with_study, **options)
    if found.primary.compared == 0:
        raise SpecError(_apart(found))
    if figure is not None:
        _draw(found, figure)
    if html is not None:
        from narrowly.report.matching_page import write_matching_page

        write_matching_page(found, html)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found)
    return 0


def _two(arms: str) -> tuple[str, str]:
    sets = [one.strip() for one in arms.split(",")]
    if len(sets) != 2 or not all(sets):
        raise SpecError(f"--arms {arms!r} names {len([one for one in sets if one])}; accepted: two sets, as adam,muon")
    return sets[0], sets[1]


def _window(between: str | None) -> tuple[float, float] | None:
    if between is None:
        return None
    try:
        low, high = (float(end) for end in between.split(","))
    except ValueError:
        raise SpecError(f"--between {between!r}; accepted: two numbers, as -1.5,4") from None
    return low, high


def _apart(found: Matched) -> str:
    """Return why no base can be compared, with the ranges of both sets over all bases."""
    lines = found.primary.lines
    told = [
        f"{one.name} {min(low for low, _ in ranges):.3g} to {max(high for _, high in ranges):.3g}"
        for one, ranges in (
            (found.first, [line.first_range for line in lines if line.first_range]),
            (found.second, [line.second_range for line in lines if line.second_range]),
        )
    ]
    units = f"{found.primary.bases} {found.over}{'s' if found.primary.bases > 1 else ''}"
    return (
        f"not comparable: in none of {units} do both sets reach one level of {found.at_words} ({found.at_unit}): "
        f"{', '.join(told)}; accepted: sets whose ranges meet within a base"
    )


def _draw(found: Matched, path: Path) -> None:
    from narrowly.report.figure_file import check_ending, write_figure
    from narrowly.report.matching_figure import matching_figure

    check_ending(path)
    write_figure(matching_figure(found), path, "matching", f"{found.first.name} against {found.second.name}")


def _show(found: Matched) -> None:
    from narrowly.report.matching_words import branches, noise, sentences

    for sentence in sentences(found):
        say(sentence)
    say("")
    say(f"Ranges of {found.at_words} ({found.at_unit}), both rising branches:")
    several = len({(line.domain, line.seed) for line in found.primary.lines}) > 1
    columns = (
        "base",
        *(("domain", "seed") if several else ()),
        found.first.name,
        found.second.name,
        "both",
        "difference",
    )
    rows = []
    for line in found.primary.lines:
        unit = (line.base, *((line.domain, line.seed) if several else ()))
        rows.append((*unit, *map(_ends, (line.first_range, line.second_range, line.support)), line.difference))
    console().print(table(columns, rows))
    for one in found.others:
        say("")
        say(f"Secondary, {branches(found, one)}: {_short(one, found)}")
    say("")
    say(noise(found))
    for unit_without in found.left_out:
        say(f"left out: {unit_without}")


def _ends(ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"


def _short(one: Contrast, found: Matched) -> str:
    from narrowly.report.kit.numbers import number, span

    told = f"{one.compared} of {one.bases} {found.over}s"
    if one.interval.estimate is None:
        return f"{told}, {one.verdict}"
    return f"{number(one.interval.estimate, signed=True)} {span(one.interval, signed=True)}, {told}, {one.verdict}"
