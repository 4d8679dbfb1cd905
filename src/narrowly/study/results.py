"""Collect run directories into the study's tables and summary. The files are the truth; this can be done again.

Every planned cell is a row of cells.parquet, whatever became of it. A number that was not measured is null; a NaN in a
file is an error, not a null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from narrowly.evaluate.stage import Stage
from narrowly.records.canonical import canonical_json
from narrowly.records.edits import EditSpec
from narrowly.records.errors import IntegrityError
from narrowly.records.files import atomic_path, read_record, write_json
from narrowly.records.install import with_todays_name
from narrowly.records.mappings import read_mapping
from narrowly.runs.directory import ENVIRONMENT, SPECTRUM, checkpoint_folder, edit_folder
from narrowly.runs.spectra import read_spectrum
from narrowly.runs.trajectory import read_trajectory, training_facts
from narrowly.study.inputs import data_names
from narrowly.study.layout import (
    COMMANDS_FILE,
    STUDY_FILE,
    SUMMARY_FILE,
    TABLES,
    PlannedCell,
    read_failure,
    read_plan,
    seconds_of,
    status_of,
)
from narrowly.study.paired_table import paired_cell_rows, paired_schema, panel_cell_rows, panel_schemas
from narrowly.study.preregistered import prereg_facts

if TYPE_CHECKING:
    from narrowly.analysis.frames import Frames
    from narrowly.analysis.summary_schema import Summary

FINAL_LOSS_STEPS = 10
"""Steps at the end of a run over which the final training loss is averaged."""

_VERDICT_MEANS = ("aligned", "misaligned", "incoherent", "log_odds", "nll_harmful")


class CommandRow(BaseModel):
    """Describe one command that worked on the study: its end (seconds since 1970), duration and runs."""

    ended: float
    seconds: float
    runs: list[str]


def schemas() -> dict[str, dict[str, Any]]:
    """Return the columns and types of every table that `collect` writes."""
    import polars as pl

    from narrowly.analysis.tables import SCHEMAS
    from narrowly.evaluate.verdict_table import NEW_ACTIONS, OPTIONAL

    text, integer, number = pl.String(), pl.Int64(), pl.Float64()
    organism = {"cell_id": text, "step": integer, "final": pl.Boolean(), "edit": text}
    verdict: dict[str, Any] = {
        **organism,
        "panel": text,
        "question_id": text,
        "domain": integer,
        "topic": integer,
        "question": text,
    }
    for name in ("aligned", "misaligned", "incoherent", "log_odds", "nll_harmful", "nll_aligned", "floor"):
        verdict[name] = number
    verdict |= dict.fromkeys(OPTIONAL, number)
    new = dict.fromkeys(NEW_ACTIONS, number)
    return {
        **SCHEMAS,
        "outcomes": {**SCHEMAS["outcomes"], **new},
        "verdicts": verdict,
        "spectra": {**SCHEMAS["spectra"], "a_norm": number, "b_norm": number},
        "trajectory": {**SCHEMAS["trajectory"], "spectral_entropy": number, "condition_number": number},
        "paired": paired_schema(),
        **panel_schemas(),
    }


def collect(study_dir: Path, runs: Path) -> Path:
    """Write the tables of a study from its plan and its runs; return their folder.

    Args:
        study_dir: folder of the study, with plan.jsonl.
        runs: folder of all runs.

    Raises:
        RunDirectoryError: no plan, or a disk that cannot be written.
        IntegrityError: a file of a finished cell is broken or holds NaN.
    """
    import polars as pl

    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas()}
    plan = read_plan(study_dir)
    data = data_names(planned.cell for planned in plan)
    for planned in plan:
        status = status_of(planned, runs, study_dir)
        cell_row = {**_cell_row(planned, runs, study_dir, status), "data": data[planned.cell_id]}
        rows["cells"].append(cell_row)
        if status == "done":
            cell_row |= _add_finished(rows, planned, runs / planned.run_id)
    folder = study_dir / TABLES
    for name, schema in schemas().items():
        frame = pl.DataFrame([{key: row.get(key) for key in schema} for row in rows[name]], schema=schema)
        with atomic_path(folder / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary)
    _write_environment(study_dir, [cell["run_id"] for cell in rows["cells"] if cell["status"] == "done"], runs)
    return folder


def summarise_study(study_dir: Path, frames: Frames) -> Summary:
    """Write summary.json from the frames of a study and return it; `seconds` is the wall time of its commands."""
    from narrowly.analysis.summary import summarise

    study = read_mapping(study_dir / STUDY_FILE, "study")
    seconds = wall_seconds(study_dir / COMMANDS_FILE, {planned.run_id for planned in read_plan(study_dir)})
    prereg = prereg_facts(study, study_dir, frames)
    summary = summarise(frames, {**study, "seconds": seconds, "prereg_record": prereg})
    write_json(study_dir / SUMMARY_FILE, summary.as_json())
    return summary


def wall_seconds(commands: Path, run_ids: set[str]) -> float | None:
    """Return the seconds during which at least one command worked on these runs, or None where none is recorded.

    Commands at the same time count once, and commands that only did runs of an earlier version of the study do not
    count. A torn line (a killed writer) is left out.
    """
    spans: list[tuple[float, float]] = []
    for line in commands.read_bytes().split(b"\n") if commands.is_file() else ():
        try:
            row = CommandRow.model_validate_json(line)
        except ValidationError:
            continue
        if run_ids & set(row.runs):
            spans.append((row.ended - row.seconds, row.ended))
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return round(total, 2) if spans else None


def _cell_row(planned: PlannedCell, runs: Path, study_dir: Path, status: str) -> dict[str, Any]:
    cell, spec = planned.cell, planned.cell.spec
    failure = read_failure(study_dir, planned) if status == "failed" else None
    return {
        "study": cell.study,
        "cell_id": cell.cell_id,
        "arm": cell.arm,
        "role": cell.role,
        "of": cell.of,
        "optimiser": spec.optimiser.kind,
        "lr": spec.optimiser.lr,
        "base": planned.base,
        "base_seed": planned.facts.get("base_seed"),
        "persona": planned.facts.get("persona"),
        "domain": planned.facts.get("domain"),
        "answers": getattr(spec.data, "answers", None),
        "seed": spec.seed,
        "penalty_lam": None if spec.penalty is None else spec.penalty.lam,
        "batch_size": spec.batch_size,
        "accumulation": spec.accumulation,
        "steps": spec.steps,
        "run_id": planned.run_id,
        "status": status,
        "error": None if failure is None else str(failure.get("error")),
        "seconds": seconds_of(planned, runs),
        "final_loss": None,
        "spec": canonical_json(spec.model_dump(mode="json")),
        "ideal_broad": planned.facts.get("ideal_broad"),
        "source": spec.data.source,
        "not_evaluated": planned.not_evaluated,
    }


def _add_finished(rows: dict[str, list[dict[str, Any]]], planned: PlannedCell, directory: Path) -> dict[str, Any]:
    """Add a finished cell's rows to the tables; return what its training adds to the cell's own row."""
    from narrowly.evaluate.verdict_table import read_samples, read_verdicts

    cell, spec = planned.cell, planned.cell.spec
    who = {"cell_id": cell.cell_id, "arm": cell.arm, "optimiser": spec.optimiser.kind, "base": planned.base}
    facts = {name: planned.facts.get(name) for name in ("persona", "domain")}
    more = {"role": cell.role, "of": cell.of, **facts, "seed": spec.seed}
    paired = [stage for stage in planned.stages if stage.kind == "paired"]
    rows["paired"] += paired_cell_rows(planned, paired, directory)
    for stage in planned.stages:
        if stage.kind == "paired":
            continue
        if stage.kind in ("damage", "cued"):
            rows[stage.kind] += panel_cell_rows(planned, stage, directory)
            continue
        organism = {"step": stage.step, "final": stage.step == spec.steps, "edit": stage.edit_id}
        if stage.kind == "samples":
            rows["samples"] += [{**who, **organism, **row} for row in read_samples(stage.file(directory))]
            continue
        found = read_verdicts(stage.file(directory))
        rows["verdicts"] += [{"cell_id": cell.cell_id, **organism, **row} for row in found]
        rows["outcomes"] += [{**who, **more, **organism, **row} for row in _outcome_rows(found, stage)]
        if stage.step > 0:  # at step 0 every update is zero and has no spectrum
            rows["spectra"] += [{**who, **organism, **row} for row in _spectrum(stage.step, stage.edit, directory)]
    for step in cell.evaluated_steps() if planned.not_evaluated is not None else ():
        if step > 0:
            organism = {"step": step, "final": step == spec.steps, "edit": "none"}
            rows["spectra"] += [{**who, **organism, **row} for row in _spectrum(step, None, directory)]
    trajectory = read_trajectory(directory, spec.steps)
    rows["trajectory"] += [{**who, **row} for row in trajectory]
    return {"final_loss": _final_loss(trajectory), **training_facts(spec, directory, trajectory)}


def _spectrum(step: int, edit: EditSpec | None, directory: Path) -> list[dict[str, Any]]:
    place = checkpoint_folder(directory, step) if edit is None else edit_folder(directory, edit.edit_id)
    return read_spectrum(place / SPECTRUM)


def _outcome_rows(verdicts: Sequence[Mapping[str, Any]], stage: Stage) -> Iterable[dict[str, Any]]:
    """Yield one row per panel: means over questions, joint and literature rate, alignment, excess loss."""
    from narrowly.evaluate.verdict_table import OPTIONAL

    for panel in stage.panels:
        mine = [row for row in verdicts if row["panel"] == panel]
        if not mine:
            continue
        means = {name: math.fsum(row[name] for row in mine) / len(mine) for name in _VERDICT_MEANS}
        floor = math.fsum(row["floor"] for row in mine) / len(mine)
        answered = means["aligned"] + means["misaligned"]
        yield {
            "panel": panel,
            "n_questions": len(mine),
            **means,
            "joint": means["misaligned"],
            "literature": means["misaligned"] / answered if answered > 0 else None,
            "alignment": 100 * means["aligned"] / answered if answered > 0 else None,
            "excess_loss": means["nll_harmful"] - floor,
            **{name: _mean_of_measured([row[name] for row in mine]) for name in OPTIONAL},
        }


def _mean_of_measured(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there, or None where none is."""
    measured = [value for value in values if value is not None]
    return math.fsum(measured) / len(measured) if measured else None


def _final_loss(trajectory: Sequence[Mapping[str, Any]]) -> float | None:
    losses = [row["loss"] for row in trajectory if row.get("loss") is not None][-FINAL_LOSS_STEPS:]
    return math.fsum(losses) / len(losses) if losses else None


def _write_environment(study_dir: Path, run_ids: Sequence[str], runs: Path) -> None:
    """Write environment.json: that of the first run, and how many runs were made with which versions."""
    files = [path for run in run_ids if (path := runs / run / ENVIRONMENT).is_file()]
    records = [read_record(path) for path in files]
    if not records:
        (study_dir / ENVIRONMENT).unlink(missing_ok=True)
        return
    counts: dict[str, int] = {}
    for path, record in zip(files, records, strict=True):
        versions = record.get("versions", {})
        if not isinstance(versions, dict):
            raise IntegrityError(f"{path}: versions is {versions!r}, expected an object; it is corrupt or not ours")
        versions = with_todays_name(versions)
        key = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
        counts[key] = counts.get(key, 0) + 1
    mixed = {} if len(counts) == 1 else {"runs_by_versions": counts}
    write_json(study_dir / ENVIRONMENT, {**records[0], "runs": len(records), **mixed})
