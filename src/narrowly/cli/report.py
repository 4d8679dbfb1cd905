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
    need_extra("lab", "a report")
    say(f"report: {rebuilt(study_dir)}")
    return 0


def rebuilt(study_dir: Path) -> Path:
    """Rebuild a study behind a line that says what is being done, and return the report's path."""
    from narrowly.report.write import report_study

    with error_console().status("reading") as status:
        return report_study(study_dir, status.update)
