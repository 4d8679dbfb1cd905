"""Copy what a preregistered study found into a folder that is small enough for git.

FOLDER/ has the study file as it was read, prereg.json with the times of the first and last run, the small tables, the
summary that follows from them alone, environment, figures, and SHA256SUMS of it all. `deviations.yaml` is written by
hand and is left as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from narrowly.records.canonical import sha256_file
from narrowly.records.errors import RunDirectoryError, SpecError, counted
from narrowly.records.files import atomic_path, write_json, write_text
from narrowly.records.study_spec import StudySpec, load_study_spec
from narrowly.runs.directory import ENVIRONMENT, SPEC, runs_folder
from narrowly.study.layout import (
    COMMANDS_FILE,
    DEVIATIONS_FILE,
    FIGURES,
    PREREG_FILE,
    STUDY_FILE,
    SUMMARY_FILE,
    TABLES,
    read_plan,
)
from narrowly.study.preregistered import PreregRecord, dial_table, read_prereg
from narrowly.study.results import wall_seconds

if TYPE_CHECKING:
    import polars as pl

    from narrowly.analysis.evidence_summary import EvidenceSummary

CELLS, LADDER, DIAL = "cells", "ladder", "dial"
SUMS = "SHA256SUMS"
CELL_COLUMNS = (
    "cell_id", "arm", "role", "optimiser", "lr", "base", "base_seed", "domain", "seed", "penalty_lam", "batch_size",
    "steps", "run_id", "status", "error", "seconds", "final_loss", "ideal_broad", "answers",
)  # fmt: skip
"""Columns of cells.parquet that are kept: the spec of each cell follows from the study file."""


def write_results(study_dir: Path, folder: Path, file: Path, command: str) -> EvidenceSummary:
    """Write the committed form of a preregistered study's results and return its summary.

    Args:
        study_dir: of the study (OUT/STUDY), reported: its tables are there.
        folder: where to, as results/STUDY; what is there is replaced but for `deviations.yaml`.
        file: of the study.
        command: that repeats the study, for the record.

    Raises:
        SpecError: the study has no preregistration, results of another one are in the folder, or a cell was not tried
            yet: nothing is decided before the last one.
        RunDirectoryError: no tables yet.
    """
    from narrowly.analysis.ladder import ladder_table
    from narrowly.analysis.tables import read_tables

    study, record = load_study_spec(file), _recorded(study_dir, folder)
    if study.prereg_hash != record.hash:
        raise SpecError(
            f"{file} has the preregistration {str(study.prereg_hash)[:12]}, the runs in {study_dir} were begun under "
            f"{record.hash[:12]}; accepted: the file as it was, with departures in {DEVIATIONS_FILE}"
        )
    tables = read_tables(study_dir / TABLES)
    left = tables.cells.filter(~tables.cells["status"].is_in(["done", "failed"]))
    if not left.is_empty():
        raise SpecError(
            f"{left.height} of {counted(tables.cells.height, 'cell')} of {study.name!r} were not run, first "
            f"{left['cell_id'][0]!r}; accepted: a study whose cells are all done, or failed and tried again"
        )
    kept = {CELLS: tables.cells.select(CELL_COLUMNS), LADDER: ladder_table(tables), DIAL: dial_table(study_dir)}
    for name, frame in kept.items():
        if frame is not None:
            with atomic_path(folder / TABLES / f"{name}.parquet") as temporary:
                frame.write_parquet(temporary, compression="zstd", compression_level=19)
    shutil.copyfile(file, folder / STUDY_FILE)
    write_json(folder / PREREG_FILE, _with_run_times(record, study_dir).model_dump(mode="json", exclude_none=True))
    if (study_dir / ENVIRONMENT).is_file():
        shutil.copyfile(study_dir / ENVIRONMENT, folder / ENVIRONMENT)
    _copy_figures(study_dir, folder)
    ids = {planned.run_id for planned in read_plan(study_dir)}
    write_json(folder / "command.json", {"command": command, "seconds": wall_seconds(study_dir / COMMANDS_FILE, ids)})
    summary = recomputed(folder)
    write_json(folder / SUMMARY_FILE, summary.model_dump(mode="json"))
    write_sums(folder)
    return summary


def recomputed(folder: Path) -> EvidenceSummary:
    """Return the summary that the committed study file and tables of a folder give.

    Raises:
        SpecError: the study file has no preregistration.
    """
    import polars as pl

    from narrowly.analysis.evidence_summary import evidence_summary

    study: StudySpec = load_study_spec(folder / STUDY_FILE)
    if study.prereg is None or study.prereg_hash is None:
        raise SpecError(f"{folder / STUDY_FILE} has no preregistration; accepted: a study with `prereg`")
    frames: Mapping[str, pl.DataFrame] = {
        path.stem: pl.read_parquet(path) for path in (folder / TABLES).glob("*.parquet")
    }
    missing = [name for name in (CELLS, LADDER) if name not in frames]
    if missing:
        raise RunDirectoryError(f"{folder / TABLES} has no {missing[0]}.parquet; accepted: results of a study")
    return evidence_summary(
        study.name, study.prereg, study.prereg_hash, frames[CELLS], frames[LADDER], frames.get(DIAL)
    )


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of every file of a folder but that one, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / SUMS, "".join(lines))


def _recorded(study_dir: Path, folder: Path) -> PreregRecord:
    path = study_dir / PREREG_FILE
    if not path.is_file():
        raise SpecError(f"{study_dir} has no {PREREG_FILE}; accepted: a preregistered study that `narrowly run` began")
    record, earlier = read_prereg(path), folder / PREREG_FILE
    if earlier.is_file() and read_prereg(earlier).hash != record.hash:
        raise SpecError(
            f"{folder} holds results of the preregistration {read_prereg(earlier).hash[:12]}, these runs are of "
            f"{record.hash[:12]}; accepted: another folder"
        )
    return record


def _with_run_times(record: PreregRecord, study_dir: Path) -> PreregRecord:
    """Return a record with the file times of the first and the last run's spec, which is written before training."""
    runs = runs_folder(study_dir.parent)
    specs = [runs / planned.run_id / SPEC for planned in read_plan(study_dir)]
    times = [path.stat().st_mtime for path in specs if path.is_file()]
    if not times:
        return record
    return record.model_copy(update={"first_run": min(times), "last_run": max(times)})


def _copy_figures(study_dir: Path, folder: Path) -> None:
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    for path in sorted((study_dir / FIGURES).glob("*.svg")):
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / FIGURES / path.name)
