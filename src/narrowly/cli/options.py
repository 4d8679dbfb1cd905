"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    int, typer.Option("--workers", min=0, help="Processes; 0 means one per core, one alone for cells on a GPU.")
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
Wide = Annotated[bool, typer.Option("--wide", help="Show every column.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_RUNS = Path("out")


def tracker_names(report_to: str | None) -> list[str]:
    """Return the names in `--report-to`, in order."""
    return [name.strip() for name in report_to.split(",")] if report_to and report_to.strip() else []
