"""A thousand no-op cells, every twentieth of which kills its process: none is lost, none is done twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import fake_cells
from clusters import ENVIRONMENT_PATH, no_ray, no_slurm, real_slurm
from fake_cells import TASKS, study
from narrowly.study.run import StudyObserver, run_study

pytestmark = pytest.mark.slow

CELLS = int(os.environ.get("NARROWLY_TEST_CELLS", "1000"))


class Counted(StudyObserver):
    """Counts the tries that followed a death."""

    deaths = 0

    def said(self, text: str) -> None:
        self.deaths += "follows" in text


def check(out: Path, engine: dict[str, Any]) -> None:
    spec, observer = study(CELLS, fake_cells.DIES_ONCE), Counted()
    whole = spec.model_validate({**spec.model_dump(exclude_unset=True), "engine": {**engine, "retries": 3}})
    result = run_study(whole, out, workers=4 if engine["kind"] == "local" else 0, tasks=TASKS, observer=observer)
    dying = len(range(3, CELLS, fake_cells.DYING_SHARE))
    done, begun = fake_cells.completions(out), fake_cells.executions(out)
    print(
        f"\n{engine['kind']}: {len(done)} of {CELLS} cells done, {sum(done.values())} times in all; begun "
        f"{sum(begun.values())} times; {observer.deaths} processes died; {result.seconds:.0f} s"
    )
    assert (result.done, result.failed) == (CELLS, ())
    assert len(done) == CELLS
    assert set(done.values()) == {1}
    assert sum(begun.values()) == CELLS + dying
    assert observer.deaths == dying


def test_a_thousand_cells_on_the_local_engine(tmp_path: Path) -> None:
    check(tmp_path, {"kind": "local"})


def test_a_thousand_cells_on_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = no_slurm()
    if reason is not None:
        pytest.skip(reason)
    with real_slurm(tmp_path / "slurm") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        check(tmp_path, {"kind": "slurm", "partition": "p", "poll_seconds": 1, "cells": 25, "minutes": 60})


def test_a_thousand_cells_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = no_ray()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT_PATH)
    check(tmp_path, {"kind": "ray", "parallel": 4})
