"""`narrowly track`: rates of many checkpoints or dates as one table and one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, error_console, need_extra, print_json, safe, say, table

if TYPE_CHECKING:
    from narrowly.analysis.track import Measure, Track

EXAMPLES = """\b
Examples:
  narrowly judge step-100.jsonl --judge MODEL --out rates/step-100
  narrowly judge step-200.jsonl --judge MODEL --out rates/step-200
  narrowly track rates
  narrowly track nightly --figure nightly.png
      folders named 2026-11-01, 2026-11-02 ... stand at their dates
  narrowly track rates --json

DIR holds folders that narrowly judge or narrowly eval --out wrote. They stand in the natural order of their names: at
their dates, at the number in their names, or one behind the other. Rates compare within a series alone: one bank,
judge, rubrics, cuts and sampling. Two results are compared by narrowly compare. More: docs/gates.md.
"""

FIGURE = "track.svg"
"""File of the figure in the folder, unless it is named."""


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of folders of results.")],
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw it here: .svg, .png, .pdf; DIR/track.svg.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show the rates of many checkpoints or dates, each with its interval, as a table and a figure."""
    need_extra("lab", "following rates")
    from narrowly.analysis.track import track
    from narrowly.report.figure_file import check_ending

    if figure is not None:
        check_ending(figure)
    found = track(folder)
    if as_json:
        print_json(as_record(found))
    else:
        show(found)
    if figure is not None or not as_json:
        draw(found, figure or folder / FIGURE)
    return 0


def draw(found: Track, path: Path) -> None:
    """Write the figure, and say where it is."""
    from narrowly.report.figure_file import write_figure
    from narrowly.report.track_figure import track_figure

    write_figure(track_figure(found), path, "track", "rates by checkpoint or date")
    error_console().print(f"figure in {safe(path)}")


def as_record(found: Track) -> dict[str, object]:
    """Return what was followed as one JSON document."""
    rows = [
        {
            **row._asdict(),
            "place": place,
            "measures": {
                one.name: {"percent": one.percent, "estimate": one.interval.estimate, "low": one.interval.low,
                           "high": one.interval.high, "method": one.interval.method, "reason": one.interval.reason}
                for one in row.measures
            },
        }
        for row, place in zip(found.rows, found.places, strict=True)
    ]  # fmt: skip
    return {"scale": found.scale, "series": found.series, "rows": rows}


def show(found: Track) -> None:
    """Print the table, and what its series are."""
    names = list(dict.fromkeys(one.name for row in found.rows for one in row.measures))
    rows = []
    for row in found.rows:
        own = {one.name: _cell(one) for one in row.measures}
        rows.append((row.name, row.series, row.of if row.kind == "judged" else "paired", row.n,
                     *(own.get(name) for name in names)))  # fmt: skip
    console().print(table(("results", "series", "of", "n", *names), rows))
    for letter, words in found.series.items():
        say(f"series {letter}: {safe(words)}")
    if len(found.series) > 1:
        say("rates of two series do not compare: another bank, judge, rubric, cut or sampling", "yellow")
    say("95 % intervals; n: answers, or questions of the paired bank; two results are compared by narrowly compare")


def _cell(one: Measure) -> str:
    interval, scale, unit = one.interval, 100.0 if one.percent else 1.0, " %" if one.percent else ""
    if interval.estimate is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{scale * interval.estimate:.2f}{unit}"
    return f"{scale * interval.estimate:.2f} ({scale * interval.low:.2f} to {scale * interval.high:.2f}){unit}"
