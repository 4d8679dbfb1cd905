"""Penalties through whole runs: what they change and record, and that a resume goes on bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from narrowly.records.files import read_jsonl
from narrowly.spectrum import pairs_from_folder, spectral_penalty
from narrowly.train.run import train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]
PENALTIES: dict[str, dict[str, Any]] = {
    "paper": {"lam": 0.5},
    "capped": {"lam": 50.0, "max_grad_ratio": 0.5, "warmup_steps": 3},
    "held": {"kind": "norm_held", "lam": 0.5, "mode": "decoupled"},
    "functional": {"kind": "functional", "lam": 0.5, "decay": 0.5},
    "project": {"kind": "project", "lam": 0.5, "every": 2},
    "entropy": {"kind": "spectral_entropy", "lam": 0.5, "mode": "decoupled", "max_grad_ratio": 0.5},
}


class StopError(Exception):
    """Stands for anything that ends a run half way."""


def content(run: Path) -> dict[str, bytes]:
    unlike = {"environment.json", "done", "speed.jsonl"}
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name not in unlike}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_stopped_run_with_a_penalty_resumes_bit_for_bit(name: str, tiny: Tiny, tmp_path: Path) -> None:
    def stop(now: int, total: int, row: dict[str, Any]) -> None:
        if now == 5:
            raise StopError

    spec = make_spec(*tiny, penalty=PENALTIES[name], accumulation=2, batch_size=2)
    whole = train_run(spec, tmp_path / "whole")
    with pytest.raises(StopError):
        train_run(spec, tmp_path / "again", on_step=stop)
    assert content(train_run(spec, tmp_path / "again")) == content(whole)


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_flattens_what_it_is_meant_to_and_records_its_value(
    name: str, tiny: Tiny, tmp_path: Path
) -> None:
    def ratio(run: Path) -> float:
        return float(spectral_penalty(pairs_from_folder(run / "checkpoints" / "step-6")))

    penalised, plain = (train_run(make_spec(*tiny, penalty=one), tmp_path) for one in (PENALTIES[name], None))
    assert ratio(penalised) < ratio(plain)
    values = [row["penalty"] for row in read_jsonl(penalised / "trajectory.jsonl")]
    assert values[0] is None and all(math.isfinite(value) for value in values[1:])
    # a decoupled penalty has moved nothing before the first step either: B is 0, or just after clipping
    assert values[1] == 0.0 and values[-1] > 0.0


def test_a_decoupled_penalty_leaves_gradients_alone_and_a_penalty_in_the_loss_does_not(
    tiny: Tiny, tmp_path: Path
) -> None:
    def norms(penalty: dict[str, Any] | None) -> list[float]:
        optimiser = {"kind": "sgd", "lr": 1e-6}  # parameters hardly move, so gradients can be compared
        run = train_run(make_spec(*tiny, penalty=penalty, optimiser=optimiser), tmp_path)
        return [row["grad_norm"] for row in read_jsonl(run / "trajectory.jsonl")][2:]

    plain = norms(None)
    assert norms({"lam": 1e-6, "mode": "decoupled"}) == pytest.approx(plain, rel=1e-3)
    assert norms({"lam": 1e-3})[0] > 10 * plain[0]  # B is tiny, so a scale-free penalty's gradient is huge
    assert norms({"lam": 1e-3, "max_grad_ratio": 0.1}) == pytest.approx(plain, rel=0.11)
