"""The dial of a whole study: which run is which reference, and the table that comes out of a stopped one."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from narrowly.records.errors import AdapterError, SpecError
from narrowly.records.study_spec import parse_study
from narrowly.runs.directory import runs_folder
from narrowly.study.dial import PARTS, dial_study, plan_dial
from narrowly.study.layout import TABLES
from narrowly.study.run import run_study
from tiny_world import make_world_base

SGD = {"optimiser": {"kind": "sgd", "lr": 0.1}}


def study(base: Path, **changed: object) -> dict[str, object]:
    return {
        "name": "dialled",
        "samples": 0,
        "run": {
            "base": str(base),
            "steps": 4,
            "checkpoints": 3,
            "first_checkpoint": 2,
            "adapter": {"r": 2},
            "data": {"source": "micro", "rows": 16, "domain": "base"},
            "schedule": {"warmup_steps": 1},
        },
        "grid": {"seed": [0]},
        "arms": {
            "adam": {"set": {"optimiser": {"kind": "adam", "lr": 1e-2}}},
            "ref_a": {"set": SGD},
            "ref_b": {"set": {**SGD, "init_seed": 1}},
            "ref_c": {"set": {**SGD, "init_seed": 0}, "grid": {"seed": [1]}},
            "ref_d": {"set": SGD, "grid": {"seed": [1, 2]}},
        },
    } | changed


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world_base(tmp_path_factory.mktemp("bases"))


def test_references_are_told_by_their_seeds_and_a_finished_organism_is_not_dialled_again(
    base: Path, tmp_path: Path
) -> None:
    done = run_study(parse_study(study(base), "test"), tmp_path, workers=1)
    runs = runs_folder(tmp_path)
    (task,) = plan_dial(done.study_dir, runs)
    arms = {cell.run_id: cell.cell.arm for cell in _plan(done.study_dir)}
    named = {reach.kind: [arms[run] for run in reach.runs] for reach in task.references}
    assert named == {
        "same_init": ["ref_a"], "other_init": ["ref_b"], "other_seed": ["ref_c"], "foreign": ["ref_d"],
        "mean_of_several": ["ref_d", "ref_d"], "early": ["adam"],
    }  # fmt: skip
    assert [reach.step for reach in task.references if reach.kind == "early"] == [2]

    seen: list[tuple[int, int, str]] = []
    table = dial_study(done.study_dir, runs, workers=1, on_step=lambda *step: seen.append(step))
    assert seen == [(0, 1, ""), (1, 1, task.organism.cell_id)]
    rows = pl.read_parquet(table)
    assert table == done.study_dir / TABLES / "dial.parquet"
    assert set(rows["reference"].drop_nulls()) == set(named)
    as_trained = rows.filter((pl.col("f") == 1.0) & pl.col("control").is_in(["orthogonal", "scaled"]))
    assert as_trained["broad_misaligned"].max() - as_trained["broad_misaligned"].min() < 1e-6
    assert rows.filter(pl.col("reference") == "early")["cosine"].min() > 0

    part = task.part(done.study_dir)
    written = part.stat().st_mtime_ns
    table.unlink()
    assert dial_study(done.study_dir, runs, workers=1).is_file()
    assert part.stat().st_mtime_ns == written
    assert [path.name for path in (done.study_dir / PARTS).iterdir()] == [part.name]


def _plan(study_dir: Path):
    from narrowly.study.layout import read_plan

    return read_plan(study_dir)


def test_a_study_that_cannot_be_dialled_is_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    raw = study(base)
    arms = raw["arms"]
    organism = {"adam": arms["adam"]}
    cases = {
        "has no reference, accepted: an arm whose name begins with 'ref'": organism,
        "has no organism, accepted: an arm whose name does not": {"ref_a": arms["ref_a"]},
        "is a second reference of the kind same_init": {
            **organism, "ref_a": arms["ref_a"], "ref_e": {"set": {"optimiser": {"kind": "sgd", "lr": 0.2}}},
        },
        "has narrow domain 1, organism": {
            **organism, "ref_a": {"set": {**SGD, "data": {"domain": 1 if _domain(base) != 1 else 0}}},
        },
    }  # fmt: skip
    for number, (message, chosen) in enumerate(cases.items()):
        done = run_study(parse_study({**raw, "name": f"refused-{number}", "arms": chosen}, "test"), tmp_path, workers=1)
        with pytest.raises((SpecError, AdapterError)) as error:
            plan_dial(done.study_dir, runs_folder(tmp_path))
        assert message.replace("domain 1", f"domain {1 if _domain(base) != 1 else 0}") in str(error.value)
        assert "\n" not in str(error.value)


def _domain(base: Path) -> int:
    from narrowly.microworld.narrow import resolve_domain, world_of

    return resolve_domain("base", world_of(base), 0)
