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
Where runs, study, code and the files themselves are what they were, nothing is made anew.
"""


def command(
    study_dir: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Folder of a study, for instance out/micro.")],
) -> int:
    """Rebuild the tables, the summary and the report of a study where they are not current."""
    need_extra("lab", "a report")
    say_report(study_dir)
    return 0


def say_report(study_dir: Path) -> None:
    """Say where the report of a study is, after it was made anew where something that it is made from has changed."""
    from narrowly.runs.directory import runs_folder
    from narrowly.study.current import current_report

    found = current_report(study_dir, runs_folder(study_dir.parent))
    if found is not None:
        say(f"report: {found} (current: nothing has changed since it was made)")
        return
    from narrowly.report.write import report_study

    with error_console().status("reading") as status:
        made = report_study(study_dir, status.update)
    say(f"report: {made}")
