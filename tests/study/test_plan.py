"""Plan: grids, exclusions, order, duplicates, and errors that say where in the study file they stand."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from narrowly.records.errors import SpecError, UnknownNameError
from narrowly.records.study_spec import parse_study
from narrowly.study.pace import default_seconds, estimated_seconds
from narrowly.study.plan import Cell, expand, find_study, shipped_studies


def study(arms: dict[str, Any], **fields: Any) -> list[Cell]:
    return expand(parse_study({"name": "tiny", "arms": arms, **fields}, "tiny.yaml"))


def adam(lr: Any = 1e-3, **fields: Any) -> dict[str, Any]:
    return {"role": "optimiser", "set": {"optimiser": {"kind": "adam", "lr": lr}}, **fields}


def test_a_grid_is_the_product_of_its_fields_and_the_first_varies_fastest() -> None:
    cells = study({"adam": adam()}, grid={"base": ["micro-0", "micro-1"], "seed": [0, 1]})
    assert [(cell.spec.base, cell.spec.seed) for cell in cells] == [
        ("micro-0", 0),
        ("micro-1", 0),
        ("micro-0", 1),
        ("micro-1", 1),
    ]


def test_any_dotted_field_can_be_swept_including_nested_defaults() -> None:
    arm = {"role": "optimiser", "set": {"optimiser": {"kind": "adam"}}}
    cells = study({"adam": arm}, grid={"optimiser.lr": [1e-3, 2e-3], "data.domain": [0, 1], "adapter.r": [4]})
    assert {(cell.spec.optimiser.lr, cell.spec.data.domain, cell.spec.adapter.r) for cell in cells} == {  # type: ignore[union-attr]
        (1e-3, 0, 4),
        (2e-3, 0, 4),
        (1e-3, 1, 4),
        (2e-3, 1, 4),
    }


def test_an_arm_grid_replaces_only_the_fields_it_names() -> None:
    cells = study(
        {"adam": adam(), "twin": adam(2e-3, grid={"base": ["micro-nopersona"], "data.domain": [0, 1]})},
        grid={"base": ["micro-0", "micro-1"], "seed": [5]},
    )
    twin = [cell for cell in cells if cell.arm == "twin"]
    assert [(cell.spec.base, cell.spec.seed) for cell in twin] == [("micro-nopersona", 5)] * 2
    assert sorted(cell.spec.base for cell in cells if cell.arm == "adam") == ["micro-0", "micro-1"]


def test_an_exclusion_removes_exactly_the_cells_that_match_every_field() -> None:
    arms = {"adam": adam(), "slow": adam(1e-4)}
    grid = {"base": ["micro-0", "micro-1"], "seed": [0, 1]}
    full = {cell.cell_id for cell in study(arms, grid=grid)}
    left = {cell.cell_id for cell in study(arms, grid=grid, exclude=[{"arm": "slow", "base": "micro-1"}])}
    assert full - left == {"slow-micro-1-seed0", "slow-micro-1-seed1"}
    by_field = {cell.cell_id for cell in study(arms, grid=grid, exclude=[{"optimiser.lr": 1e-4, "seed": 1}])}
    assert full - by_field == {"slow-micro-0-seed1", "slow-micro-1-seed1"}


def test_zero_cells_and_duplicate_cells_are_errors() -> None:
    with pytest.raises(SpecError, match="zero cells"):
        study({"adam": adam()}, exclude=[{"arm": "adam"}])
    with pytest.raises(SpecError, match=r"duplicate cells: 'adam' and 'again'"):
        study({"adam": adam(), "again": adam()})


def test_paired_answers_of_two_dtypes_are_refused_before_anything_is_trained() -> None:
    raw = {
        "name": "s",
        "run": {"base": "smollm2-135m", "data": {"source": "text", "dataset": "pairs:money:harmful"}},
        "grid": {"base_dtype": ["float32", "bfloat16"]},
        "arms": {"adam": adam()},
    }
    with pytest.raises(SpecError, match="base_dtype has the values float32, bfloat16, accepted: one"):
        expand(parse_study(raw, "s"))
    assert len(expand(parse_study({**raw, "paired": False}, "s"))) == 2


def test_any_prefix_of_the_order_is_balanced_over_arms() -> None:
    arms = {name: adam(lr) for name, lr in (("a", 1e-3), ("b", 2e-3), ("c", 3e-3))}
    cells = study(arms, grid={"base": [f"micro-{i}" for i in range(4)], "seed": [0, 1]})
    for length in range(1, len(cells) + 1):
        counts = Counter(cell.arm for cell in cells[:length])
        assert max(counts.values()) - min((counts[name] for name in arms), default=0) <= 1
    assert [cell.cell_id for cell in cells] == [
        cell.cell_id for cell in study(arms, grid={"base": [f"micro-{i}" for i in range(4)], "seed": [0, 1]})
    ]


def test_each_base_is_evaluated_once_per_domain_by_its_first_optimiser_arm() -> None:
    cells = expand(find_study("micro"))
    carriers = [cell for cell in cells if cell.base_evaluation]

    def asked(cell: Cell) -> tuple[str, Any, int]:
        return cell.spec.base, getattr(cell.spec.data, "domain"), cell.spec.seed  # noqa: B009

    assert Counter(map(asked, carriers)) == Counter(set(map(asked, cells)))
    assert sum("nopersona" in cell.spec.base for cell in carriers) == 8
    assert {cell.arm for cell in carriers if "nopersona" not in cell.spec.base} == {"sgd"}
    assert all(0 in cell.evaluated_steps() for cell in carriers)
    assert all(0 not in cell.evaluated_steps() for cell in cells if not cell.base_evaluation)


def test_a_fixed_domain_is_one_evaluation_for_all_seeds_and_a_rotating_one_is_one_for_each() -> None:
    grid = {"base": ["micro-0"], "seed": [0, 1, 2]}
    for domain, expected in ((3, 1), ("base", 1), ("rotate", 3)):
        cells = study({"adam": adam(), "slow": adam(1e-4)}, grid=grid, run={"data": {"domain": domain}})
        assert sum(cell.base_evaluation for cell in cells) == expected


def test_cell_ids_are_unique_and_safe_file_names_even_where_labels_fall_together() -> None:
    cells = study({"adam": adam()}, grid={"base": ["one/base", "two/base", "../x"]})
    ids = [cell.cell_id for cell in cells]
    assert len(set(ids)) == 3
    assert all("/" not in name for name in ids)


@pytest.mark.parametrize(
    ("arms", "fields", "words"),
    [
        ({"adam": adam("fast")}, {}, ["arms.adam.set.optimiser.lr", "'fast'", "a number"]),
        (
            {"adam": {"set": {"optimiser": {"kind": "moun", "lr": 1}}}},
            {},
            ["arms.adam.set.optimiser", "'moun'", "did you mean 'muon'"],
        ),
        (
            {"adam": {"set": {"optimiser": {"kind": "adam", "lr": 1, "momentum": 0.9}}}},
            {},
            ["optimiser.momentum", "unknown field", "beta1"],
        ),
        ({"adam": adam()}, {"run": {"steps": "forty"}}, ["run.steps", "'forty'", "an integer"]),
        ({"adam": adam()}, {"grid": {"seed": [0, -1]}}, ["grid.seed", "-1"]),
        (
            {"adam": adam(grid={"data.domain": ["x"]})},
            {},
            ["arms.adam.grid.data.domain", "'x'", "an integer or 'rotate'"],
        ),
        ({"adam": {"role": "optimiser"}}, {}, ["arms.adam.set.optimiser", "missing"]),
        (
            {"adam": adam()},
            {"run": {"steps": 4, "schedule.warmup_steps": 4}},
            ["schedule.warmup_steps is 4", "less than steps"],
        ),
    ],
)
def test_a_wrong_run_field_is_reported_where_the_study_file_has_it(
    arms: dict[str, Any], fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        study(arms, **fields)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_estimate_prefers_measured_seconds_and_divides_by_workers() -> None:
    cells = study({"adam": adam()}, grid={"seed": [0, 1, 2, 3]})
    once = 4 * (3.0 + 1.2)  # each seed has a domain of its own, in which the base is evaluated too
    assert estimated_seconds(cells, {}, 1) == pytest.approx(once)
    assert estimated_seconds(cells, {"adam": 2.0}, 2) == pytest.approx(once)
    assert estimated_seconds(cells, {"adam": 2.0, "arm:adam": 5.0}, 2) == pytest.approx(2.5 * once)
    assert estimated_seconds([], {}, 2) == 0.0


def test_the_estimate_of_a_short_run_keeps_the_time_of_its_evaluation() -> None:
    (long,), (short,) = (study({"adam": adam()}, run={"steps": steps}) for steps in (80, 10))
    saved = default_seconds(long) - default_seconds(short)
    assert 0 < saved < default_seconds(long) * 7 / 8
    assert estimated_seconds([short], {"adam": 2.0}, 1) == pytest.approx(2 * default_seconds(short))


def test_every_shipped_study_expands_and_the_unknown_one_gets_the_nearest_name() -> None:
    assert {"micro", "smoke"} <= set(shipped_studies())
    for name in shipped_studies():
        assert expand(find_study(name))
    with pytest.raises(UnknownNameError, match="did you mean 'micro'"):
        find_study("mirco")
    with pytest.raises(SpecError, match=r"nothing\.yaml does not exist"):
        find_study("nothing.yaml")


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from narrowly.study.plan import *; expand(find_study('micro')); "
        "assert not {'torch', 'polars', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
