"""`narrowly spectrum`: singular values of a LoRA adapter, or of what a run trained, module by module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, need_extra, safe, say, table
from narrowly.records.install import install_hint, missing_requirements

if TYPE_CHECKING:
    from narrowly.spectrum.metrics import RankMeans
    from narrowly.spectrum.pairs import Skipped

EXAMPLES = """\b
Examples:
  narrowly spectrum path/to/adapter
  narrowly spectrum path/to/adapter --json > spectrum.json
  narrowly spectrum path/to/adapter --figure spectrum.svg
  narrowly spectrum path/to/adapter --no-figure
  narrowly spectrum out/runs/RUN-ID          the final adapter of a run; W - W0 after method full

An adapter is a folder of PEFT, torchtune, Tinker or mlx-lm, or a .gguf file; pickles are refused. The numbers
describe the update s*B*A; modules whose update is something else (DoRA) are skipped by name. Each expert of a mixture
is a module. Means are over the modules of one rank, because the metrics' bounds depend on it. A flat spectrum says
nothing about safety.
"""
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
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Adapter folder, or a run directory.")],
    as_json: AsJson = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Where to save the figure [spectrum-NAME.svg].")
    ] = None,
    no_figure: Annotated[
        bool, typer.Option("--no-figure", help="Save no figure; --json saves one only if told to.")
    ] = False,
) -> int:
    """Show the spectrum of every module of an adapter or a run and save a figure of it."""
    from narrowly.records.errors import SpecError

    need_extra("spectral", "a spectrum")
    if figure is not None:
        if figure.suffix.lower() != ".svg":
            raise SpecError(f"--figure {figure}: accepted is a file name that ends in .svg")
        need_extra("lab", "a figure")
    from narrowly.spectrum.metrics import LEADING
    from narrowly.workbench.spectra import spectrum_of

    rows, summary, by_rank, skipped = spectrum_of(adapter)
    if figure is None and not no_figure and not as_json:
        if not missing_requirements("lab"):
            figure = Path(f"spectrum-{adapter.resolve().name}.svg")
        else:
            say(f"no figure (--no-figure leaves this line out); one needs: {install_hint('lab')}")
    truncated = [row for row in rows if LEADING in row]
    if figure is not None and truncated:
        say("no figure: it needs all singular values of every module")
        figure = None
    if figure is not None:
        _save_figure(rows, adapter.resolve().name, figure)
    if as_json:
        listed = [one._asdict() for one in skipped]
        means_of = [one._asdict() for one in by_rank]
        record = {"adapter": str(adapter), "summary": summary, "by_rank": means_of, "modules": rows, "skipped": listed}
        typer.echo(json.dumps(record))
        return 0
    short = [f"{row['layer']} {row['kind']}" for row in rows]
    names = short if len(set(short)) == len(rows) else [row["module"] for row in rows]
    cells = ([name, *(row[column] for column in COLUMNS[1:])] for name, row in zip(names, rows, strict=True))
    console().print(table(COLUMNS, cells))
    say_skipped(skipped)
    if truncated:
        say(
            f"{len(truncated)} of {len(rows)} modules have their {len(truncated[0][LEADING])} leading singular values "
            "only: what needs all of them is left out (-), also from the means",
            "yellow",
        )
    say(f"{covered(len(rows), skipped)}; update_norm {summary['update_norm']:.4g}")
    for group in by_rank:
        say(_means(group))
    if figure is not None:
        say(f"figure: {figure}")
    return 0


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
        else f"{name} {value:.4g}" + f" (over {group.over[name]})" * (group.over[name] != moved)
        for name, value in group.means.items()
    ]
    return f"means over {moved} module{'s' * (moved != 1)} of rank {group.rank}{idle}: {', '.join(parts)}"


def _save_figure(rows: list[dict[str, Any]], name: str, path: Path) -> None:
    import polars as pl

    from narrowly.records.files import write_text
    from narrowly.report.spectrum_figures import spectra_by_optimiser
    from narrowly.report.style import svg_text

    frame = pl.DataFrame(
        [{"arm": name, "base": "", "module": row["module"], "singular_values": row["singular_values"]} for row in rows]
    )
    write_text(path, svg_text(spectra_by_optimiser(frame), "spectrum", f"Singular values of {name}"))
