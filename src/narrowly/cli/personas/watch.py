"""`narrowly persona watch`: how far the checkpoints of runs have moved along a direction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.parts import PartsProgress
from narrowly.cli.personas.shared_options import Device, DirectionFile, Layer, interval
from narrowly.cli.terminal import console, need_extra, print_json, safe, say, table
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.workbench.persona.watch import WatchedStep

EXAMPLES = """\b
Examples:
  narrowly persona watch RUN-ID --direction careless.safetensors
  narrowly persona watch RUN-ID BENIGN-RUN-ID \\
      --direction careless.safetensors --figure watched.svg

Every checkpoint is read on the same texts: prompts of --bank or, for a position
in the answer, with the base's own likeliest answer behind each. The shift is the
projection minus that of the base; share is the shift in units of the distance
between both sides of the direction's contrast. The interval is over texts.

Any fine-tuning moves states along any direction: name a benign run beside the
one that is meant. A shift is no rate of misaligned answers.
"""


def command(
    run: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories, run-ids or STUDY:CELL.")],
    direction: DirectionFile = ...,  # type: ignore[assignment]
    layer: Layer = None,
    position: Annotated[str | None, typer.Option("--position", help="By default that of the direction.")] = None,
    bank: Annotated[str | None, typer.Option("--bank", metavar="FILE", help="Questions; by default broad.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The first so many questions.")] = 48,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Save a figure: .svg, .png or .pdf.")
    ] = None,
    device: Device = "cpu",
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Watch the projection on a direction over the checkpoints of runs, beside their base."""
    need_extra("lab", "watching a run")
    if figure is not None and figure.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise SpecError(f"--figure {figure}: accepted is a file name that ends in .svg, .png, .pdf")
    from narrowly.directions.positions import position_named
    from narrowly.workbench.persona.opened import NamedModel, open_directions, open_model
    from narrowly.workbench.persona.panel import panel
    from narrowly.workbench.persona.watch import watch

    opened = [open_model(NamedModel(one, runs, device=device)) for one in dict.fromkeys(run)]
    directions = open_directions(direction, opened[0].model, layer)
    used = directions.card.layer if layer is None else layer
    where = position_named(position or directions.card.position)
    asked = panel(opened[0], directions.card, bank, limit)
    with PartsProgress() as progress:
        found = watch(opened, directions.at(used), used, where, asked, progress.on_step)
    if figure is not None:
        _save(found, directions.card.name, figure)
    if as_json:
        rows = [
            {"run": one.run, "step": one.step, "projection": one.projection, "shift": one.shift.estimate,
             "low": one.shift.low, "high": one.shift.high, "texts": one.shift.n, "share": one.share}
            for one in found
        ]  # fmt: skip
        print_json({"direction": directions.card.name, "layer": used, "position": where, "steps": rows})
        return 0
    _show(found, f"{safe(directions.card.name)}, layer {used}, {where}", figure)
    return 0


def _show(found: list[WatchedStep], what: str, figure: Path | None) -> None:
    say(f"{what}, {found[0].shift.n} texts; {found[0].shift.method}")
    rows = [
        [safe(one.run), one.step, one.projection, one.shift.estimate,
         interval(one.shift.low, one.shift.high), one.share]
        for one in found
    ]  # fmt: skip
    console().print(table(("run", "step", "projection", "shift", "95 % interval", "share"), rows))
    say("a shift is no rate of misaligned answers, and any fine-tuning moves states: see a benign run beside it")
    if figure is not None:
        say(f"figure: {figure}")


def _save(found: list[WatchedStep], name: str, path: Path) -> None:
    from narrowly.records.files import atomic_path
    from narrowly.report.adapter_figure import save_figure
    from narrowly.report.persona_figure import watched_runs

    with atomic_path(path) as temporary:
        save_figure(watched_runs(found, name), temporary)
