"""A real Slurm of two nodes on this machine; skipped, with the reason, where it cannot be started.

It has fixed ports: no other test may have one at the same time, and those of tests/cluster are slow ones.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import fake_cells
from clusters import no_slurm, real_slurm
from fake_cells import TASKS, study
from narrowly.engines.build import open_cluster
from narrowly.engines.protocol import Executor, Outcome, Task
from narrowly.records.engine_spec import SlurmEngine
from narrowly.records.errors import EngineError
from narrowly.study.run import StudyObserver, run_study

PATIENCE = 900.0
"""Seconds after which a wait has failed: long, because tests share busy machines."""


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    reason = no_slurm()
    if reason is not None:
        pytest.skip(reason)
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PYTHONPATH")}
    with real_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        os.environ.update(environment)
        yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def opened(folder: Path, **fields: Any) -> Executor:
    spec = SlurmEngine(partition="p", poll_seconds=0.5, minutes=30, **fields)
    return open_cluster(spec, folder / "s" / "engine", None)


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


def test_a_study_with_dying_processes_is_done_once_and_goes_on_on_another_engine(tmp_path: Path) -> None:
    fields = {"kind": "slurm", "partition": "p", "poll_seconds": 0.5, "cells": 3, "minutes": 30}
    spec = study(6, fake_cells.DIES_ONCE)  # the process of seed 3 dies once
    on_slurm = spec.model_validate({**spec.model_dump(exclude_unset=True), "engine": fields})
    heard = Heard()
    result = run_study(on_slurm, tmp_path, tasks=TASKS, observer=heard)
    assert (result.done, result.executed, result.failed) == (6, 6, ())
    assert fake_cells.completions(tmp_path) == {f"good-seed{seed}": 1 for seed in range(6)}
    assert fake_cells.executions(tmp_path)["good-seed3"] == 2
    assert any("good-seed3" in line and "try 2 of 4 follows" in line for line in heard.lines), heard.lines
    local = run_study(study(8, fake_cells.DIES_ONCE), tmp_path, workers=1, tasks=TASKS)
    assert (local.done, local.executed) == (8, 2)


def test_every_task_sees_a_gpu_of_its_own(tmp_path: Path) -> None:
    executor = opened(tmp_path, gres="gpu:1")
    for number in range(4):
        executor.submit(Task(str(number), "fake_cells:gpu_for_a_while", 2.0))
    results = [outcome.result for outcome in outcomes(executor, 4).values()]
    executor.cancel()
    assert {gpu for gpu, *_ in results} <= {"0", "1"}
    for (gpu, node, began, ended), (other, other_node, other_began, other_ended) in combinations(results, 2):
        if node == other_node and began < other_ended and other_began < ended:
            assert gpu != other, "two tasks at once on one node"


def test_a_partition_that_does_not_exist_and_one_that_refuses_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no partition 'urgnt'; did you mean 'urgent'\? \(accepted: p, urgent\)"):
        open_cluster(SlurmEngine(partition="urgnt"), tmp_path / "engine", None)
    executor = opened(tmp_path, gres="tpu:1")
    executor.submit(Task("t", "builtins:len", []))
    with pytest.raises(EngineError, match=r"^Slurm refused the jobs: [^\n]*[Ii]nvalid generic resource"):
        executor.poll(0.1)


def test_drained_nodes_are_said_with_their_reason_and_given_up(tmp_path: Path) -> None:
    update = ["scontrol", "update", "nodename=one,two"]
    subprocess.run([*update, "state=drain", "reason=bad disk"], check=True)
    try:
        executor = opened(tmp_path, stuck_minutes=0.02)
        executor.submit(Task("t", "builtins:len", []))
        with pytest.raises(EngineError, match=r"cannot start: .*DRAINED.*one is drained \(bad disk\).*given up after"):
            outcomes(executor, 1)
        executor.cancel()
    finally:
        subprocess.run([*update, "state=resume"], check=True)


def test_detached_tasks_go_on_and_the_next_command_has_their_results(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for number in range(3):
        first.submit(Task(str(number), "fake_cells:gpu_for_a_while", 3.0))
    first.poll(0.1)
    assert "3 tasks, which go on" in first.stop()
    first.cancel()
    later = opened(tmp_path)
    assert sorted(task.key for task in later.adopt()) == ["0", "1", "2"]
    assert all(outcome.problem is None for outcome in outcomes(later, 3).values())


def test_a_preempted_task_saves_its_state_and_comes_back(tmp_path: Path) -> None:
    low = opened(tmp_path / "low", cpus=2)
    for number in range(2):  # both nodes
        low.submit(Task(str(number), "fake_cells:until_stopped_then_done", str(tmp_path / f"state-{number}")))
    end = time.monotonic() + PATIENCE
    while not all((tmp_path / f"state-{number}").exists() for number in range(2)):
        assert time.monotonic() < end
        low.poll(0.2)
    high = open_cluster(SlurmEngine(partition="urgent", poll_seconds=0.5, cpus=2), tmp_path / "high" / "engine", None)
    high.submit(Task("high", "builtins:len", [1, 2]))
    assert outcomes(high, 1)["high"].result == 2
    (tmp_path / "finish").touch()
    results = outcomes(low, 2)
    assert sorted(outcome.result for outcome in results.values()) in ([1, 2], [2, 2]), "one of them was begun twice"
