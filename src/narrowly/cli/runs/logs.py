"""`narrowly logs`: what a cell has printed on a cluster, and its last error."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, RunsOrOut
from narrowly.cli.plain import without_controls
from narrowly.cli.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = """\b
Examples:
  narrowly logs micro:adam-micro-0-seed0
  narrowly logs micro:adam-micro-0-seed0 --lines 1000

A task of several cells has one log for all of them. Cells of the local engine print to the terminal of their command;
of them the last error is shown.
"""


def command(
    cell: Annotated[str, typer.Argument(metavar="STUDY:CELL", help="A cell of a study under --runs.")],
    runs: RunsOrOut = DEFAULT_RUNS,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Last lines of each log.")] = 100,
) -> int:
    """Show the last lines that a cell has printed on a cluster, and the traceback of its last failure."""
    from narrowly.records.errors import SpecError, unknown_name
    from narrowly.study.layout import read_failure, read_plan
    from narrowly.study.places import read_places
    from narrowly.study.preview import study_folders

    study, colon, name = cell.partition(":")
    if not colon or not name:
        raise SpecError(f"found {cell!r}, accepted: STUDY:CELL, as `narrowly plan STUDY --cells` names them")
    folders = {folder.name: folder for folder in study_folders(runs)}
    if study not in folders:
        raise unknown_name(f"study under {runs}:", study, folders)
    planned = {one.cell_id: one for one in read_plan(folders[study])}
    if name not in planned:
        raise unknown_name(f"cell of study {study!r}", name, planned)
    places = read_places(folders[study]).get(planned[name].run_id)
    for log in places.logs if places is not None else ():
        _show(log, lines)
    if places is None:
        say(f"{name} ran in processes of its command, whose terminal has its lines")
    elif places.where:
        say(f"last place: {without_controls(places.where)}")
    failure = read_failure(folders[study], planned[name])
    if failure is not None:
        say(f"last failure, on {without_controls(str(failure.get('host', 'an unknown host')))}:", "red")
        for line in str(failure.get("traceback") or failure.get("error")).splitlines():
            typer.echo(without_controls(line))
    return 0


def _show(log: Path, lines: int) -> None:
    """Print the end of a log; what a program has written there acts on no terminal."""
    say(f"== {log}")
    try:
        with log.open("rb") as stream:
            last = deque(stream, lines)
    except OSError as error:
        say(f"cannot be read: {error.strerror or error}", "yellow")
        return
    for line in last:
        typer.echo(without_controls(line.decode("utf-8", "replace").rstrip("\r\n")))
