"""The engine of a study: its own section, flags, and that no run, plan or preregistration depends on it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from narrowly.cli.app import execute
from narrowly.cli.options import with_engine
from narrowly.engines.build import open_cluster
from narrowly.engines.local import LocalExecutor, visible_gpus
from narrowly.engines.protocol import Task
from narrowly.records.engine_spec import ENGINE_FIELDS, ENGINES, LocalEngine, RayEngine, SlurmEngine
from narrowly.records.errors import EngineError, MissingExtraError, SpecError, UnknownNameError
from narrowly.records.study_spec import parse_study
from narrowly.study.plan import expand
from narrowly.study.run import study_text

RAW: dict[str, Any] = {
    "name": "s",
    "grid": {"seed": [0, 1]},
    "arms": {"adam": {"role": "optimiser", "set": {"optimiser": {"kind": "adam", "lr": 1e-3}}}},
}
SLURM = {"kind": "slurm", "partition": "gpu", "gres": "gpu:1", "cells": 4}


def test_cells_and_the_study_in_its_folder_are_the_same_with_every_engine() -> None:
    plain = parse_study(RAW, "s.yaml")
    for engine in (SLURM, {"kind": "ray", "gpus": 1}, {"kind": "local", "retries": 2}):
        other = parse_study({**RAW, "engine": engine}, "s.yaml")
        assert other.engine is not None
        assert expand(other) == expand(plain)
        assert study_text(other) == study_text(plain)


def test_a_flag_chooses_the_engine_and_keeps_the_section_that_is_its_own() -> None:
    written = {**RAW, "engine": SLURM}
    same = parse_study(written, "s.yaml", with_engine("slurm", ["engine.minutes=30"]))
    assert same.engine == SlurmEngine(partition="gpu", gres="gpu:1", cells=4, minutes=30)
    assert parse_study(written, "s.yaml", with_engine("local", None)).engine == LocalEngine()
    assert parse_study(written, "s.yaml", with_engine("ray", ["engine.gpus=2"])).engine == RayEngine(gpus=2)
    assert parse_study(RAW, "s.yaml", ["engine.retries=1"]).engine == LocalEngine(retries=1)
    assert parse_study(RAW, "s.yaml").engine is None


def test_what_is_misspelt_is_named_with_what_is_near() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown engine 'slrum'; did you mean 'slurm'"):
        with_engine("slrum", None)
    with pytest.raises(SpecError, match=r"engine\.partion.*did you mean 'engine\.partition'"):
        parse_study(RAW, "s.yaml", ["engine.partion=gpu"])
    with pytest.raises(SpecError, match=r"partition"):
        parse_study(RAW, "s.yaml", with_engine("ray", ["engine.partition=gpu"]))
    with pytest.raises(SpecError, match=r"engine"):
        parse_study({**RAW, "engine": {"kind": "kubernetes"}}, "s.yaml")


def test_every_engine_has_retries_and_says_what_its_fields_mean() -> None:
    for spec in ENGINES.values():
        assert "retries" in spec.model_fields
        assert all(field.description for name, field in spec.model_fields.items() if name != "kind")
    assert {"kind", "retries", "partition", "address"} <= ENGINE_FIELDS


@pytest.mark.parametrize(("spec", "module"), [(SlurmEngine(), "submitit"), (RayEngine(), "ray")])
def test_an_engine_that_is_not_installed_names_its_extra(
    spec: SlurmEngine | RayEngine, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"--engine {spec.kind} needs {module}.*\[{spec.kind}\]"):
        open_cluster(spec, tmp_path / "engine", None)
    assert not (tmp_path / "engine").exists()


def test_a_machine_without_slurm_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="extra slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"needs Slurm's command sinfo, which is not on this machine"):
        open_cluster(SlurmEngine(), tmp_path / "engine", None)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster is reached at 127.0.0.1:1: .*refused"),
        ("ray://127.0.0.1:10001", "accepted: HOST:PORT"),
        ("head", "accepted: HOST:PORT"),
    ],
)
def test_a_ray_cluster_that_is_not_there_is_one_line(address: str, words: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="extra ray")
    with pytest.raises(EngineError, match=words):
        open_cluster(RayEngine(address=address), tmp_path / "engine", None)


def test_plan_prints_what_slurm_would_get_and_submits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit", reason="extra slurm")
    for name in ("sbatch", "sinfo", "squeue", "scontrol"):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    asked = [
        "--engine",
        "slurm",
        "--set",
        "engine.partition=gpu",
        "--set",
        "engine.cells=3",
        "--set",
        "engine.gres=gpu:1",
    ]
    command_line = ["plan", "smoke", "--runs", str(tmp_path / "out"), *asked]
    assert execute(command_line) == 0
    printed = capsys.readouterr().out
    assert "engine slurm: 2 tasks of at most 3 cells; nothing is submitted" in printed
    for line in ("--array=0-1%2", "--partition=gpu", "--gres=gpu:1", "--time=240", "--requeue", "--signal=USR2@90"):
        assert f"#SBATCH {line}" in printed
    assert execute([*command_line, "--json"]) == 0
    (array,) = json.loads(capsys.readouterr().out)["engine"]["arrays"]
    assert array["tasks"] == 2
    assert array["script"].startswith("#!/bin/bash")
    assert not (tmp_path / "asked").exists()
    assert not (tmp_path / "out").exists()


def test_processes_of_the_pool_take_a_gpu_each_and_a_new_one_takes_that_of_the_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    with LocalExecutor(2, None, ("0", "GPU-7")) as pool:
        for worker in range(2):
            pool.submit(Task(f"dies {worker}", "os:abort_now", None))  # no such function: both processes start
        seen: list[Any] = []
        while len(seen) < 2:
            seen += pool.poll(0.2)
        pids = [worker.process.pid for worker in pool._pool]
        assert sorted(worker.gpu or "" for worker in pool._pool) == ["0", "GPU-7"]
        pool._pool[0].process.kill()
        for number in range(6):
            pool.submit(Task(str(number), "fake_cells:gpu_and_pid", None))
        outcomes: list[Any] = []
        while len(outcomes) < 6:
            outcomes += pool.poll(0.2)
        values = {tuple(outcome.result) for outcome in outcomes if outcome.problem is None}
        by_pid: dict[int, set[str]] = {}
        for gpu, pid in values:
            by_pid.setdefault(pid, set()).add(gpu)
        assert all(len(gpus) == 1 for gpus in by_pid.values()), "a process keeps its GPU"
        assert {worker.gpu for worker in pool._pool} == {"0", "GPU-7"}
        assert {gpu for gpu, _ in values} <= {"0", "GPU-7"}
        assert pids[0] not in by_pid
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "9"


def test_visible_gpus_are_those_of_the_environment_or_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    smi.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
