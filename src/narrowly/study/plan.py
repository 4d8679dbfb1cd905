"""Expand a StudySpec into its cells: grids, exclusions, a balanced order."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from narrowly.data.banks.narrow import PREFIX, narrow_domain, narrow_set
from narrowly.evaluate.banks import why_not_evaluated
from narrowly.records.canonical import canonical_json, content_id
from narrowly.records.edits import EditSpec
from narrowly.records.errors import SpecError, UnknownNameError, nearest, unknown_name
from narrowly.records.explain import explain_each
from narrowly.records.mappings import MISSING, TAGS, lookup, merge, nested, with_assignments
from narrowly.records.run_spec import RunSpec
from narrowly.records.study_spec import ArmSpec, Role, StudySpec, load_study_spec
from narrowly.train.control import control_assignments

LARGEST_STUDY = 100_000
"""Cells; more is a mistake in a grid."""


class Cell(BaseModel):
    """Describe one point of a study: an arm's RunSpec and what is measured on the organism it gives.

    Attributes:
        cell_id: readable, unique within the study, safe as a file name.
        base_evaluation: whether the cell also evaluates its base, at step 0; one cell per base and narrow domain does.
        paired: whether organisms of a run on text are asked the paired bank.
        panels: that they are asked beside it.
        evaluate: the final checkpoint or all of them.
        samples: shown answers per panel of the final organism.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_id: str
    study: str
    arm: str
    role: Role
    of: str | None
    spec: RunSpec
    edits: tuple[EditSpec, ...]
    evaluate: Literal["final", "all_checkpoints"]
    samples: int
    base_evaluation: bool = False
    paired: bool = True
    panels: tuple[Literal["damage", "cued"], ...] = ()

    def evaluated_steps(self) -> tuple[int, ...]:
        """Return the evaluated checkpoints; step 0 only where the cell carries its base's evaluation."""
        steps = self.spec.checkpoint_steps()[1:] if self.evaluate == "all_checkpoints" else (self.spec.steps,)
        return (0, *steps) if self.base_evaluation else steps


def expand(study: StudySpec) -> list[Cell]:
    """Return the cells of a study in an order that stays balanced when it is cut short.

    Round i holds the i-th grid point of every arm, and the arms rotate from round to round, so that after any
    number of cells the arms have had nearly equally many, on the same bases and seeds.

    Raises:
        SpecError: for a field that a RunSpec refuses (with its place in the study), zero cells, duplicates,
            paired answers in two arithmetics.
    """
    by_arm = {name: list(_cells_of(study, name, arm)) for name, arm in study.arms.items()}
    count = sum(len(cells) for cells in by_arm.values())
    if count == 0:
        raise SpecError(f"study {study.name!r} has zero cells: exclude leaves out every point of the grid")
    empty = [name for name, cells in by_arm.items() if not cells]
    if empty:
        raise SpecError(f"study {study.name!r}: arm {empty[0]!r} has zero cells, because exclude leaves out all of it")
    arms = list(by_arm)
    ordered: list[Cell] = []
    for turn in range(max(len(cells) for cells in by_arm.values())):
        for name in arms[turn % len(arms) :] + arms[: turn % len(arms)]:
            ordered.extend(by_arm[name][turn : turn + 1])
    return _flag_bases(_of_one_arithmetic(_unique(ordered), study.name), arms)


def _of_one_arithmetic(cells: list[Cell], study: str) -> list[Cell]:
    """Return cells whose paired answers can stand in one table: log-likelihoods of two arithmetics are not compared."""
    asked = [cell.spec for cell in cells if cell.paired and why_not_evaluated(cell.spec) is not None]
    for field in ("base_dtype", "device"):
        values = list(dict.fromkeys(str(getattr(spec, field)) for spec in asked))
        if len(values) > 1:
            raise SpecError(
                f"study {study!r}: {field} has the values {', '.join(values)}, accepted: one, because paired answers "
                "of two arithmetics are not compared; or `paired: false`, which asks none"
            )
    return cells


def _cells_of(study: StudySpec, name: str, arm: ArmSpec) -> Iterator[Cell]:
    grid = {**study.grid, **arm.grid}
    keys = list(grid)
    size = 1
    for values in grid.values():
        size *= len(values)
    if size > LARGEST_STUDY:
        raise SpecError(f"study {study.name!r}: arm {name!r} has {size} cells; at most {LARGEST_STUDY} are accepted")
    under = merge(merge(_defaults(), nested(study.run)), nested(arm.set))
    for reversed_point in itertools.product(*(grid[key] for key in reversed(keys))):
        point = dict(zip(keys, reversed(reversed_point), strict=True))
        raw = under
        for key, value in point.items():
            raw = merge(raw, nested({key: value}))
        try:
            spec = _with_control(RunSpec.model_validate(raw), study, name, arm)
        except ValidationError as error:
            raise SpecError(_where_it_stands(error, study, name, arm, point)) from None
        if any(_matches(rule, name, spec, raw) for rule in study.exclude):
            continue
        if arm.edits and spec.method == "full":
            raise SpecError(
                f"study {study.name!r}: arm {name!r} has edits with method full, accepted: method lora (edits act on "
                "the factors of an adapter)"
            )
        yield Cell(
            cell_id="-".join([name, *(_label(key, value) for key, value in point.items())]),
            study=study.name,
            arm=name,
            role=arm.role,
            of=arm.of,
            spec=spec,
            edits=arm.edits,
            evaluate=arm.evaluate,
            samples=study.samples,
            paired=study.paired,
            panels=study.panels,
        )


def _with_control(spec: RunSpec, study: StudySpec, name: str, arm: ArmSpec) -> RunSpec:
    """Return the spec of an arm's cell, or of its control where the arm is one."""
    if arm.control is None:
        return spec
    try:
        made = control_assignments(spec, arm.control)
    except SpecError as error:
        raise SpecError(f"study {study.name!r}: arms.{name}.control: {error}") from None
    return with_assignments(RunSpec, spec.model_dump(mode="json"), made, f"study {study.name!r}: arms.{name}.control")


def _defaults() -> dict[str, Any]:
    """Return the tags of fields that are unions and have a default, so that a partial mapping can leave them out."""
    fields = {name: field.get_default() for name, field in RunSpec.model_fields.items() if not field.is_required()}
    tags = {name: {tag: getattr(value, tag) for tag in TAGS if hasattr(value, tag)} for name, value in fields.items()}
    return {name: found for name, found in tags.items() if found and isinstance(fields[name], BaseModel)}


def _where_it_stands(
    error: ValidationError, study: StudySpec, name: str, arm: ArmSpec, point: Mapping[str, Any]
) -> str:
    """Say where in the study file the wrong value was written, not where in the RunSpec it ended up."""
    lines = []
    for path, sentence in explain_each(error, RunSpec):
        plain = path.split("[")[0]
        if any(plain == key or plain.startswith(f"{key}.") for key in point):
            key = next(key for key in point if plain == key or plain.startswith(f"{key}."))
            place = f"arms.{name}.grid.{key}" if key in arm.grid else f"grid.{key}"
        elif lookup(nested(arm.set), plain) is MISSING and lookup(nested(study.run), plain) is not MISSING:
            place = f"run.{path}"
        elif path:
            place = f"arms.{name}.set.{path}"
        else:
            place = f"arms.{name}"
        lines.append(f"{place}: {sentence}")
    return f"study {study.name!r}: {'; '.join(lines[:3])}"


def _matches(rule: Mapping[str, Any], arm: str, spec: RunSpec, raw: Mapping[str, Any]) -> bool:
    dumped = {**spec.model_dump(mode="json"), "epochs": raw.get("epochs")}  # which may be steps in the spec by now
    for path, value in nested(rule).items():
        if path == "arm":
            if value != arm:
                return False
        elif not _contains(dumped.get(path), value):
            return False
    return True


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_contains(found.get(key), value) for key, value in wanted.items())
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _label(key: str, value: Any) -> str:
    """Return a short, file-safe label of one grid value: `micro-0`, `seed1`, `lr0.001`."""
    if isinstance(value, Mapping | list):
        text = content_id(value)[:6]
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    tail = "" if key == "base" else key.rsplit(".", 1)[-1]
    if key == "data.dataset" and str(value).startswith(PREFIX):
        tail, text = "", narrow_set(str(value)).domain
    if key == "base":
        text = Path(text).name.partition("@")[0] or "base"
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", f"{tail}{text}")[:60]


def _unique(cells: list[Cell]) -> list[Cell]:
    """Refuse two cells that would be the same run; tell cells apart whose labels fall together."""
    seen: dict[str, str] = {}
    for cell in cells:
        spec = canonical_json(cell.spec.model_dump(mode="json"))
        if spec in seen:
            raise SpecError(
                f"study {cell.study!r}: duplicate cells: {seen[spec]!r} and {cell.cell_id!r} have the same "
                "run spec, and one run may not count twice"
            )
        seen[spec] = cell.cell_id
    labels = Counter(cell.cell_id for cell in cells)
    return [
        cell
        if labels[cell.cell_id] == 1
        else cell.model_copy(update={"cell_id": f"{cell.cell_id}-{content_id(cell.spec.model_dump(mode='json'))[:6]}"})
        for cell in cells
    ]


def _flag_bases(cells: list[Cell], arms: list[str]) -> list[Cell]:
    """Flag one cell per base and domain to evaluate the base too: of the first optimiser arm, else of the first arm.

    A cell that can be evaluated comes before one that cannot, so that the base is evaluated where any cell of it is.
    """
    judged = {cell.spec.base for cell in cells if not_evaluated(cell) is None}
    carrier: dict[tuple[str, str | None], str] = {}
    for cell in sorted(
        cells, key=lambda cell: (not_evaluated(cell) is not None, cell.role != "optimiser", arms.index(cell.arm))
    ):
        if not_evaluated(cell) is None or cell.spec.base not in judged:
            carrier.setdefault(_asked_of_base(cell), cell.cell_id)
    return [
        cell.model_copy(update={"base_evaluation": carrier.get(_asked_of_base(cell)) == cell.cell_id}) for cell in cells
    ]


def _asked_of_base(cell: Cell) -> tuple[str, str | None]:
    """Return what one evaluation of a base is for: the base, and the narrow domain whose ladder it is asked.

    With domain rotate the run seed decides which that is.
    """
    data = cell.spec.data
    domain = getattr(data, "domain", None)
    if domain is None:
        return cell.spec.base, narrow_domain(getattr(data, "dataset", ""))
    return cell.spec.base, f"{domain} {cell.spec.seed}" if domain == "rotate" else str(domain)


def cell_named(cells: Sequence[Cell], cell_id: str) -> Cell:
    """Return the cell of a plan that has this id.

    Raises:
        UnknownNameError: none has; the nearest is named or, where none is near, the first.
    """
    by_name = {cell.cell_id: cell for cell in cells}
    if cell_id not in by_name:
        near = nearest(cell_id, by_name) or f"; the first is {cells[0].cell_id!r}"
        raise UnknownNameError(f"unknown cell {cell_id!r} of study {cells[0].study!r}{near} (--cells lists them all)")
    return by_name[cell_id]


def not_evaluated(cell: Cell) -> str | None:
    """Return why a cell is trained and not evaluated, and which stages it goes without; None where it is evaluated.

    Nothing of training depends on it: once there is a bank, the cell's run gets its stages and is not trained anew.
    """
    reason = why_not_evaluated(cell.spec)
    if reason is None:
        return None
    if cell.spec.epochs is None:
        skipped = [f"answers at step {step}" for step in cell.evaluated_steps()]
    else:  # counted when the study runs
        skipped = [f"answers at {'the last step' if cell.evaluate == 'final' else 'every checkpoint'}"]
    skipped += [f"answers after edit {edit.edit_id}" for edit in cell.edits]
    skipped += [f"{cell.samples} shown answers a panel"] if cell.samples else []
    return f"{reason}; skipped: {', '.join(skipped)}"


def shipped_studies() -> dict[str, Path]:
    """Return name -> file of the studies that come with the package; `a/b.yaml` is called a-b, as in the file."""
    folder = Path(str(resources.files("narrowly.study") / "studies"))
    files = sorted(folder.rglob("*.yaml"))
    return {"-".join(path.relative_to(folder).with_suffix("").parts): path for path in files}


def study_file(name_or_file: str) -> Path:
    """Return the file of a shipped study or the given path.

    Raises:
        UnknownNameError: where it is neither; the nearest shipped name is given.
    """
    shipped = shipped_studies()
    if name_or_file in shipped:
        return shipped[name_or_file]
    path = Path(name_or_file)
    if path.suffix.lower() in (".yaml", ".yml", ".json") or path.exists():
        if not path.exists():
            raise SpecError(f"study file {name_or_file} does not exist (shipped studies: {', '.join(sorted(shipped))})")
        return path
    raise unknown_name("study", name_or_file, shipped)


def find_study(name_or_file: str, assignments: list[str] | tuple[str, ...] = ()) -> StudySpec:
    """Load a shipped study by name or a study file by path, with `a.b=value` overrides."""
    return load_study_spec(study_file(name_or_file), assignments)
