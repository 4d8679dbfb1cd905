"""`spectralign plan`: what a study would do, and how long it would take."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from spectralign.cli.options import DEFAULT_OUT, AsJson, Assignments, Out, StudyName, Workers
from spectralign.cli.terminal import console, duration, say, table

EXAMPLES = """\b
Examples:
  spectralign plan micro
  spectralign plan micro --set grid.seed=[0,1,2] --workers 8
  spectralign plan my-study.yaml --cells
  spectralign plan my-study.yaml --json
"""


def command(
    study: StudyName,
    set_: Assignments = None,
    out: Out = DEFAULT_OUT,
    workers: Workers = 0,
    cells: Annotated[bool, typer.Option("--cells", help="List every cell in the order of execution.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show a study's cells by arm, what is done already, and an estimate of the time; nothing is run."""
    from spectralign.study.executor import usable_cores
    from spectralign.study.plan import expand, find_study
    from spectralign.study.preview import preview

    spec = find_study(study, set_ or [])
    planned = expand(spec)
    seen = preview(spec, planned, out, workers or usable_cores())
    if as_json:
        rows = [{**cell.model_dump(mode="json"), "status": seen.status[cell.cell_id]} for cell in planned]
        typer.echo(json.dumps({"study": spec.name, "seconds": seen.seconds, "measured": seen.measured, "cells": rows}))
        return 0
    if cells:
        rows_of = (
            (cell.cell_id, seen.status[cell.cell_id], cell.spec.optimiser.lr, len(cell.edits)) for cell in planned
        )
        console().print(table(("cell", "status", "lr", "edits"), rows_of))
    else:
        count = Counter(cell.arm for cell in planned)
        done = Counter(cell.arm for cell in planned if seen.status[cell.cell_id] == "done")
        first = {cell.arm: cell for cell in reversed(planned)}
        arms = (
            (name, arm.role, first[name].spec.optimiser.kind, count[name], done[name], len(arm.edits))
            for name, arm in spec.arms.items()
            if count[name]
        )
        console().print(table(("arm", "role", "optimiser", "cells", "done", "edits"), arms))
    left = sum(status != "done" for status in seen.status.values())
    basis = "from finished cells" if seen.measured else "from default times, none measured yet"
    time_left = f"about {duration(seen.seconds)} on {workers or usable_cores()} workers ({basis})"
    say(f"{len(planned)} cells, {len(planned) - left} done" + (f"; {time_left}" if left else ""))
    return 0
