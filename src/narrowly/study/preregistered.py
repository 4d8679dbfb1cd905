"""Hold a confirmatory study to its preregistration: its hash, the commit that first held it, its seeds. Torch-free.

OUT/STUDY/prereg.json is written before the first run and never changed. What was done otherwise than planned stands
in `deviations.yaml` beside the results and is shown wherever the results are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from narrowly.microworld.cards import CARD, load_card
from narrowly.records.base_seeds import refuse_used_seeds
from narrowly.records.errors import IntegrityError, NarrowlyError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_record, write_json
from narrowly.records.git_history import added_in, commit_time, first_commit, is_ancestor, texts_with
from narrowly.records.mappings import read_mapping
from narrowly.records.prereg import Prereg
from narrowly.records.spec import Spec, validated
from narrowly.records.study_spec import StudySpec, parse_study
from narrowly.study.layout import DEVIATIONS_FILE, DIAL_FILE, PREREG_FILE, TABLES
from narrowly.study.plan import expand, study_file

if TYPE_CHECKING:
    import polars as pl

    from narrowly.analysis.frames import Frames

UNKNOWN = "unknown"
"""In place of a commit where there is no repository, or none that holds the preregistration."""


class PreregRecord(BaseModel):
    """What is kept of a preregistration beside runs and results.

    Attributes:
        hash: of the preregistration and the design (`hash_of_prereg`).
        commit: the first that held the study file with this hash; `unknown` where git knows none.
        commit_time: when that commit was made, seconds since 1970.
        recorded: when this was written, before the first run.
        first_run, last_run: when the first and the last run of the study began; of committed results only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    commit: str = Field(UNKNOWN, pattern=r"^([0-9a-f]{40}|unknown)$")
    commit_time: float | None = None
    recorded: float
    first_run: float | None = None
    last_run: float | None = None


class Deviation(Spec):
    """One departure from a preregistration."""

    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="when it was decided")
    what: str = Field(min_length=1, description="what was done otherwise")
    why: str = Field(min_length=1, description="the reason, and what was known of the results by then")


class Deviations(Spec):
    """The file beside the results: `deviations:`, a list that may be empty."""

    deviations: tuple[Deviation, ...] = Field((), description="in the order of their dates")


def record_of(study: StudySpec, file: Path | None) -> PreregRecord | None:
    """Return what would be recorded of a study's preregistration now; None of a study without one.

    Args:
        study: with its overrides; one that changes the design has another hash, which no commit holds.
        file: of the study, where it was read from one.
    """
    found = study.prereg_hash
    if found is None:
        return None
    commit = None if file is None else first_commit(file, lambda text: _hash_of_text(text) == found)
    when = None if commit is None or file is None else commit_time(file.resolve().parent, commit)
    return PreregRecord(hash=found, commit=commit or UNKNOWN, commit_time=when, recorded=time.time())


def _hash_of_text(text: str) -> str | None:
    """Return the hash of an earlier version of a study file, or None where it cannot be read any more."""
    try:
        raw = yaml.safe_load(text)
        return parse_study(raw, "study").prereg_hash if isinstance(raw, dict) else None
    except (NarrowlyError, yaml.YAMLError):
        return None


def check_prereg(study: StudySpec, study_dir: Path) -> PreregRecord | None:
    """Refuse a preregistered study on seeds used before, or one whose preregistration was edited after its record.

    Returns:
        The record beside its runs, or None where there is none yet.

    Raises:
        SpecError: names both hashes, or the base and the use of its seed.
        IntegrityError: the record is damaged.
    """
    if study.prereg is None:
        return None
    refuse_used_seeds(study.name, dict.fromkeys(_named(cell.spec.base) for cell in expand(study)))
    path = study_dir / PREREG_FILE
    if not path.is_file():
        return None
    found = read_prereg(path)
    if found.hash != study.prereg_hash:
        raise SpecError(
            f"study {study.name!r}: its preregistration or design was changed after {path} recorded {found.hash[:12]} "
            f"(now {str(study.prereg_hash)[:12]}); accepted: the study as it was recorded, with departures in "
            f"{DEVIATIONS_FILE}; or another name"
        )
    return found


def _named(base: str) -> str:
    """Return the name on the card of a base that is given by its folder, else the text as it is."""
    return load_card(Path(base)).name if (Path(base) / CARD).is_file() else base


def record_prereg(study: StudySpec, study_dir: Path, file: Path | None) -> PreregRecord | None:
    """Check a study's preregistration, and record it where it is not recorded yet; None of a study without one.

    Raises:
        SpecError, IntegrityError: as `check_prereg`.
    """
    found = check_prereg(study, study_dir)
    if found is not None or study.prereg is None:
        return found
    record = record_of(study, file)
    assert record is not None, "the study has a preregistration"
    write_json(study_dir / PREREG_FILE, record.model_dump(mode="json", exclude_none=True))
    return record


def read_prereg(path: Path) -> PreregRecord:
    """Read a record of a preregistration.

    Raises:
        IntegrityError: it is damaged.
    """
    try:
        return PreregRecord.model_validate(read_record(path))
    except ValidationError as error:
        raise IntegrityError(f"{path} is no record of a preregistration ({first_fault(error)})") from None


def read_deviations(folder: Path) -> tuple[Deviation, ...]:
    """Return the departures that are told beside results; none where there is no file.

    Raises:
        SpecError: the file is not a list of deviations.
    """
    path = folder / DEVIATIONS_FILE
    if not path.is_file():
        return ()
    found: Deviations = validated(Deviations, read_mapping(path, "deviations"), source=str(path))
    return found.deviations


def file_of(study: str) -> Path | None:
    """Return the file that a study was named by on the command line, or None of a study that is no file."""
    try:
        return study_file(study)
    except NarrowlyError:
        return None


def order_faults(results: Path, summary: str = "summary.json") -> list[str]:
    """Return what contradicts that a study was preregistered before its results, one line each; none is what is wanted.

    The commit of the preregistration must be known, hold it, be an ancestor of the commit that added the results, and
    be older than the first run. A repository that does not have the whole history can say nothing of it.

    Args:
        results: folder of committed results, with prereg.json.
        summary: the file whose first commit counts as that of the results; one that is in no commit yet is not held
            against the preregistration.
    """
    record = read_prereg(results / PREREG_FILE)
    if record.commit == UNKNOWN or record.commit_time is None:
        return [f"{results}: no commit is known that held the preregistration {record.hash[:12]} before the runs"]
    faults = []
    actual = commit_time(results, record.commit)
    if actual is not None and record.hash not in map(_hash_of_text, _prereg_texts(results, record.commit)):
        faults.append(f"{results}: commit {record.commit[:12]} does not hold the preregistration {record.hash[:12]}")
    if actual != record.commit_time:
        faults.append(f"{results}: commit {record.commit[:12]} has time {actual}, recorded is {record.commit_time}")
    added = added_in(results / summary)
    if added is not None and not is_ancestor(results, record.commit, added):
        faults.append(f"{results}: commit {record.commit[:12]} is no ancestor of {added[:12]}, which added the results")
    if record.first_run is None:
        faults.append(f"{results}: {PREREG_FILE} does not say when the first run began")
    elif record.first_run <= record.commit_time:
        faults.append(f"{results}: a run began at {record.first_run:.0f}, before the commit ({record.commit_time:.0f})")
    return faults


def _prereg_texts(folder: Path, commit: str) -> list[str]:
    return texts_with(folder, commit, "prereg", (".yaml", ".yml", ".json"))


def prereg_facts(study: Mapping[str, Any], study_dir: Path, frames: Frames) -> dict[str, Any] | None:
    """Return what the summary of a preregistered study says of it; None of a study without one.

    Keys: hash, commit, deviations, findings (`Findings` as JSON, None before the last cell is done or without a table
    that a contrast needs) and reason (why there are none).
    """
    path = study_dir / PREREG_FILE
    if study.get("prereg") is None or not path.is_file():
        return None
    from narrowly.analysis.decisions import Evidence, decide_all
    from narrowly.analysis.evidence_summary import ideal_of_bases
    from narrowly.analysis.ladder import ladder_table

    record, tables = read_prereg(path), frames.tables
    told = [one.model_dump(mode="json") for one in read_deviations(study_dir)]
    facts = {"hash": record.hash, "commit": record.commit, "deviations": told, "findings": None}
    left = int((tables.cells["status"] != "done").sum())
    if left:
        return {**facts, "reason": f"{left} of {tables.cells.height} cells are not done; nothing is decided before"}
    try:
        evidence = Evidence(ladder_table(tables), dial_table(study_dir), ideal_of_bases(tables.cells))
        found = decide_all(validated(Prereg, study["prereg"], "prereg"), evidence)
    except SpecError as error:
        return {**facts, "reason": str(error)}
    return {**facts, "findings": found.model_dump(mode="json"), "reason": None}


def dial_table(study_dir: Path) -> pl.DataFrame | None:
    """Return the table of the orthogonal dial of a study, where it was made."""
    import polars as pl

    path = study_dir / TABLES / DIAL_FILE
    return pl.read_parquet(path) if path.is_file() else None
