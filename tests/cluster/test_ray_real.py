"""A real Ray of several nodes on this machine; skipped, with the reason, where it is not installed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import fake_cells
from clusters import ENVIRONMENT_PATH, no_ray
from fake_cells import TASKS, study
from narrowly.engines import remote
from narrowly.engines.build import open_cluster
from narrowly.engines.protocol import WORKER_DIED, Executor, Outcome, Task
from narrowly.records.engine_spec import RayEngine
from narrowly.records.errors import EngineError
from narrowly.study.run import StudyObserver, run_study

pytestmark = pytest.mark.slow

PATIENCE = 900.0
MEMORY = 100_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with two cores and two GPUs (as Ray counts them)."""
    reason = no_ray()
    if reason is not None:
        pytest.skip(reason)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = ENVIRONMENT_PATH
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    for _ in range(2):
        found.add_node(num_cpus=2, num_gpus=2, object_store_memory=MEMORY)
    yield found
    found.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update({"PYTHONPATH": before})


def outcomes(executor: Executor, number: int) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    end = time.monotonic() + PATIENCE
    while len(found) < number:
        assert time.monotonic() < end, found
        found.update({outcome.key: outcome for outcome in executor.poll(0.2)})
    return found


class Heard(StudyObserver):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def said(self, text: str) -> None:
        self.lines.append(text)


def test_a_study_with_dying_processes_is_done_once_and_goes_on_on_another_engine(tmp_path: Path, cluster: Any) -> None:
    spec = study(6, fake_cells.DIES_ONCE)  # the process of seed 3 dies once
    fields = {"kind": "ray", "address": cluster.address, "cells": 2}
    heard = Heard()
    on_ray = spec.model_validate({**spec.model_dump(exclude_unset=True), "engine": fields})
    result = run_study(on_ray, tmp_path, tasks=TASKS, observer=heard)
    assert (result.done, result.executed, result.failed) == (6, 6, ())
    assert fake_cells.completions(tmp_path) == {f"good-seed{seed}": 1 for seed in range(6)}
    assert fake_cells.executions(tmp_path)["good-seed3"] == 2
    deaths = [line for line in heard.lines if "its Ray worker died" in line]
    assert len(deaths) == 1, heard.lines
    assert "good-seed3" in deaths[0]
    local = run_study(study(7, fake_cells.DIES_ONCE), tmp_path, workers=1, tasks=TASKS)
    assert (local.done, local.executed) == (7, 1)


def test_what_ray_would_run_four_times_runs_once(tmp_path: Path, cluster: Any) -> None:
    executor = open_cluster(RayEngine(address=cluster.address), tmp_path / "engine", None)
    try:
        for name in ("exits", "killed"):
            executor.submit(Task(name, "fake_cells:begun_and", [name, str(tmp_path)]))
        found = outcomes(executor, 2)
        assert found["exits"].problem is not None and found["exits"].problem.kind == "SystemExit"
        assert found["killed"].problem is not None and found["killed"].problem.kind == WORKER_DIED
        time.sleep(5)  # Ray waits a second before each of its own tries
        assert {name: len(list(tmp_path.glob(f"{name}.*"))) for name in ("exits", "killed")} == {
            "exits": 1,
            "killed": 1,
        }
        assert "begun: exits" in (tmp_path / "engine" / "logs" / "exits.log").read_text()
    finally:
        executor.cancel()


def test_every_task_sees_gpus_of_its_own(tmp_path: Path, cluster: Any) -> None:
    executor = open_cluster(RayEngine(address=cluster.address, gpus=1), tmp_path / "engine", None)
    try:
        for number in range(4):
            executor.submit(Task(str(number), "fake_cells:gpu_for_a_while", 3.0))
        results = [outcome.result for outcome in outcomes(executor, 4).values()]
        assert {gpu for gpu, *_ in results} <= {"0", "1"}
        at_once = [pair for pair in combinations(results, 2) if pair[0][2] < pair[1][3] and pair[1][2] < pair[0][3]]
        busiest = max(sum(one in pair for pair in at_once) for one in results)
        same = sum(one[0] == other[0] for one, other in at_once)
        assert busiest >= 1, "some ran at once"
        assert same <= 2, "two nodes number their GPUs from 0"
    finally:
        executor.cancel()


def test_a_node_that_does_not_see_the_storage_says_so(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = remote.Shared(str(tmp_path / "elsewhere" / "shared-0"), "0")
    monkeypatch.setattr("narrowly.engines.ray_cluster.share", lambda folder: (folder.mkdir(parents=True), elsewhere)[1])
    executor = open_cluster(RayEngine(address=cluster.address), tmp_path / "engine", None)
    try:
        executor.submit(Task("t", "builtins:len", []))
        problem = outcomes(executor, 1)["t"].problem
        assert problem is not None
        assert problem.fatal
        assert f"does not see {tmp_path / 'elsewhere'}; accepted: " in problem.error
    finally:
        executor.cancel()


def test_a_task_that_no_node_has_room_for_is_said_and_given_up(tmp_path: Path, cluster: Any) -> None:
    executor = open_cluster(RayEngine(address=cluster.address, gpus=8, stuck_minutes=1e-3), tmp_path / "e", None)
    try:
        assert executor.notes() == ["no node of the Ray cluster has 1 CPU, 8 GPU, as a task asks for; waiting for one"]
        executor.submit(Task("t", "builtins:len", []))
        time.sleep(0.2)
        with pytest.raises(EngineError, match="8 GPU, as a task asks for"):
            outcomes(executor, 1)
    finally:
        executor.cancel()
