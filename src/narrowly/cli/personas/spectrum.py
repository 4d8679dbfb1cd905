"""`narrowly persona spectrum`: how much of an adapter's shift along a direction each singular direction carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask import known_dtype
from narrowly.cli.parts import PartsProgress
from narrowly.cli.personas.shared_options import BaseOf, Device, DirectionFile, Dtype, Layer, Thinking
from narrowly.cli.terminal import console, need_extra, number, print_json, safe, say, short_modules, table

if TYPE_CHECKING:
    from narrowly.workbench.persona.adapter import AdapterMovement

EXAMPLES = """\b
Examples:
  narrowly persona spectrum RUN-ID --direction careless.safetensors
  narrowly persona spectrum path/to/adapter --base smollm2-135m \\
      --direction careless.safetensors --json

The shift of the states along the direction, with the adapter minus without it on
the same texts, is split over modules and singular directions of s*B*A: gradients
of the projection at each module's output times what the direction writes there,
integrated while the adapter is put in place. The parts add up to the shift, but
for the error that is printed. They do not depend on the gauge of A and B.
Random directions of the same length are read beside; name a benign adapter, too.
"""
SHOWN = 12
"""Modules that are shown; --json has all."""


def command(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Run or adapter folder.")],
    direction: DirectionFile = ...,  # type: ignore[assignment]
    layer: Layer = None,
    position: Annotated[str | None, typer.Option("--position", help="By default that of the direction.")] = None,
    bank: Annotated[str | None, typer.Option("--bank", metavar="FILE", help="Questions; by default broad.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The first so many questions.")] = 48,
    random: Annotated[int, typer.Option("--random", min=0, max=20, help="Random directions beside it.")] = 4,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=64, help="Points of the integral.")] = 4,
    base: BaseOf = None,
    thinking: Thinking = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Split an adapter's shift along a direction over the singular directions of its updates."""
    need_extra("lab", "reading an adapter's states")
    from narrowly.directions.positions import position_named
    from narrowly.workbench.persona.adapter import adapter_movement
    from narrowly.workbench.persona.opened import NamedModel, open_directions, open_model
    from narrowly.workbench.persona.panel import panel

    opened = open_model(NamedModel(adapter, runs, base, "final", thinking, known_dtype(dtype), device))
    directions = open_directions(direction, opened.model, layer)
    used = directions.card.layer if layer is None else layer
    where = position_named(position or directions.card.position)
    asked = panel(opened, directions.card, bank, limit)
    with PartsProgress() as progress:
        found = adapter_movement(
            opened, directions.at(used), used, where, asked, random=random, nodes=nodes, progress=progress.on_step
        )
    if as_json:
        print_json({"direction": directions.card.name, "layer": used, "position": where, **_as_json(found)})
        return 0
    say(f"{safe(directions.card.name)}, layer {used}, {where}, {found.texts} texts")
    _show(found, float(directions.at(used).norm()))
    return 0


def _as_json(found: AdapterMovement) -> dict[str, object]:
    from narrowly.workbench.persona.adapter import by_rank

    moved = found.movement
    modules = [
        {"module": one.name, "singular_values": one.S_C.tolist(), "parts": one.parts_D_C.tolist(),
         "written": None if one.written_D_C is None else one.written_D_C.tolist(),
         "transported": one.transported_D_C.tolist()}
        for one in moved.modules
    ]  # fmt: skip
    return {
        "texts": found.texts, "shift": moved.shift_D.tolist(), "missing": moved.missing_D.tolist(),
        "by_rank": [one._asdict() for one in by_rank(moved)], "modules": modules,
        "skipped": [{"name": name, "reason": reason} for name, reason in found.skipped],
    }  # fmt: skip


def _show(found: AdapterMovement, length: float) -> None:
    from narrowly.workbench.persona.adapter import by_rank

    moved = found.movement
    shift, missing = float(moved.shift_D[0]), float(moved.missing_D[0])
    twins = [number(abs(float(one))) for one in moved.shift_D[1:]]
    beside = f"; along {len(twins)} random directions {', '.join(twins)} in size" if twins else ""
    say(f"shift {number(shift)} ({number(shift / length)} of the direction's length){beside}")
    say(f"missing from the parts, the error of the integral: {number(missing)}")
    for name, reason in found.skipped:
        say(f"skipped: {safe(name)} ({safe(reason)})", "yellow")
    ranks = by_rank(moved)
    rows = [[one.k, one.energy, one.part, one.share, one.random] for one in ranks]
    console().print(table(("singular direction", "energy", "part", "of the shift", "random"), rows))
    largest = sorted(moved.modules, key=lambda one: -abs(float(one.parts_D_C[0].sum())))[:SHOWN]
    names = short_modules([one.name for one in largest])
    cells = [
        [name, float(one.parts_D_C[0].sum()), float(one.parts_D_C[0, 0]),
         None if one.written_D_C is None else float(one.written_D_C[0, 0]), float(one.transported_D_C[0, 0])]
        for name, one in zip(names, largest, strict=True)
    ]  # fmt: skip
    console().print(table(("module", "part", "of its first", "cos2 written", "cos2 transported"), cells))
    if len(moved.modules) > SHOWN:
        say(f"the {SHOWN} modules with the largest parts of {len(moved.modules)}; --json has all", "dim")
