"""Two processes under DDP (gloo), started as `torchrun` does: one penalty in the averaged gradient, equal replicas."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddp_worker import LIGHTNING, WAYS
from safetensors.torch import load_file

from narrowly.integrations.transformers import SpectralPenaltyCallback
from tiny_hosts import LAM, distance, factors, host_run, plain_run, tiny_rows

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    source = os.pathsep.join(str(HERE.parents[1] / place) for place in ("src", "tests/shared"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.Popen(
        [*command, str(HERE / "ddp_worker.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, complaint = launched.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(launched.pid, signal.SIGKILL)  # the launcher alone would leave its workers behind
        raise
    assert launched.returncode == 0, complaint[-3000:]
    return folder


BY_LIGHTNING = [
    pytest.param(name, marks=pytest.mark.skipif(not LIGHTNING, reason="Lightning is not installed"))
    for name in ("lightning", "lightning-view")
]
"""Gradients of their own, and gradients that are views of DDP's buckets."""


@pytest.mark.parametrize("way", [*WAYS, *BY_LIGHTNING])
def test_replicas_stay_equal_bit_for_bit(way: str, done: Path) -> None:
    first, second = (load_file(done / f"{way}.{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("way", ["loss-1", "loss-2", *BY_LIGHTNING])
def test_two_processes_go_the_way_of_one_with_the_same_global_batch(way: str, done: Path) -> None:
    found = dict(load_file(done / f"{way}.0.safetensors"))
    assert distance(found, plain_run(tiny_rows(32), steps=4, per_step=8)) < 1e-5
    # the test can fail: a penalty that was summed over the processes, or averaged away, would be seen
    assert distance(found, plain_run(tiny_rows(32), steps=4, per_step=8, lam=2 * LAM)) > 1e-3
    assert distance(found, plain_run(tiny_rows(32), steps=4, per_step=8, lam=LAM / 2)) > 1e-3


def test_decoupled_goes_the_way_of_one_process_too(done: Path, tmp_path: Path) -> None:
    one = host_run(
        tmp_path, tiny_rows(32), [SpectralPenaltyCallback(LAM, mode="decoupled")], per_device_train_batch_size=8
    )
    assert distance(dict(load_file(done / "decoupled.0.safetensors")), factors(one.model)) < 1e-5


def test_an_alarm_of_the_first_process_ends_all_of_them_at_one_step(done: Path) -> None:
    (step, looks), (other, none) = ((done / f"ended.{rank}").read_text().split() for rank in (0, 1))
    assert step == other == looks == "3" and none == "0"
    first, second = (load_file(done / f"watched.{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_covariance_of_each_process_is_refused(done: Path) -> None:
    for rank in (0, 1):
        assert "found 2 processes" in (done / f"refused.{rank}").read_text()
