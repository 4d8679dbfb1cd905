"""`narrowly spectrum`: singular values of a LoRA adapter, or of what a run trained, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs, Wide
from narrowly.cli.terminal import console, need_extra, number, print_json, safe, say, short_modules, table
from narrowly.records.errors import MissingExtraError
from narrowly.records.install import installed_version

if TYPE_CHECKING:
    from narrowly.spectrum.metrics import RankMeans
    from narrowly.spectrum.pairs import Skipped

EXAMPLES = """\b
Examples:
  narrowly spectrum path/to/adapter
  narrowly spectrum path/to/adapter --json > spectrum.json
  narrowly spectrum path/to/adapter --figure spectrum.svg
  narrowly spectrum path/to/adapter --wide
      every column in one line per module
  narrowly spectrum out/runs/RUN-ID
      the final adapter of a run; W - W0 after method full
  narrowly spectrum micro:adam-micro-0-seed0

An adapter is a folder of PEFT, torchtune, Tinker or mlx-lm, or a .gguf file; pickles are refused. The numbers
describe the update s*B*A; modules whose update is something else (DoRA) are skipped by name. Each expert of a mixture
is a module. Means are over the modules of one rank, because the metrics' bounds depend on it. A flat spectrum says
nothing about safety.
"""
FIGURES = (".svg", ".png", ".pdf")
NARROW = ("module", "rank", "stable_rank", "frobenius_nuclear", "spectral_norm", "frobenius_norm")
"""What fits 80 columns; --wide shows `COLUMNS`."""

COLUMNS = (
    "module",
    "rank",
    "stable_rank",
    "spectral_entropy",
    "condition_number",
    "frobenius_nuclear",
    "spectral_norm",
    "frobenius_norm",
)


def command(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER", help="Adapter folder or .gguf file, run directory, run-id under --runs, or STUDY:CELL."
        ),
    ],
    as_json: AsJson = False,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE", help="Save a figure: .svg, .png or .pdf; it needs matplotlib alone."),
    ] = None,
    wide: Wide = False,
    runs: Runs = DEFAULT_RUNS,
) -> int:
    """Show the spectrum of an adapter or a run: a summary, then every module."""
    need_extra("spectral", "a spectrum")
    if figure is not None:
        _check_figure(figure)
    from narrowly.records.errors import SpecError
    from narrowly.workbench.names import find_folder

    folder = find_folder(adapter, runs)  # before torch is loaded: a name that is none is said at once
    from narrowly.spectrum.metrics import LEADING
    from narrowly.workbench.spectra import spectrum_of

    rows, summary, by_rank, skipped = spectrum_of(folder)
    truncated = [row for row in rows if LEADING in row]
    if figure is not None and truncated:
        raise SpecError(
            f"--figure {figure}: it needs all singular values, and {len(truncated)} modules have the leading ones only"
        )
    if figure is not None:
        _save_figure(rows, folder.resolve().name, figure)
    if as_json:
        listed = [one._asdict() for one in skipped]
        means_of = [one._asdict() for one in by_rank]
        record = {"adapter": str(folder), "summary": summary, "by_rank": means_of, "modules": rows, "skipped": listed}
        print_json(record)
        return 0
    say(f"{covered(len(rows), skipped)}; update_norm {number(summary['update_norm'] or 0.0)}")
    for group in by_rank:
        say(_means(group))
    if truncated:
        say(
            f"{len(truncated)} of {len(rows)} modules have their {len(truncated[0][LEADING])} leading singular values "
            "only: what needs all of them is left out (-), also from the means",
            "yellow",
        )
    say_skipped(skipped)
    names = short_modules([row["module"] for row in rows])
    columns = COLUMNS if wide else NARROW
    cells = ([name, *(row[column] for column in columns[1:])] for name, row in zip(names, rows, strict=True))
    console(wide).print(table(columns, cells))
    if not wide:
        say("--wide: all columns; --json: all digits and singular values", "dim")
    if figure is not None:
        say(f"figure: {figure}")
    return 0


def _check_figure(figure: Path) -> None:
    """Check that a figure can be drawn and saved under this name, before anything is computed."""
    from narrowly.records.errors import SpecError

    if figure.suffix.lower() not in FIGURES:
        raise SpecError(f"--figure {figure}: accepted is a file name that ends in {', '.join(FIGURES)}")
    if installed_version("matplotlib") is None:
        raise MissingExtraError("a figure needs matplotlib; add it with: pip install matplotlib")


def say_skipped(skipped: Sequence[Skipped], of: str = "") -> None:
    """Print one line for every module or tensor that was left out, with the reason."""
    for one in skipped:
        say(f"skipped{of}: {safe(one.name)} ({safe(one.reason)})", "yellow")


def covered(found: int, skipped: Sequence[Skipped]) -> str:
    """Return `14 modules`, or `12 of 14 modules and tensors` where some were skipped."""
    return (
        f"{found} of {found + len(skipped)} modules and tensors (the rest was skipped)"
        if skipped
        else f"{found} module{'s' * (found != 1)}"
    )


def _means(group: RankMeans) -> str:
    """Return the means over the modules of one rank, each with its number of modules where that is another."""
    moved = group.modules - group.idle
    idle = f" ({group.idle} of {group.modules} are idle, s*B*A = 0)" if group.idle else ""
    parts = [
        f"{name} -"
        if value is None
        else f"{name} {number(value)}" + f" (over {group.over[name]})" * (group.over[name] != moved)
        for name, value in group.means.items()
    ]
    return f"means over {moved} module{'s' * (moved != 1)} of rank {group.rank}{idle}: {', '.join(parts)}"


def _save_figure(rows: list[dict[str, Any]], name: str, path: Path) -> None:
    from narrowly.records.files import atomic_path
    from narrowly.report.adapter_figure import adapter_spectra, save_figure

    with atomic_path(path) as temporary:
        save_figure(adapter_spectra(rows, name), temporary)
