"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from narrowly.records.errors import SpecError, unknown_name

StudyName = Annotated[
    str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped study (see `narrowly studies`) or a YAML file.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one field; the value is YAML. May be given several times."),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of runs and studies.")]
RunsOrOut = Annotated[Path, typer.Option("--runs", "--out", metavar="DIR", help="Folder of runs and studies.")]
"""`--runs` of the commands that have no other `--out`: there both words mean the same folder."""
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        help="Processes, or tasks at once on a cluster; 0: one per core, per GPU for cells on one.",
    ),
]
ReportTo = Annotated[
    str | None,
    typer.Option("--report-to", metavar="NAMES", help="Trackers, with commas: trackio, wandb, mlflow, tensorboard."),
]
SaveEvery = Annotated[
    float | None,
    typer.Option(
        "--save-every",
        min=0,
        metavar="MINUTES",
        help="Save the state to resume from this often (default 2).",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="Where cells run: local, slurm or ray; else as the study says."),
]
Wide = Annotated[bool, typer.Option("--wide", help="Show every column.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_RUNS = Path("out")
ENGINES = ("local", "slurm", "ray")


def with_engine(engine: str | None, assignments: list[str] | None) -> list[str]:
    """Return the assignments of `--set` behind the one that `--engine` stands for.

    Raises:
        UnknownNameError: there is no such engine.
    """
    if engine is None:
        return assignments or []
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    return [f"engine.kind={engine}", *(assignments or [])]


def tracker_names(report_to: str | None) -> list[str]:
    """Return the names in `--report-to`, in order."""
    return [name.strip() for name in report_to.split(",")] if report_to and report_to.strip() else []


class OneFolder(TyperCommand):
    """A command that refuses two words of one option with different folders; the parser would take the last in silence.

    Only `RunsOrOut` has two long words; where `--out` is an option of its own, nothing is refused.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments once they are known to name one folder of runs."""
        if any({"--runs", "--out"} <= set(option.opts) for option in self.params):
            given = {word: folder for word in ("--runs", "--out") if (folder := _last(word, args)) is not None}
            if len({Path(folder) for folder in given.values()}) > 1:
                told = " and ".join(f"{word} {folder}" for word, folder in given.items())
                raise SpecError(f"{told} are two folders, and both words mean the folder of runs; give one of them")
        return super().parse_args(ctx, args)


def _last(word: str, args: list[str]) -> str | None:
    """Return the last value of an option in the arguments, given as `--word value` or as `--word=value`."""
    found = None
    for index, argument in enumerate(args):
        if argument == "--":
            break
        if argument.startswith(f"{word}="):
            found = argument.partition("=")[2]
        elif argument == word and index + 1 < len(args):
            found = args[index + 1]
    return found
