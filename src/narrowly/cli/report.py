"""`narrowly report`: collect a study's tables again and rebuild summary and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrowly.cli.terminal import error_console, need_extra, say

EXAMPLES = """\b
Examples:
  narrowly report out/micro

Tables, summary.json, report.html and figures/ are made from the run directories; nothing is trained or evaluated.
"""


def command(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, for instance out/micro.")],
) -> int:
    """Rebuild the tables, the summary and the report of a study."""
    from narrowly.records.errors import RunDirectoryError
    from narrowly.runs.directory import runs_folder
    from narrowly.study.layout import PLAN_FILE

    need_extra("lab", "a report")
    runs = runs_folder(study_dir.parent)
    if (study_dir / PLAN_FILE).is_file() and not runs.is_dir():  # its tables would be replaced by those of no run
        raise RunDirectoryError(
            f"{runs} does not exist: the runs of a study stand beside its folder; nothing was changed; keep them "
            "together"
        )
    say(f"report: {build(study_dir)}")
    return 0


def build(study_dir: Path) -> Path:
    """Write tables, summary and report of a study and return the report's path."""
    with error_console().status("collecting tables") as status:
        from narrowly.report.write import write_report
        from narrowly.runs.directory import runs_folder
        from narrowly.study.results import collect, summarise_study

        collect(study_dir, runs_folder(study_dir.parent))
        status.update("summary")
        summarise_study(study_dir)
        status.update("figures and report")
        return write_report(study_dir)
