"""A run that real signals stop at random steps loses a step at most, says where it goes on, and ends the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_resume import files

from narrowly.records.files import read_json, read_jsonl
from small_chat_base import conversations, make_chat_base, write_jsonl
from tiny_base import only_run

STEPS = 60
SHARED = Path(__file__).parents[1] / "shared"

# everything that a resume could forget: momentum, accumulation, dropout, a schedule, a penalty's warm-up, held-out rows
SPEC: dict[str, Any] = {
    "adapter": {"r": 4, "alpha": 8, "dropout": 0.1},
    "optimiser": {"kind": "adam", "lr": 1e-3},
    "schedule": {"kind": "cosine", "warmup_steps": 5},
    "penalty": {"lam": 0.1, "warmup_steps": 20, "max_grad_ratio": 0.5},
    "batch_size": 2,
    "accumulation": 2,
    "steps": STEPS,
    "checkpoints": 4,
    "first_checkpoint": 10,
}


def write_spec(folder: Path) -> Path:
    data = {"source": "text", "dataset": str(write_jsonl(folder / "rows.jsonl", conversations())), "holdout": 4}
    spec = {"base": str(make_chat_base(folder / "base")), "data": data, **SPEC}
    (folder / "run.yaml").write_text(yaml.safe_dump(spec))
    return folder / "run.yaml"


def stopped(folder: Path, runs: int, stops: int, seed: int) -> list[dict[str, Any]]:
    """Return what became of every stop, after every run was compared with the uninterrupted one, file by file."""
    paths = os.pathsep.join([str(SHARED), *(path for path in sys.path if path)])
    arguments = [str(write_spec(folder)), str(folder), str(runs), str(stops), str(seed)]
    result = subprocess.run(
        [sys.executable, str(SHARED / "stopped_runs.py"), *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, (seed, result.stderr[-2000:])
    whole = only_run(folder / "whole" / "runs")
    for index in range(runs):
        run = only_run(folder / str(index) / "runs")
        assert files(run) == files(whole), f"run {index} of seed {seed}"
        assert [row["step"] for row in read_jsonl(run / "speed.jsonl")] == list(range(1, STEPS + 1))
        assert len(read_json(run / "environment.json")["resumed"]) == stops
    found: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])
    return found


def check(stop: dict[str, Any]) -> None:
    number, step = stop["signal"], stop["state"]
    if number == signal.SIGKILL:
        assert stop["code"] == -signal.SIGKILL
        assert stop["late"] <= 1, "the step at work may take the run past the interval"
    else:
        assert stop["code"] == 128 + number
        lines = stop["said"].splitlines()
        assert lines[-1] == f"narrowly: stopped at step {step}; the same command goes on from {step}"
        assert stop["row"] in (step, step - 1)  # the row of a checkpoint that is not measured yet comes later


def test_a_run_stopped_by_real_signals_goes_on_bit_for_bit(tmp_path: Path) -> None:
    stops = stopped(tmp_path, runs=1, stops=3, seed=0)
    assert [stop["signal"] for stop in stops] == [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    for stop in stops:
        check(stop)
    before = [0, *(stop["state"] for stop in stops)]
    for stop, step in zip(stops[1:], before[1:], strict=False):
        assert stop["said"].splitlines()[0] == f"narrowly: goes on from step {step} of {STEPS}"


@pytest.mark.slow
def test_fifty_stops_at_random_steps_lose_a_step_or_the_interval_at_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    stops = stopped(tmp_path, runs=10, stops=5, seed=seed)
    lost = [stop["row"] - stop["state"] for stop in stops if stop["signal"] == signal.SIGKILL]
    with capsys.disabled():
        print(f"\nseed {seed}: {len(stops)} stops; steps lost to SIGKILL {lost}")
    assert len(stops) == 50
    for stop in stops:
        check(stop)
