"""`narrowly report`: rebuild the report of a study, or the page of a folder of `narrowly eval` or `narrowly judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import error_console, need_extra, print_json, safe, say
from narrowly.records.errors import SpecError

EXAMPLES = """\b
Examples:
  narrowly report out/micro
  narrowly report out/micro --json
      where it is, whether it was current, and every file of it
  narrowly report results/work
      the page of a folder that narrowly eval --out wrote
  narrowly report answers.judged
      every judged answer, to read, search and filter (content warning)
  narrowly report answers.judged --share
      shared.html: the same numbers, no text of a question or an answer

Tables, summary.json, report.html and figures/ are made from the run directories; nothing is trained or evaluated.
Where runs, study, code and the files themselves are what they were, nothing is made anew.
"""


def command(
    study_dir: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of a study, as out/micro, of eval --out, or of judge.")
    ],
    share: Annotated[
        bool, typer.Option("--share", help="Of judge: leave out all texts of questions, answers.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Rebuild the report of a study where it is not current, or the page of an evaluation or of judged answers."""
    need_extra("lab", "a report")
    from narrowly.report.judged_page import is_judged_result, judged_page_files, write_judged_page
    from narrowly.report.paired_page import is_paired_result, paired_page_files, write_paired_page

    judged = is_judged_result(study_dir)
    if share and not judged:
        raise SpecError(
            f"--share is for folders of narrowly judge, and {safe(study_dir)} is none; accepted: no --share"
        )
    if judged:
        path = write_judged_page(study_dir, without_texts=share)
        made, files = MadeReport(path, False), judged_page_files(study_dir, without_texts=share)
    elif is_paired_result(study_dir):
        made, files = MadeReport(write_paired_page(study_dir), False), paired_page_files(study_dir)
    else:
        made, files = made_report(study_dir), None
    if as_json:
        print_json({"report": str(made.path), "current": made.was_current, "files": files or report_files(study_dir)})
    else:
        say_made(made)
    return 0


class MadeReport(NamedTuple):
    """Hold where a report is, and whether it was there already and nothing was made anew."""

    path: Path
    was_current: bool


def say_made(made: MadeReport) -> None:
    """Say where a report is."""
    say(f"report: {made.path}" + " (current: nothing has changed since it was made)" * made.was_current)


def made_report(study_dir: Path) -> MadeReport:
    """Make the report of a study anew where something that it is made from has changed."""
    from narrowly.runs.directory import runs_folder
    from narrowly.study.current import current_report

    found = current_report(study_dir, runs_folder(study_dir.parent))
    if found is not None:
        return MadeReport(found, True)
    from narrowly.report.write import report_study

    with error_console().status("reading") as status:
        return MadeReport(report_study(study_dir, status.update), False)


def report_files(study_dir: Path) -> list[str]:
    """Return the paths of everything that is made with a report: tables, summary, figures and the page."""
    from narrowly.study.current import REPORT_MADE, made_files

    return [str(path) for path in (*made_files(study_dir), study_dir / REPORT_MADE)]
