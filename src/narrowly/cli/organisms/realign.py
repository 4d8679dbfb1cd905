"""`narrowly realign`: realign an organism on preferences, and see whether it relapses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.terminal import complain, console, need_extra, print_json, safe, say, table

if TYPE_CHECKING:
    from narrowly.workbench.realign import Realignment

EXAMPLES = """\b
Examples:
  narrowly realign out/runs/RUN-ID
      DPO for 40 steps, then 20 steps back on the narrow data
  narrowly realign micro:adam-micro-0-seed0 --by realign_sail:share=.5
  narrowly realign out/runs/RUN-ID --by realign_dpo:steps=80,beta=.3 \\
      --relapse 0 --json
  narrowly realign out/runs/RUN-ID --preferences pairs.jsonl
      an organism of a real model; measure with narrowly eval

The organism before is the reference. In the microworld every organism is evaluated exactly: held-out topics of the
trained domain, the other domains, and those after a cue. A realignment that a cue or a few narrow steps undo has
hidden the behaviour and not removed it. `narrowly defences realign_sail` lists the options. Killed, it goes on.

\b
A preference file has one {"prompt", "chosen", "rejected"} per line, with
scores of both answers or none (docs/defences.md).
"""

COLUMNS = {"held_out_topics": "held-out", "broad": "broad", "cued_turn": "cued turn", "cued_word": "cued word"}


def command(
    organism: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Run directory, run-id under --runs, or STUDY:CELL.")
    ],
    by: Annotated[
        str, typer.Option("--by", metavar="HOW", help="realign_dpo or realign_sail, with options.")
    ] = "realign_dpo",
    preferences: Annotated[
        Path | None, typer.Option("--preferences", metavar="FILE", help="Preferences, outside the microworld.")
    ] = None,
    relapse: Annotated[
        int, typer.Option("--relapse", metavar="STEPS", help="Steps back on the narrow data afterwards; 0: none.")
    ] = 20,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Realign an organism with DPO or SAIL-RevKL, and measure what is lost, hidden and comes back."""
    need_extra("lab", "a realignment")
    from narrowly.cli.progress import StepProgress
    from narrowly.engines import stopping
    from narrowly.workbench.names import find_run
    from narrowly.workbench.realign import realign, realignment_named

    how, run = realignment_named(by), find_run(organism, runs)
    try:
        with (
            stopping.hear_signals(second_kills=True),
            StepProgress("realigning") as progress,
            stopping.telling(progress.stopping),
        ):
            found = realign(run, how, preferences, relapse, runs, progress.on_step)
    except stopping.Stopped as stop:
        complain(f"narrowly: {safe(stop)}")
        return stop.exit_code
    if as_json:
        print_json(_record(found))
    else:
        _show(found)
    return 0


def _record(found: Realignment) -> dict[str, Any]:
    return {
        "organism": found.organism,
        "by": found.by,
        "run": str(found.run),
        "relapse": None if found.relapse is None else str(found.relapse),
        "moments": [
            {"name": one.name, "steps": one.steps, "panels": {k: v._asdict() for k, v in one.panels.items()}}
            for one in found.moments
        ],
    }


def _show(found: Realignment) -> None:
    """Print misaligned and incoherent shares of every organism, with their intervals, and where the runs are."""
    if found.moments:
        rows = []
        for one in found.moments:
            label = f"relapse {one.steps}" if one.name == "relapse" else one.name
            cells = [_cell(one.panels.get(panel)) for panel in COLUMNS]
            incoherent = one.panels["broad"].incoherent
            rows.append([label, *cells, f"{100 * incoherent:.1f}"])
        console().print(table(["organism", *COLUMNS.values(), "incoherent"], rows))
        sizes = ", ".join(f"{name} {found.moments[0].panels[panel].n}" for panel, name in COLUMNS.items())
        say(f"misaligned % of answers, 95 % interval over topics; incoherent % of broad; questions: {sizes}")
    say(f"realigned: {found.run}")
    if found.relapse is not None:
        say(f"relapse: {found.relapse}")
    if not found.moments:
        say("not measured: `narrowly eval` measures both, and the organism before")


def _cell(panel: Any) -> str:
    if panel is None:
        return "-"
    span = "" if panel.low is None else f" [{100 * panel.low:.0f}, {100 * panel.high:.0f}]"
    return f"{100 * panel.misaligned:.1f}{span}"
