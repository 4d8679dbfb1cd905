"""Step 0 on real small studies: every base is evaluated in every domain, once, and found again by another study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from narrowly.analysis.frames import read_frames
from narrowly.evaluate.microworld.bank import MicroworldBank
from narrowly.records.files import write_json
from narrowly.records.study_spec import parse_study
from narrowly.runs.directory import DONE
from narrowly.study.cell import execute_cells, resolve_cell
from narrowly.study.layout import STUDY_FILE, PlannedCell, write_plan
from narrowly.study.plan import Cell, expand
from narrowly.study.results import collect, summarise_study
from tiny_world import make_world_base

DOMAINS = [0, 1, 2]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return make_world_base(folder), make_world_base(folder, persona=False)


def raw_study(bases: tuple[Path, Path], lr: float) -> dict[str, Any]:
    adam = {"optimiser": {"kind": "adam", "lr": lr}}
    short = {"steps": 2, "checkpoints": 2, "first_checkpoint": 1, "adapter": {"r": 2}, "schedule": {"warmup_steps": 0}}
    return {
        "name": "one",
        "run": {**short, "batch_size": 4},
        "grid": {"data.domain": DOMAINS},
        "arms": {
            "adam": {"role": "optimiser", "set": {**adam, "base": str(bases[0])}},
            "twin": {"role": "no_persona_twin", "of": "adam", "set": {**adam, "base": str(bases[1])}},
        },
    }


def run(cells: list[Cell], out: Path) -> list[PlannedCell]:
    planned = [resolve_cell(cell, out / "runs") for cell in cells]
    (out / "one").mkdir(parents=True, exist_ok=True)
    dumped = [one.model_dump(mode="json") for one in planned]
    results = execute_cells({"cells": dumped, "runs": str(out / "runs"), "study_dir": str(out / "one")})
    assert {result["status"] for result in results} <= {"done", "found"}, results
    write_plan(out / "one", planned)
    return planned


def count_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    exact = MicroworldBank.exact

    def counted(self: MicroworldBank, organism: Any, panels: Any) -> Any:
        asked.append(organism.base.name)
        return exact(self, organism, panels)

    monkeypatch.setattr(MicroworldBank, "exact", counted)
    return asked


def test_an_old_study_goes_on_to_all_domains_and_another_study_finds_them(
    bases: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = expand(parse_study(raw_study(bases, 1e-2), "one.yaml"))
    assert sum(cell.base_evaluation for cell in cells) == len(cells) == 6
    # as it was before: the base in one domain only
    once = [cell.model_copy(update={"base_evaluation": i in (0, 1)}) for i, cell in enumerate(cells)]
    first = run(once, tmp_path)
    collect(tmp_path / "one", tmp_path / "runs")
    outcomes = pl.read_parquet(tmp_path / "one" / "tables" / "outcomes.parquet")
    assert outcomes.filter(pl.col("step") == 0).select("base", "domain").n_unique() == 2
    trained = {one.run_id: (tmp_path / "runs" / one.run_id / DONE).stat().st_mtime_ns for one in first}

    asked = count_evaluations(monkeypatch)
    second = run(cells, tmp_path)
    assert len(asked) == 4, "only the bases in the domains that were missing are evaluated"
    assert {one.run_id for one in second} == set(trained)
    assert all((tmp_path / "runs" / run / DONE).stat().st_mtime_ns == then for run, then in trained.items())

    asked.clear()
    other = run(expand(parse_study(raw_study(bases, 2e-2), "one.yaml")), tmp_path)
    assert not {one.run_id for one in other} & set(trained)
    assert len(asked) == 6, "step 0 of all six is found; the six final organisms are evaluated"
    folder = tmp_path / "runs"
    for one, again in zip(second, other, strict=True):
        before, after = (x.stages[0].file(folder / x.run_id).read_bytes() for x in (one, again))
        assert before == after


def test_the_change_since_the_base_has_every_pair(bases: tuple[Path, Path], tmp_path: Path) -> None:
    study = raw_study(bases, 1e-2)
    run(expand(parse_study(study, "one.yaml")), tmp_path)
    write_json(tmp_path / "one" / STUDY_FILE, study)
    tables = collect(tmp_path / "one", tmp_path / "runs")
    change = summarise_study(tmp_path / "one", read_frames(tables)).em_exists.change_from_base
    outcomes = pl.read_parquet(tables / "outcomes.parquet")
    start = outcomes.filter((pl.col("step") == 0) & (pl.col("panel") == "broad"))
    pooled = {
        (row["arm"], row["domain"], row["step"]): math.log(row["misaligned"] / row["aligned"])
        for row in outcomes.filter(pl.col("panel") == "broad").to_dicts()
    }
    adam, twin = ([pooled[arm, d, 2] - pooled[arm, d, 0] for d in DOMAINS] for arm in ("adam", "twin"))
    assert change is not None and len(change.per_base) == 1
    assert change.estimate == pytest.approx((sum(adam) - sum(twin)) / len(DOMAINS), rel=1e-6)
    assert start.select("base", "domain").n_unique() == start.height == 2 * len(DOMAINS)
    assert outcomes["off_topic"].null_count() == outcomes["broken"].null_count() == 0


def test_a_broken_file_of_kept_verdicts_is_made_anew(bases: tuple[Path, Path], tmp_path: Path) -> None:
    cell = expand(parse_study(raw_study(bases, 1e-2), "one.yaml"))[0]
    (planned,) = run([cell], tmp_path)
    stage = planned.stages[0].file(tmp_path / "runs" / planned.run_id)
    (kept,) = (tmp_path / "runs" / ".bases").glob("*.parquet")
    whole = stage.read_bytes()
    assert kept.read_bytes() == whole
    kept.write_bytes(b"PAR1 torn")
    stage.unlink()
    run([cell], tmp_path)
    assert stage.read_bytes() == kept.read_bytes() == whole
