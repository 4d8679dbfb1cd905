"""`narrowly status`: how far the studies of a folder are."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, RunsOrOut
from narrowly.cli.terminal import console, print_json, safe, say, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from narrowly.study.preview import CellState

EXAMPLES = """\b
Examples:
  narrowly status
  narrowly status micro
  narrowly status micro --runs /data/out --json

It reads files only, so it may be used while a study runs. `narrowly logs` shows what a cell on a cluster prints.
"""
STATES = ("done", "working", "failed", "pending")


def command(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Name of a study under --runs; all by default.")
    ] = None,
    runs: RunsOrOut = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Show how many cells of each study are done, at work, failed or pending."""
    from narrowly.records.errors import unknown_name
    from narrowly.study.preview import cell_states, study_folders

    folders = {folder.name: folder for folder in study_folders(runs)}
    if study is not None and study not in folders:
        raise unknown_name(f"study under {runs}:", study, folders)
    chosen = {study: folders[study]} if study is not None else folders
    states = {name: cell_states(folder) for name, folder in chosen.items()}
    if as_json:
        cells = {
            name: [
                {
                    "cell_id": one.planned.cell_id,
                    "run_id": one.planned.run_id,
                    "status": one.status,
                    "error": one.error,
                    "where": one.where,
                    "not_evaluated": one.planned.not_evaluated,
                }
                for one in found
            ]
            for name, found in states.items()
        }
        print_json(cells)
        return 0
    if not states:
        say(f"no study under {runs}; begin with: narrowly run smoke")
        return 0
    if study is None:
        counts = {name: Counter(one.status for one in found) for name, found in states.items()}
        rows = ((name, len(states[name]), *(count[state] for state in STATES)) for name, count in counts.items())
        console().print(table(("study", "cells", *STATES), rows))
        _say_unjudged(one for found in states.values() for one in found)
        return 0
    by_arm: dict[str, Counter[str]] = {}
    for one in states[study]:
        by_arm.setdefault(one.planned.cell.arm, Counter())[one.status] += 1
    console().print(
        table(("arm", *STATES), ((arm, *(count[state] for state in STATES)) for arm, count in sorted(by_arm.items())))
    )
    working = [one for one in states[study] if one.status == "working"]
    if working:
        console().print(table(("at work", "where"), ((one.planned.cell_id, safe(one.where)) for one in working)))
    for one in states[study]:
        if one.status == "failed":
            say(f"FAILED {one.planned.cell_id}: {safe(one.error)}", "red")
    _say_unjudged(states[study])
    return 0


def _say_unjudged(states: Iterable[CellState]) -> None:
    """Say of which studies' cells the training is all that is done."""
    from narrowly.records.outcome import NO_JUDGE

    done = [one for one in states if one.status == "done"]
    by_study = Counter(one.planned.cell.study for one in done if one.planned.not_evaluated is not None)
    for name, count in by_study.items():
        total = sum(one.planned.cell.study == name for one in done)
        say(f"{name}: broad alignment {NO_JUDGE} in {count} of the {total} cells that are done", "yellow")
