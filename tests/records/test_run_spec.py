"""RunSpec and run-id: what is part of the id, what is not, which specs are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from narrowly.records.optimisers.registry import OPTIMISERS
from narrowly.records.penalty_names import KINDS, PenaltyKind
from narrowly.records.run_spec import ResolvedInputs, RunSpec, run_id

INPUTS = ResolvedInputs(
    base_sha256="a" * 64,
    config_sha256="b" * 64,
    tokenizer_sha256="c" * 64,
    template_sha256="d" * 64,
    data_sha256="e" * 64,
)
SPEC: dict[str, Any] = {
    "base": "micro-0",
    "optimiser": {"kind": "adam", "lr": 1e-3},
    "penalty": {"lam": 0.1},
    "max_grad_norm": 1.0,
}

OTHER_VALUES: dict[str, Any] = {
    "adapter.r": 4,
    "adapter.alpha": 8.0,
    "adapter.rslora": False,
    "adapter.dropout": 0.1,
    "adapter.target_modules": ("q_proj",),
    "schedule.kind": "cosine",
    "schedule.warmup_steps": 6,
    "penalty.lam": 0.2,
    "penalty.form": "cholesky_g1",
    "penalty.kind": "norm_held",
    "penalty.mode": "decoupled",
    "penalty.warmup_steps": 3,
    "penalty.max_grad_ratio": 0.5,
    "penalty": None,
    "optimiser.lr": 2e-3,
    "optimiser.beta1": 0.8,
    "optimiser.beta2": 0.99,
    "optimiser.eps": 1e-6,
    "optimiser.weight_decay": 0.1,
    "optimiser": {"kind": "adamw", "lr": 1e-3},
    "steps": 81,
    "batch_size": 4,
    "accumulation": 2,
    "max_grad_norm": None,
    "seed": 1,
    "checkpoints": 5,
    "first_checkpoint": 11,
    "base_dtype": "bfloat16",
    "device": "cuda",
    "gradient_checkpointing": True,
    "batching": "bucketed",
    "packing": True,
}

OF_FULL = {"method", "spectrum_rank"}
"""Tested by themselves: they go with no penalty and no adapter."""

OF_ONE_KIND = {"penalty.target", "penalty.every", "penalty.decay", "penalty.covariance"}
"""Tested with the kinds that they belong to."""

NO_PART_OF_THE_ID = {"base", "data", "schema_version", "optimiser.kind"} | OF_ONE_KIND | OF_FULL
"""base and data are there by content; the others have one accepted value (or are changed as a whole)."""


def changed(path: str, value: Any) -> RunSpec:
    body = RunSpec.model_validate(SPEC).model_dump()
    target = body
    *parents, last = path.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = value
    return RunSpec.model_validate(body)


def leaf_fields(spec: RunSpec) -> set[str]:
    found = set()
    for name, value in spec.model_dump().items():
        found |= {f"{name}.{key}" for key in value} if isinstance(value, dict) and name != "data" else {name}
    return found


@pytest.mark.parametrize("path", OTHER_VALUES)
def test_every_field_that_changes_a_result_changes_the_id(path: str) -> None:
    spec = RunSpec.model_validate(SPEC)
    assert run_id(changed(path, OTHER_VALUES[path]), INPUTS) != run_id(spec, INPUTS)


def test_no_field_was_forgotten_in_the_test_above() -> None:
    fields = leaf_fields(RunSpec.model_validate(SPEC))
    assert fields - NO_PART_OF_THE_ID == set(OTHER_VALUES) - {"penalty", "optimiser"}


@pytest.mark.parametrize(
    ("penalty", "changes"),
    [
        ({"kind": "project", "lam": 0.5}, {"every": 2}),
        ({"kind": "stable_rank", "lam": 0.5, "target": 3}, {"target": 4}),
        ({"kind": "functional", "lam": 0.5}, {"decay": 0.5, "covariance": "diagonal"}),
    ],
)
def test_options_of_one_kind_of_penalty_change_the_id_and_are_refused_elsewhere(penalty, changes) -> None:
    spec = RunSpec.model_validate(SPEC | {"penalty": penalty})
    ids = {run_id(spec, INPUTS)}
    for name, value in changes.items():
        ids.add(run_id(RunSpec.model_validate(SPEC | {"penalty": {**penalty, name: value}}), INPUTS))
        with pytest.raises(ValueError, match=f"{name} is .* accepted: only with kind {penalty['kind']}"):
            RunSpec.model_validate(SPEC | {"penalty": {"lam": 0.5, name: value}})
    assert len(ids) == 1 + len(changes)
    assert changed("penalty", spec.penalty.model_dump()).penalty == spec.penalty


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        ({"kind": "project", "lam": 1.5}, "its strength, 0 to 1"),
        ({"kind": "project", "lam": 0.5, "mode": "loss"}, "accepted: mode decoupled"),
        ({"kind": "stable_rank", "lam": 0.5}, "target is missing"),
        ({"kind": "nuclear_norm", "lam": 0.5, "form": "cholesky_g1"}, "accepted: kind frobenius_nuclear"),
        ({"kind": "norm_holds", "lam": 0.5}, "norm_held"),
        ({"lam": 0.5, "form": "qr"}, "cholesky_g1"),
    ],
)
def test_penalties_that_contradict_themselves_are_refused(penalty, message) -> None:
    with pytest.raises(ValueError, match=message):
        RunSpec.model_validate(SPEC | {"penalty": penalty})


def test_a_decoupled_penalty_is_refused_where_parameters_are_interpolated_anew() -> None:
    spec = {
        "optimiser": {"kind": "schedulefree_adamw", "lr": 1e-3},
        "schedule": {"kind": "constant", "warmup_steps": 0},
        "penalty": {"lam": 0.1, "mode": "decoupled"},
    }
    with pytest.raises(ValueError, match="decoupled with optimiser schedulefree_adamw"):
        RunSpec.model_validate(SPEC | spec)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_every_field_of_every_optimiser_is_part_of_the_id(kind: str) -> None:
    other: dict[str, Any] = {"orthogonaliser": "exact", "scale_rule": "spectral_norm", "growth_rate": 2.0, "clip": 2.0}
    other["other"] = {"kind": "adamw", "lr": 0.1}
    model = OPTIMISERS[kind]
    # all fields, also those that are left out of an id while they are not used
    base = {name: getattr(model.model_validate({"lr": 0.01}), name) for name in model.model_fields}
    constant = {"kind": "constant", "warmup_steps": 0}
    ids = {run_id(RunSpec.model_validate({"optimiser": base, "schedule": constant}), INPUTS)}
    for name in set(base) - {"kind"}:
        if isinstance(base[name], bool):
            value: Any = not base[name]
        elif name in other or isinstance(base[name], str):
            value = other[name]
        else:
            value = 7 if isinstance(base[name], int) or base[name] is None else base[name] / 2 + 0.01
            value = 0.5 if base[name] is None and "beta" in name else value
        ids.add(run_id(RunSpec.model_validate({"optimiser": {**base, name: value}, "schedule": constant}), INPUTS))
    assert len(ids) == len(base)


def test_names_and_paths_are_no_part_of_the_id() -> None:
    spec = RunSpec.model_validate(SPEC)
    moved = changed("base", "/somewhere/else/base")
    rows = changed("data", {"source": "rows", "path": "rows.jsonl"})
    assert run_id(moved, INPUTS) == run_id(rows, INPUTS) == run_id(spec, INPUTS)


@pytest.mark.parametrize("field", ResolvedInputs.model_fields)
def test_the_content_behind_the_names_is_part_of_the_id(field: str) -> None:
    spec = RunSpec.model_validate(SPEC)
    assert run_id(spec, INPUTS.model_copy(update={field: "f" * 64})) != run_id(spec, INPUTS)


def test_fields_that_came_later_leave_the_ids_of_earlier_runs_alone() -> None:
    before = run_id(RunSpec.model_validate(SPEC), INPUTS)
    assert before == "e5a999e3727a73d5"


def test_the_id_does_not_depend_on_how_a_spec_was_written() -> None:
    spec = RunSpec.model_validate(SPEC)
    explicit = RunSpec.model_validate_json(spec.model_dump_json())
    reordered = RunSpec.model_validate(dict(reversed(list(spec.model_dump().items()))))
    assert run_id(explicit, INPUTS) == run_id(reordered, INPUTS) == run_id(spec, INPUTS)
    assert len(run_id(spec, INPUTS)) == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 3}, "Extra inputs are not permitted"),
        ({"adapter": {"rank": 8}}, "Extra inputs are not permitted"),
        ({"optimiser": {"kind": "adam", "lr": 1e-3, "momentum": 0.9}}, "Extra inputs are not permitted"),
        ({"optimiser": {"kind": "moun", "lr": 1e-3}}, "does not match any of the expected tags"),
        ({"optimiser": {"kind": "adam"}}, "Field required"),
        ({"optimiser": {"kind": "adam", "lr": -1}}, "greater than 0"),
        ({"optimiser": {"kind": "adam", "lr": float("nan")}}, "finite number|less than"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"steps": "many"}, "valid integer"),
        ({"max_grad_norm": 0}, "greater than 0"),
        ({"penalty": {"lam": -0.1}}, "greater than or equal to 0"),
        ({"data": {"source": "rows"}}, "Field required"),
        ({"data": {"source": "micro", "domain": "round"}}, "rotate"),
        (
            {"steps": 5, "schedule": {"warmup_steps": 5}},
            r"schedule\.warmup_steps is 5, accepted: less than steps \(5\)",
        ),
        ({"schema_version": 2}, "Input should be 1"),
    ],
)
def test_a_spec_that_is_not_accepted_says_where_and_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunSpec.model_validate({**SPEC, **fields})


def test_a_spec_cannot_be_changed_after_it_was_made() -> None:
    spec = RunSpec.model_validate(SPEC)
    with pytest.raises(ValidationError, match="frozen"):
        spec.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, 10, 28, 80)),
        ({"checkpoints": 2}, (0, 80)),
        ({"checkpoints": 3, "first_checkpoint": 20}, (0, 20, 80)),
        ({"steps": 8, "first_checkpoint": 10}, (0, 8)),
        ({"steps": 12, "checkpoints": 6, "first_checkpoint": 10}, (0, 10, 11, 12)),
    ],
)
def test_checkpoints_are_log_spaced_and_hold_the_first_and_the_last_step(
    fields: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert RunSpec.model_validate({**SPEC, **fields}).checkpoint_steps() == expected


OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "run_ids_of_0ab7c7e.jsonl"
"""Specs and run-ids of commit 0ab7c7e: each optimiser, kind of penalty and later field, and runs of the micro study."""


def old_runs() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OLD_RUNS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("old", old_runs(), ids=lambda old: f"{old['spec']['optimiser']['kind']}-{old['run_id']}")
def test_specs_of_an_earlier_build_keep_their_run_ids_and_their_text(old: dict[str, Any]) -> None:
    spec = RunSpec.model_validate(old["spec"])
    assert run_id(spec, ResolvedInputs.model_validate(old["inputs"])) == old["run_id"]
    assert spec.model_dump(mode="json") == old["spec"]


def test_a_field_that_was_added_later_counts_only_where_it_is_used() -> None:
    ids = [old["run_id"] for old in old_runs()]
    assert len(set(ids)) == len(ids) > 40
    for name, value in {"device": "cpu", "packing": False, "spectrum_rank": 32}.items():
        assert run_id(RunSpec.model_validate({**SPEC, name: value}), INPUTS) == run_id(
            RunSpec.model_validate(SPEC), INPUTS
        )


def test_every_kind_of_penalty_has_its_line() -> None:
    assert tuple(KINDS) == get_args(PenaltyKind)
