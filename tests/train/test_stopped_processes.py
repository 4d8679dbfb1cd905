"""`narrowly train --processes 2`, one of whose processes is killed, or which is stopped: one line, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from ctrl_c import heard_ctrl_c
from narrowly.records.files import read_json, read_jsonl
from narrowly.train.run import run_directory
from tiny_base import make_spec

Tiny = tuple[Path, Path]

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


class Training:
    """A training by the command line, long enough to be interrupted, that has done a few steps."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        spec = make_spec(*tiny, steps=100_000, checkpoints=12, first_checkpoint=2)
        (folder / "run.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json")))
        self.run = run_directory(spec, folder / "runs")
        command = [sys.executable, "-m", "narrowly.cli.app", "train", str(folder / "run.yaml"), "--processes", "2"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with heard_ctrl_c():
            self.parent = subprocess.Popen(
                [*command, "--out", str(folder)], env=environment, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        self.children: list[psutil.Process] = []
        end = time.monotonic() + PATIENCE
        while not self._has_steps():
            assert self.parent.poll() is None, self.parent.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        below = psutil.Process(self.parent.pid).children(recursive=True)
        self.children = sorted((one for one in below if "spawn_main" in " ".join(one.cmdline())), key=lambda p: p.pid)
        assert len(self.children) == 2

    def _has_steps(self) -> bool:
        file = self.run / "trajectory.jsonl"
        return (self.run / "resume.json").is_file() and file.is_file() and len(file.read_text().splitlines()) > 4

    def ended(self) -> tuple[int, list[str]]:
        """Return exit code and lines on standard error without progress, once nothing of it is left."""
        _, complaint = self.parent.communicate(timeout=PATIENCE)
        _, alive = psutil.wait_procs(self.children, timeout=PATIENCE)
        assert not alive
        return self.parent.returncode, [
            line for line in complaint.splitlines() if not line.startswith("training: step")
        ]

    def stop(self) -> None:
        for process in (*self.children, self.parent):
            try:
                process.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        self.parent.communicate()


@pytest.fixture
def training(tiny: Tiny, tmp_path: Path) -> Iterator[Training]:
    started = Training(tiny, tmp_path)
    yield started
    started.stop()


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_other_and_the_run_can_be_resumed(rank: int, training: Training) -> None:
    training.children[rank].send_signal(signal.SIGKILL)
    code, lines = training.ended()
    assert code == 2
    (line,) = lines
    assert f"process {rank} of 2 ended (killed by SIGKILL; perhaps it ran out of memory)" in line
    failed = read_json(training.run / "failed.json")
    assert failed["error"] == "TrainingError"
    assert not list((training.run.parent / ".claims").iterdir())
    assert failed["message"] in line
    step = read_json(training.run / "resume.json")["step"]
    assert [row["step"] for row in read_jsonl(training.run / "trajectory.jsonl")][: step + 1] == list(range(step + 1))
    assert (training.run / "resume" / f"step-{step}.pt").is_file()


@pytest.mark.parametrize(
    ("number", "whole_group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        pytest.param(signal.SIGTERM, True, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_all_after_the_same_step_which_is_saved(
    number: int, whole_group: bool, code: int, training: Training
) -> None:
    """As a terminal and as Slurm sends it: to the whole group; or to the command alone."""
    (os.killpg if whole_group else os.kill)(training.parent.pid, number)
    found, lines = training.ended()
    assert found == code
    (line,) = lines
    named = read_json(training.run / "resume.json")
    step, (file,) = named["step"], named["sha256"]
    assert line == f"narrowly: stopped at step {step}; the same command goes on from {step}"
    # a signal in the evaluation of a step leaves the row of that step to the next command
    unmeasured = file.endswith("-unmeasured.pt")
    assert len(read_jsonl(training.run / "trajectory.jsonl")) - 1 == step - unmeasured
    assert not (training.run / "failed.json").exists()
    assert not list((training.run.parent / ".claims").iterdir()), "another host would wait for the claim to get stale"


def test_processes_die_with_the_command_that_started_them(training: Training) -> None:
    training.parent.kill()
    assert training.ended()[0] == -signal.SIGKILL
