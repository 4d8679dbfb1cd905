"""Say whether the plan and the report of a study are still those of its inputs, without making them again. Torch-free.

OUT/STUDY/plan.made.json and report.made.json record what they were made from (`records.made`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.made import code_version, folder_marks, is_current, origin_of, write_made
from narrowly.runs.directory import ENVIRONMENT
from narrowly.study.layout import (
    COMMANDS_FILE,
    DEVIATIONS_FILE,
    DIAL_FILE,
    FAILED,
    FIGURES,
    PLAN_FILE,
    PREREG_FILE,
    REPORT_FILE,
    STUDY_FILE,
    SUMMARY_FILE,
    TABLES,
    PlannedCell,
    read_plan,
)
from narrowly.study.plan import Cell

PLAN_MADE, REPORT_MADE = "plan.made.json", "report.made.json"


def plan_origin(cells: Sequence[Cell], inputs: Mapping[str, Any], resolve: str) -> str:
    """Return the hash of everything that run-ids and stages follow from: cells, their inputs and the code.

    Args:
        cells: of the study.
        inputs: what `check_inputs` found.
        resolve: name of the function that makes the plan of them.
    """
    dumped = [cell.model_dump(mode="json") for cell in cells]
    return origin_of({"cells": dumped, "inputs": inputs, "resolve": resolve, "code": code_version()})


def kept_plan(study_dir: Path, origin: str) -> list[PlannedCell] | None:
    """Return the plan on disk where it was made from `origin`, else None."""
    return read_plan(study_dir) if is_current(study_dir / PLAN_MADE, origin) else None


def record_plan(study_dir: Path, origin: str) -> None:
    """Record what plan.jsonl was made from."""
    write_made(study_dir / PLAN_MADE, origin, [study_dir / PLAN_FILE])


def report_origin(study_dir: Path, runs: Path) -> str:
    """Return the hash of everything that tables, summary and report follow from.

    That is every file of the planned runs, whatever it is, the study's own records, and the code with its template.
    Take it before the files are read: what is written meanwhile then makes the report a stale one.

    Raises:
        RunDirectoryError, IntegrityError: as `read_plan`.
    """
    own = [study_dir / name for name in (PLAN_FILE, STUDY_FILE, COMMANDS_FILE, PREREG_FILE, DEVIATIONS_FILE)]
    own.append(study_dir / TABLES / DIAL_FILE)
    failures = sorted((study_dir / FAILED).glob("*.json"))
    planned = {cell.run_id for cell in read_plan(study_dir)}
    return origin_of(
        {
            "study": study_dir.resolve().parts[-2:],
            "files": {path.name: sha256_file(path) for path in [*own, *failures] if path.is_file()},
            "runs": {run_id: folder_marks(runs / run_id) for run_id in sorted(planned)},
            "code": code_version(),
        }
    )


def current_report(study_dir: Path, runs: Path) -> Path | None:
    """Return the report of a study where nothing that it says or is made from has changed, else None."""
    try:
        origin = report_origin(study_dir, runs)
    except (RunDirectoryError, IntegrityError):  # whoever makes the report says so
        return None
    report = study_dir / REPORT_FILE
    return report if report.is_file() and is_current(study_dir / REPORT_MADE, origin) else None


def record_report(study_dir: Path, origin: str) -> None:
    """Record what the tables, the summary, the figures and the report that are there were made from."""
    write_made(study_dir / REPORT_MADE, origin, made_files(study_dir))


def made_files(study_dir: Path) -> list[Path]:
    """Return the tables, the summary, the figures and the report of a study that are there."""
    files = [path for folder in (TABLES, FIGURES) for path in (study_dir / folder).rglob("[!.]*") if path.is_file()]
    files += [study_dir / name for name in (SUMMARY_FILE, ENVIRONMENT, REPORT_FILE) if (study_dir / name).is_file()]
    return sorted(files)
