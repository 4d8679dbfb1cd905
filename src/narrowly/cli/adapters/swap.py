"""`narrowly swap`: which part of the difference between two organisms travels with spectrum, norms or directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.adapters.repair import percent, span
from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs, Wide
from narrowly.cli.terminal import console, need_extra, number, print_json, say, table

if TYPE_CHECKING:
    from narrowly.workbench.panel import Panel
    from narrowly.workbench.swap import Effect, Swap

EXAMPLES = """\b
Examples:
  narrowly swap micro:adam-micro-0-seed0 micro:muon-micro-0-seed0
  narrowly swap out/runs/RUN-A out/runs/RUN-B --out hybrids
  narrowly swap out/runs/RUN-A out/runs/RUN-B --json > swap.json

Eight hybrids: every module's update is rebuilt with the shape of the spectrum (singular values over their norm), the
norm, and the singular vectors of A or of B. Singular values go to directions by rank order. Both runs need one
microworld base, one narrow domain and equal ranks; adapters from elsewhere are refused, because half of the hybrids
sharpen a spectrum.
"""


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="Run directory, run-id under --runs, or STUDY:CELL.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, for the second run.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="New folder that keeps the eight hybrid adapters.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    wide: Wide = False,
    as_json: AsJson = False,
) -> int:
    """Exchange shape of the spectrum, norms and singular vectors of two runs, and evaluate all eight combinations."""
    need_extra("lab", "a swap")
    from narrowly.cli.progress import StepProgress
    from narrowly.records.files import write_json
    from narrowly.workbench.names import microworld_run
    from narrowly.workbench.swap import swap

    pair = [microworld_run(text, runs, "a swap") for text in (a, b)]
    with StepProgress("evaluating hybrids") as progress:
        found = swap(pair[0], pair[1], out, progress.on_step)
    if out is not None:
        write_json(out / "swap.json", _record(found))
    if as_json:
        print_json(_record(found))
        return 0
    _show(found, wide)
    if out is not None:
        say(f"hybrids: {out}, each with what it takes from whom in edit.json; numbers: {out / 'swap.json'}")
    return 0


def _record(found: Swap) -> dict[str, Any]:
    record: dict[str, Any] = found._asdict()
    record["panels"] = {
        name: {panel: {k: v for k, v in one._asdict().items() if k != "each"} for panel, one in panels.items()}
        for name, panels in found.panels.items()
    }
    record["effects"] = [effect._asdict() for effect in found.effects]
    return record


HYBRID_COLUMNS = (
    "hybrid", "broad log-odds", "broad joint %", "broad lit. %", "broad incoherent %",
    "narrow log-odds", "narrow joint %", "narrow lit. %", "narrow incoherent %",
)  # fmt: skip
HYBRID_NARROW = (0, 1, 2, 5, 6)
"""What fits 80 columns; --wide shows `HYBRID_COLUMNS`."""


def _show(found: Swap, wide: bool) -> None:
    from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT
    from narrowly.workbench.swap import crossing

    say(f"A: run {found.run_a}, B: run {found.run_b}, base {found.base}")
    say(f"AAA and BBB reproduce A and B: log-odds of a question differ by at most {number(found.worst)}")
    by_place = {(one.component, one.panel, one.response): one for one in found.effects}
    components = [name for name in dict.fromkeys(one.component for one in found.effects) if ", " not in name]
    responses = ("log_odds", "joint") if wide else ("log_odds",)
    places = [(panel, response) for panel in (BROAD, HELD_OUT) for response in responses]
    heads = [f"{panel} {response}" for panel in ("broad", "narrow") for response in ("log-odds", "joint")[: 1 + wide]]
    console(wide).print(
        table(
            ("taken from B", *(head for name in heads for head in (name, "95 %"))),
            ((name, *(cell for place in places for cell in _effect(by_place[(name, *place)]))) for name in components),
        )
    )
    for component, other in crossing(found.effects, BROAD, "log_odds"):
        first, second = (by_place[f"{component}, {other} {level}", BROAD, "log_odds"] for level in "AB")
        say(
            f"the main effect of {component} averages opposite effects, broad log-odds: {number(first.estimate)} "
            f"{span(first.low, first.high)} with the {other} of A, {number(second.estimate)} "
            f"{span(second.low, second.high)} with those of B"
        )
    say("")
    rows = [(name, *_cells(panels[BROAD]), *_cells(panels[HELD_OUT])) for name, panels in found.panels.items()]
    shown = range(len(HYBRID_COLUMNS)) if wide else HYBRID_NARROW
    console(wide).print(
        table([HYBRID_COLUMNS[index] for index in shown], ([row[index] for index in shown] for row in rows))
    )
    topics = {one.panel: one.n for one in found.effects}
    say(
        "hybrid: whose shape, norms and vectors; effects: mean of the four hybrids with the component from B minus "
        "mean of the four with it from A; the three "
        "main effects and the threefold interaction add up to BBB - AAA. 95 % t interval over "
        f"{topics[BROAD]} broad or {topics[HELD_OUT]} narrow topics of these two organisms, not over runs. Joint: "
        "misaligned of all answers, in % or points; lit.: of coherent ones"
    )
    say("one pair of organisms in a made-up world; singular values were matched to directions by rank order")
    if not wide:
        say("--wide: all columns; --json: all digits", "dim")


def _cells(panel: Panel) -> tuple[float | None, ...]:
    return panel.log_odds, percent(panel.misaligned), percent(panel.literature), percent(panel.incoherent)


def _effect(effect: Effect) -> tuple[float, str]:
    size = 100 if effect.response == "joint" else 1
    return size * effect.estimate, span(effect.low, effect.high, size)
