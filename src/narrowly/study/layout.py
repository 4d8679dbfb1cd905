"""Lay out a study's files, and say when a cell is done. Torch-free: `plan` and `status` read it.

OUT/runs/ has the run directories, which studies share (`runs.directory` says what is in them). OUT/STUDY/ has
study.yaml, plan.jsonl, commands.jsonl, failed/CELL-ID.json, tables/, summary.json, figures/, the report, and what plan
and report were made from (`current`). A preregistered study has prereg.json and, where somebody wrote it,
deviations.yaml; tables/dial.parquet is that of an orthogonal dial. places.jsonl and engine/ are there where a cluster
did cells: where each ran, and what the engine submitted and printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from narrowly.evaluate.banks import Facts
from narrowly.evaluate.stage import Stage
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_json, read_jsonl, read_record, write_text
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import DONE, STAGE_RECORD, is_done
from narrowly.study.pace import default_seconds, pace_keys
from narrowly.study.plan import Cell

Status = Literal["done", "failed", "pending"]
STUDY_FILE, PLAN_FILE, COMMANDS_FILE, SUMMARY_FILE = "study.yaml", "plan.jsonl", "commands.jsonl", "summary.json"
PLACES_FILE, ENGINE_FOLDER = "places.jsonl", "engine"
"""Where cells ran on a cluster, one row per change, and what its engine writes."""

PREREG_FILE, DEVIATIONS_FILE, DIAL_FILE = "prereg.json", "deviations.yaml", "dial.parquet"
TABLES, FAILED, FIGURES, REPORT_FILE = "tables", "failed", "figures", "report.html"

EARLIER_FACTS = ("base_seed", "persona", "domain", "ideal_broad")


class PlannedCell(BaseModel):
    """Describe a resolved cell: the run-id, the bank's facts, and the stages that follow training.

    Attributes:
        base: name of the base, never a path.
        facts: of the bank that its organisms are asked (of the microworld: base_seed, persona, domain, ideal_broad);
            empty for a cell that is not evaluated.
        stages: in the order in which they are done.
        not_evaluated: why there are none, for a cell that is trained and cannot be judged; None otherwise.
        not_paired: why organisms of a run on text or rows are not asked the paired bank; None where they are, and for
            runs that have another bank.
        written: the spec as the study has it, where the base or the rows decided more of it (`train.inputs.settled`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    run_id: str
    base: str
    facts: Facts = {}
    stages: tuple[Stage, ...]
    not_evaluated: str | None = None
    not_paired: str | None = None
    written: RunSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _facts_of_earlier_plans(cls, raw: Any) -> Any:
        """Accept plans of version 0.1, in which the microworld's facts were fields of the cell."""
        if not isinstance(raw, dict) or "facts" in raw or "base_seed" not in raw:
            return raw
        facts = {name: raw[name] for name in EARLIER_FACTS if raw.get(name) is not None}
        return {**{key: value for key, value in raw.items() if key not in EARLIER_FACTS}, "facts": facts}

    @property
    def planned_as(self) -> str:
        """Return what the study says of the cell, as JSON, under whatever name the study and the cell go there."""
        cell = self.cell if self.written is None else self.cell.model_copy(update={"spec": self.written})
        return cell.model_dump_json(exclude={"study", "cell_id"})

    @property
    def cell_id(self) -> str:
        """Return the cell's id."""
        return self.cell.cell_id


def study_folder(out: Path, name: str) -> Path:
    """Return the folder of a study.

    Raises:
        RunDirectoryError: where `out` is a file, or a folder of that name exists and is not a study's.
    """
    folder = out / name
    if out.exists() and not out.is_dir():
        raise RunDirectoryError(f"--runs {out} is a file, accepted: a folder, which need not exist yet")
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(f"{folder} is a file; the study {name!r} needs a folder there; choose another --runs")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STUDY_FILE).is_file():
        raise RunDirectoryError(
            f"{folder} exists and is not a study folder (no {STUDY_FILE}); nothing was changed; choose another --runs"
        )
    return folder


def failure_file(study_dir: Path, cell_id: str) -> Path:
    """Return the record of a cell's last failure."""
    return study_dir / FAILED / f"{cell_id}.json"


def write_plan(study_dir: Path, planned: Iterable[PlannedCell]) -> None:
    """Write plan.jsonl, one planned cell per line."""
    write_text(study_dir / PLAN_FILE, "".join(f"{cell.model_dump_json()}\n" for cell in planned))


def read_plan(study_dir: Path) -> list[PlannedCell]:
    """Read plan.jsonl.

    Raises:
        RunDirectoryError: where the folder holds no plan.
        IntegrityError: where a line is not a planned cell of this version, or the last one is cut off.
    """
    path = study_dir / PLAN_FILE
    if not path.is_file():
        raise RunDirectoryError(f"{study_dir} is no study folder (no {PLAN_FILE}); `narrowly run` makes one")
    if not path.read_bytes().endswith(b"\n"):  # it was written whole: no killed writer leaves a torn line
        raise IntegrityError(f"{path} is cut off in its last line; run the study again")
    try:
        return [PlannedCell.model_validate(row) for row in read_jsonl(path)]
    except ValidationError as error:
        raise IntegrityError(
            f"{path} does not hold planned cells ({first_fault(error)}); run the study again"
        ) from None


def is_complete(planned: PlannedCell, runs: Path) -> bool:
    """Return whether training and every evaluation stage of a cell have left their files."""
    directory = runs / planned.run_id
    return is_done(directory) and all(stage.file(directory).is_file() for stage in planned.stages)


def read_failure(study_dir: Path, planned: PlannedCell) -> dict[str, Any] | None:
    """Return the record of a cell's last failure, or None; that of another run under the same cell-id does not count.

    (The study file was changed since: the cell has another spec now.)
    """
    path = failure_file(study_dir, planned.cell_id)
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IntegrityError as error:
        return {"error": str(error), "time": 0.0}
    if not isinstance(value, dict):
        return {"error": f"{path} is not a failure record", "time": 0.0}
    return value if value.get("run_id", planned.run_id) == planned.run_id else None


def status_of(planned: PlannedCell, runs: Path, study_dir: Path) -> Status:
    """Return done, failed (its last attempt left a record) or pending."""
    if is_complete(planned, runs):
        return "done"
    return "pending" if read_failure(study_dir, planned) is None else "failed"


def seconds_of(planned: PlannedCell, runs: Path) -> float | None:
    """Return the seconds that a cell's training and stages took, or None where it is not done.

    Raises:
        IntegrityError: a record of the cell is missing or broken.
    """
    directory = runs / planned.run_id
    if not is_complete(planned, runs):
        return None
    records = [directory / DONE, *(stage.folder(directory) / STAGE_RECORD for stage in planned.stages)]
    total = 0.0
    for path in records:
        seconds = read_record(path).get("seconds", 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise IntegrityError(f"{path}: seconds is {seconds!r}, expected a number; the folder is corrupt")
        total += seconds
    return total


def measured_pace(plan: Iterable[PlannedCell], runs: Path) -> dict[str, float]:
    """Return how many times `default_seconds` finished cells took, by their `pace_keys`.

    Broken records measure nothing.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for planned in plan:
        try:
            seconds = seconds_of(planned, runs)
        except IntegrityError:  # `run` and `report` say so; an estimate need not
            continue
        expected = default_seconds(planned.cell)
        if seconds is not None and expected is not None:
            for key in pace_keys(planned.cell):
                found.setdefault(key, []).append((seconds, expected))
    return {
        key: sum(taken for taken, _ in pairs) / sum(default for _, default in pairs) for key, pairs in found.items()
    }
