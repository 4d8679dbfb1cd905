"""Dial every organism of a finished study along the references of the same study, many at once and resumable.

Arms whose name begins with `ref` are references, all others are organisms. A reference is found by what it shares with
the organism, never by its arm's name: base, run seed (rows and order) and init seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.engines.local import LocalExecutor
from narrowly.engines.protocol import Task
from narrowly.engines.worker import error_of
from narrowly.records.canonical import content_id
from narrowly.records.dial import DIAL_VERSION, Reference
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import atomic_path
from narrowly.records.run_spec import RunSpec
from narrowly.study.execution import POLL_SECONDS
from narrowly.study.layout import TABLES, PlannedCell, is_complete, read_plan

PREFIX = "ref"
PARTS, TABLE = "dial", "dial.parquet"
"""Folder of the study with one table per organism, and the table of all in `tables/`."""


class Reach(NamedTuple):
    """Name a reference of an organism: run-ids and the checkpoint, None for the final one."""

    kind: Reference
    runs: tuple[str, ...]
    step: int | None = None


class DialTask(NamedTuple):
    """Hold what one organism is dialled along, and where its rows go."""

    organism: PlannedCell
    references: tuple[Reach, ...]

    @property
    def key(self) -> str:
        """Return the id of the rows: the organism, its references, the version of what is computed and the judge."""
        judge = [stage.verdict_id for stage in self.organism.stages if stage.edit is None and stage.kind == "exact"]
        return content_id(
            {
                "organism": self.organism.run_id,
                "references": [reference._asdict() for reference in self.references],
                "version": DIAL_VERSION,
                "judge": judge,
            }
        )

    def part(self, study_dir: Path) -> Path:
        """Return the file of its rows."""
        return study_dir / PARTS / f"{self.organism.cell_id}-{self.key}.parquet"


def plan_dial(study_dir: Path, runs: Path) -> list[DialTask]:
    """Return what is to be dialled in a study, in the order of its plan.

    Args:
        study_dir: folder of the study.
        runs: folder of all runs.

    Raises:
        RunDirectoryError: no study.
        SpecError: a cell that is not done; no organism or no reference; two references that are the same kind for an
            organism; a reference of another narrow domain.
    """
    plan = read_plan(study_dir)
    missing = [cell.cell_id for cell in plan if not is_complete(cell, runs)]
    if missing:
        raise SpecError(f"{len(missing)} of {len(plan)} cells of {study_dir.name!r} are not done, first {missing[0]!r}")
    references = [cell for cell in plan if cell.cell.arm.startswith(PREFIX)]
    organisms = [cell for cell in plan if not cell.cell.arm.startswith(PREFIX)]
    if not references or not organisms:
        what, accepted = ("reference", f"begins with {PREFIX!r}") if not references else ("organism", "does not")
        raise SpecError(f"study {study_dir.name!r} has no {what}, accepted: an arm whose name {accepted}")
    return [DialTask(cell, tuple(_references(cell, references))) for cell in organisms]


def _references(organism: PlannedCell, cells: Sequence[PlannedCell]) -> list[Reach]:
    """Return the references of an organism, in the order of `records.dial.REFERENCES`."""
    own = organism.cell.spec
    found: dict[Reference, list[str]] = {}
    for cell in cells:
        if cell.base != organism.base:
            continue
        if cell.facts.get("domain") != organism.facts.get("domain"):
            raise SpecError(
                f"reference {cell.cell_id!r} has narrow domain {cell.facts.get('domain')}, organism "
                f"{organism.cell_id!r} has {organism.facts.get('domain')}; accepted: the same (data.domain: base)"
            )
        kind = _kind(own, cell.cell.spec)
        if kind in found and kind != "foreign":
            raise SpecError(
                f"{cell.cell_id!r} is a second reference of the kind {kind} for {organism.cell_id!r}; accepted: one"
            )
        found.setdefault(kind, []).append(cell.run_id)
    if not found:
        raise SpecError(f"organism {organism.cell_id!r} has no reference of its base {organism.base}")
    foreign = found.pop("foreign", [])
    reaches = [Reach(kind, tuple(ids)) for kind, ids in found.items()]
    reaches += [Reach("foreign", (foreign[0],))] if foreign else []
    reaches += [Reach("mean_of_several", tuple(foreign))] if len(foreign) > 1 else []
    early = own.checkpoint_steps()[1]
    return [*reaches, Reach("early", (organism.run_id,), early)] if early < own.steps else reaches


def _kind(own: RunSpec, other: RunSpec) -> Reference:
    same_rows = own.seed == other.seed
    same_init = _init(own) == _init(other)
    if same_rows:
        return "same_init" if same_init else "other_init"
    return "other_seed" if same_init else "foreign"


def _init(spec: RunSpec) -> int:
    return spec.seed if spec.init_seed is None else spec.init_seed


def dial_organism(payload: Mapping[str, Any]) -> str:
    """Dial one organism and write its rows, whole or not at all; return its cell-id.

    Args:
        payload: {"organism": PlannedCell as JSON, "references": Reaches as JSON, "runs", "part": paths}.
    """
    import polars as pl

    from narrowly.evaluate.microworld.dial import ReferenceRun, dial

    planned, runs = PlannedCell.model_validate(payload["organism"]), Path(payload["runs"])
    references = [
        ReferenceRun(kind, tuple(runs / run for run in ids), step) for kind, ids, step in payload["references"]
    ]
    spec = planned.cell.spec
    who = {
        "base": planned.base,
        "arm": planned.cell.arm,
        "cell_id": planned.cell_id,
        "run_id": planned.run_id,
        "optimiser": spec.optimiser.kind,
        "lr": spec.optimiser.lr,
        "seed": spec.seed,
        "domain": planned.facts.get("domain"),
    }
    rows = [{**who, **row} for row in dial(runs / planned.run_id, references)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    frame = pl.DataFrame([{name: row.get(name) for name in columns} for row in rows], infer_schema_length=None)
    with atomic_path(Path(payload["part"])) as temporary:
        frame.write_parquet(temporary)
    return planned.cell_id


def dial_study(
    study_dir: Path,
    runs: Path,
    *,
    workers: int = 0,
    on_step: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Path:
    """Dial all organisms of a finished study and write `tables/dial.parquet`; what is done already is kept.

    Args:
        study_dir: folder of the study.
        runs: folder of all runs.
        workers: processes; 0 means one per core.
        on_step: called with (done, all, cell-id) when an organism is finished.

    Returns:
        The table: for each organism the rows of `evaluate.microworld.dial`, with what names the organism before them.

    Raises:
        NarrowlyError: as `plan_dial`, or what the first organism that failed says; what was done stays.
        IntegrityError: a part that is no Parquet table.
    """
    tasks = plan_dial(study_dir, runs)
    todo = [task for task in tasks if not task.part(study_dir).is_file()]
    done = len(tasks) - len(todo)
    on_step(done, len(tasks), "")
    with LocalExecutor(workers, "narrowly.study.cell:warm_up") as engine:
        for task in todo:
            payload = {
                "organism": task.organism.model_dump(mode="json"),
                "references": [list(reference) for reference in task.references],
                "runs": str(runs),
                "part": str(task.part(study_dir)),
            }
            engine.submit(Task(task.organism.cell_id, "narrowly.study.dial:dial_organism", payload))
        while done < len(tasks):
            for outcome in engine.poll(POLL_SECONDS):
                if outcome.problem is not None:
                    raise error_of(outcome.problem)
                done += 1
                on_step(done, len(tasks), outcome.key)
    return _collect(study_dir, tasks)


def _collect(study_dir: Path, tasks: Sequence[DialTask]) -> Path:
    import polars as pl

    parts = []
    for task in tasks:
        path = task.part(study_dir)
        try:
            parts.append(pl.read_parquet(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise IntegrityError(f"{path} is no Parquet table ({error}); remove it and run the dial again") from None
    table = study_dir / TABLES / TABLE
    with atomic_path(table) as temporary:
        pl.concat(parts, how="diagonal_relaxed").write_parquet(temporary)
    return table
