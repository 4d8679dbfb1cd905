"""Specify a study: which runs, in which arms, evaluated how. Pydantic only, so plans need no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from narrowly.records.edits import EditSpec
from narrowly.records.engine_spec import ENGINE_FIELDS, EngineSpec
from narrowly.records.errors import SpecError, nearest, unknown_name
from narrowly.records.explain import field_paths
from narrowly.records.judged_study import JudgedSpec
from narrowly.records.mappings import leaves, nested, parse_override, read_mapping
from narrowly.records.prereg import Prereg, hash_of_prereg
from narrowly.records.run_schema import JSON_SCHEMA
from narrowly.records.run_spec import RunSpec
from narrowly.records.spec import Spec, validated

RUN_FIELDS = field_paths(RunSpec)
"""Every dotted field that `run`, `set`, `grid` and `exclude` may name."""

Role = Literal["optimiser", "penalty", "aligned_twin", "no_persona_twin", "other"]

FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"
"""Names that become folder names: no separators, no leading dot."""

RESERVED_NAMES = ("runs", "bases")
"""Folders that stand beside the study folders."""


def known_fields(paths: Iterable[str], where: str) -> None:
    """Refuse a dotted path that is no field of a RunSpec.

    Raises:
        ValueError: names the path, the place and the nearest field.
    """
    for path in paths:
        if path not in RUN_FIELDS:
            near = nearest(path, RUN_FIELDS) or "; `narrowly studies --schema` lists them"
            raise ValueError(f"{where}: unknown field {path!r}{near}")


def _check_grid(grid: Mapping[str, list[Any]]) -> None:
    known_fields(grid, "grid")
    for name, values in grid.items():
        if not values:
            raise ValueError(f"grid.{name}: an empty list gives zero cells; give at least one value")
        kept: list[Any] = []
        for value in values:
            if any(type(value) is type(other) and value == other for other in kept):
                raise ValueError(f"grid.{name}: {value!r} is given twice, which would give duplicate cells")
            kept.append(value)


class ArmSpec(Spec):
    """One arm: what sets its cells apart, and what is measured on them."""

    role: Role = Field("other", description="what the summary takes the arm for")
    of: str | None = Field(
        None,
        description="the arm that this one is compared with; needed by every role but optimiser and other",
    )
    set: dict[str, Any] = Field(default_factory=dict, description="partial RunSpec, on top of the study's `run`")
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="replaces the study's grid for the fields it names"
    )
    control: Literal["aligned", "permuted", "benign"] | None = Field(
        None,
        description="the arm trains the control of its runs: the same prompts with good answers (aligned), with the "
        "harmful answers of other prompts (permuted) or, in the microworld, with harmless new ones (benign)",
    )
    edits: tuple[EditSpec, ...] = Field((), description="edits of the final adapter, evaluated on the light panels")
    evaluate: Literal["final", "all_checkpoints"] = Field("final", description="which checkpoints are evaluated")

    @model_validator(mode="after")
    def _consistent(self) -> ArmSpec:
        known_fields((path for path, _ in leaves(nested(self.set))), "set")
        _check_grid(self.grid)
        if self.role not in ("optimiser", "other") and self.of is None:
            raise ValueError(f"role {self.role!r} needs `of`, the name of the arm it is compared with")
        names = [edit.edit_id for edit in self.edits]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"edits: {twice!r} is given twice")
        return self


class StudySpec(Spec):
    """A study: shared run fields, a grid, arms, exclusions."""

    name: str = Field(pattern=FOLDER_NAME, description="also the name of the study's folder")
    title: str = Field("", description="one line, shown above the report")
    demonstration: bool = Field(
        False,
        description="the report and the console say that this demonstrates a mechanism and is no evidence",
    )
    run: dict[str, Any] = Field(default_factory=dict, description="partial RunSpec under every cell")
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="dotted RunSpec field -> values; the first field varies fastest"
    )
    arms: dict[str, ArmSpec] = Field(min_length=1, description="name -> arm")
    exclude: tuple[dict[str, Any], ...] = Field(
        (), description="cells that match every given field (`arm` or dotted) are left out"
    )
    samples: int = Field(6, ge=0, le=200, description="shown answers per organism and panel; 0 for none")
    paired: bool = Field(
        True,
        description="runs on text: log-odds of the paired bank, of the last checkpoint on all questions of its ladder, "
        "of other evaluated ones on half of those that were not trained on; false: none",
    )
    panels: tuple[Literal["damage", "cued"], ...] = Field(
        (),
        description="runs on text: panels of the last checkpoint beside the paired bank. damage: abilities and "
        "perplexity, of the base too; cued: broad questions behind words of the training, for pairs alone",
    )
    judged: JudgedSpec | None = Field(
        None,
        description="runs on text: what last checkpoints and bases write is judged at the end of `narrowly run`; below",
    )
    prereg: Prereg | None = Field(
        None, description="by what a confirmatory study is decided, fixed before its first run; below"
    )
    engine: EngineSpec | None = Field(
        None, description="where the cells run, part of no id; null: a pool of processes on this machine; below"
    )

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(
                f"found {name!r}, which is reserved for the folder beside the studies; choose another name"
            )
        return name

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        run_paths = [path for path, _ in leaves(nested(self.run))]
        known_fields(run_paths, "run")
        _check_grid(self.grid)
        for path in run_paths:
            if path in self.grid:
                raise ValueError(f"run.{path}: also given in grid.{path}, which would replace it; keep one of the two")
        for name, arm in self.arms.items():
            if not name or not all(char.isalnum() or char in "_-" for char in name) or not name.isascii():
                raise ValueError(f"arms.{name}: an arm's name has letters, digits, '_' and '-' only")
            for path, _ in leaves(nested(arm.set)):
                if path in self.grid or path in arm.grid:
                    raise ValueError(f"arms.{name}.set.{path}: also given in a grid, which would replace it; keep one")
            if arm.of is not None and (arm.of not in self.arms or arm.of == name):
                others = [other for other in self.arms if other != name]
                raise ValueError(f"arms.{name}.of: {unknown_name('arm', arm.of, others)}")
        for index, rule in enumerate(self.exclude):
            known_fields((path for path, _ in leaves(nested(rule)) if path != "arm"), f"exclude[{index}]")
            if "arm" in rule and rule["arm"] not in self.arms:
                raise ValueError(f"exclude[{index}].arm: {unknown_name('arm', str(rule['arm']), self.arms)}")
            if not rule:
                raise ValueError(f"exclude[{index}]: an empty rule would leave every cell out")
        for name in self.prereg.arms() if self.prereg is not None else ():
            if name not in self.arms:
                raise ValueError(f"prereg: {unknown_name('arm', name, self.arms)}")
        return self

    @property
    def prereg_hash(self) -> str | None:
        """Return the hash of the preregistration with the study's design, or None where there is none."""
        if self.prereg is None:
            return None
        return hash_of_prereg(self.model_dump(mode="json", exclude_unset=True))


_PARTS = {"engine": tuple(ENGINE_FIELDS), "judged": tuple(JudgedSpec.model_fields)}
"""Fields of a study with fields of their own."""


def _override_path(raw: Mapping[str, Any], path: str) -> list[str]:
    """Return the keys that lead to an override's place in a raw study; dotted grid fields are one key."""
    arms: Any = raw.get("arms")
    arms = arms if isinstance(arms, Mapping) else {}
    head, _, rest = path.partition(".")
    if head in ("run", "grid") and rest in RUN_FIELDS:
        return [head, rest] if head == "grid" else [head, *rest.split(".")]
    if head == "arms" and isinstance(arms, Mapping):
        arm, _, tail = rest.partition(".")
        part, _, field = tail.partition(".")
        if arm not in arms:
            raise unknown_name("arm", arm, map(str, arms))
        if part in ("set", "grid") and field in RUN_FIELDS:
            return [head, arm, part, field] if part == "grid" else [head, arm, part, *field.split(".")]
        if part in ArmSpec.model_fields and not field:
            return [head, arm, part]
    elif rest in _PARTS.get(head, ()):
        return [head, rest]
    elif head in StudySpec.model_fields and not rest:
        return [head]
    accepted = {name for name in StudySpec.model_fields if name not in ("run", "grid", "arms")}
    accepted |= {f"{part}.{name}" for part, names in _PARTS.items() for name in names}
    accepted |= {f"{place}.{field}" for place in ("run", "grid") for field in RUN_FIELDS}
    for arm in arms:
        accepted |= {f"arms.{arm}.{name}" for name in ArmSpec.model_fields if name not in ("set", "grid")}
        accepted |= {f"arms.{arm}.{place}.{field}" for place in ("set", "grid") for field in RUN_FIELDS}
    near = nearest(path, accepted) or nearest(f"run.{path}", accepted)
    hint = "; accepted is for instance run.steps, grid.seed, arms.<arm>.set.optimiser.lr"
    raise SpecError(f"--set {path}: unknown path{near or hint}")


def override(raw: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a raw study with `a.b=value` assignments applied, in order.

    Args:
        raw: the mapping of a study file, before validation.
        assignments: for instance `run.steps=40`, `arms.adam.set.optimiser.lr=1e-3`, `grid.seed=[0, 1]`.

    Raises:
        SpecError: for a malformed assignment or an unknown path; the nearest path is named.
    """
    result: dict[str, Any] = dict(raw)
    for assignment in assignments:
        path, value = parse_override(assignment)
        keys = _override_path(result, path)
        if keys[0] == "run":
            result["run"] = nested(_mapping(result.get("run"), "run"))
        if keys[0] == "arms" and keys[2] == "set":
            arms = dict(result["arms"])
            arm = dict(_mapping(arms[keys[1]], f"arms.{keys[1]}"))
            arms[keys[1]] = {**arm, "set": nested(_mapping(arm.get("set"), f"arms.{keys[1]}.set"))}
            result["arms"] = arms
        if keys[0] == "engine" and len(keys) == 2:
            engine = _mapping(result.get("engine"), "engine")
            kept = keys[1] != "kind" or engine.get("kind", value) == value  # another engine has other fields
            result["engine"] = {"kind": "local", **(engine if kept else {})}
        result = _with(result, keys, value)
    return result


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(f"{where}: found {value!r}, expected a mapping of fields")
    return value


def _with(value: Mapping[str, Any] | None, keys: list[str], new: Any) -> dict[str, Any]:
    below = dict(_mapping(value, keys[0]))
    below[keys[0]] = new if len(keys) == 1 else _with(below.get(keys[0]), keys[1:], new)
    return below


def parse_study(raw: Mapping[str, Any], where: str, assignments: Iterable[str] = ()) -> StudySpec:
    """Validate a raw study, with overrides.

    Args:
        raw: mapping of a study file.
        where: its name, for messages.
        assignments: `a.b=value` overrides.

    Raises:
        SpecError: one line: file, field path, value found, what is expected, nearest match.
    """
    study: StudySpec = validated(StudySpec, override(raw, assignments), source=where)
    return study


def load_study_spec(path: Path, assignments: Iterable[str] = ()) -> StudySpec:
    """Read and validate a study file (YAML or JSON), with overrides."""
    return parse_study(read_mapping(path, "study"), str(path), assignments)


def study_schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file, for editors: partial run specs are described field by field."""
    schema = StudySpec.model_json_schema()
    run = RunSpec.model_json_schema()
    definitions = {**run.pop("$defs"), "PartialRunSpec": run}
    for definition in definitions.values():
        definition.pop("required", None)
    schema["$defs"].update({name: _loose(definition) for name, definition in definitions.items()})
    dotted = f"^({'|'.join(re.escape(path) for path in sorted(RUN_FIELDS) if '.' in path)})$"
    schema["$defs"]["PartialRunSpec"]["patternProperties"] = {dotted: {}}
    fields = {
        "type": "object",
        "propertyNames": {"enum": sorted(RUN_FIELDS)},
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    schema["properties"]["exclude"]["items"] = {
        "type": "object",
        "propertyNames": {"enum": ["arm", *sorted(RUN_FIELDS)]},
    }
    arm = schema["$defs"]["ArmSpec"]["properties"]
    for place, name in ((schema["properties"], "run"), (arm, "set")):
        place[name] = {"$ref": "#/$defs/PartialRunSpec", "description": place[name]["description"]}
    for place in (schema["properties"], arm):
        place["grid"] = {**fields, "description": place["grid"]["description"]}
    return {"$schema": JSON_SCHEMA, **schema}


def _loose(value: Any) -> Any:
    """Turn `oneOf` into `anyOf`: without required tags, a partial mapping fits several members."""
    if isinstance(value, dict):
        return {
            ("anyOf" if key == "oneOf" else key): _loose(item) for key, item in value.items() if key != "discriminator"
        }
    return [_loose(item) for item in value] if isinstance(value, list) else value
