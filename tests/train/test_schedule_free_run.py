"""ScheduleFree in a run: what is saved and looked at is the average x, and training goes on from y, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from narrowly.records.files import read_jsonl
from narrowly.runs.resume import NamedState
from narrowly.train import resume
from narrowly.train.observe import ObserverContext
from narrowly.train.run import train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]
OPTIMISER = {"kind": "schedulefree_adamw", "lr": 1e-2, "weight_decay": 0.1}


class StopError(Exception):
    """Stands for anything that ends a run half way."""


def adapter(run: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "checkpoints" / f"step-{step}" / "adapter_model.safetensors"))


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every checkpoint of a run holds to resume from, as it would be read."""
    found: list[dict[str, Any]] = []
    original = resume.name_state

    def keep(run: Path, state: NamedState) -> None:
        found.append(torch.load(run / state.file, weights_only=True))
        original(run, state)

    monkeypatch.setattr(resume, "name_state", keep)
    return found


def test_a_checkpoint_holds_x_and_its_resume_state_y(tiny: Tiny, tmp_path: Path, states: list[dict[str, Any]]) -> None:
    run = train_run(make_spec(*tiny, optimiser=OPTIMISER, steps=6), tmp_path)
    assert [state["step"] for state in states] == [0, 2, 6]
    state = states[-1]
    kept = [one["z"].double() for one in state["optimizer"]["state"].values()]
    saved = adapter(run, 6)
    assert len(saved) == len(state["parameters"])
    for name, y in state["parameters"].items():
        x = saved[name.replace(".default", "")].double()
        z = (y.double() - 0.9 * x) / 0.1  # y = 0.1 z + 0.9 x
        assert (x - y.double()).abs().max() > 1e-4
        assert any(one.shape == z.shape and torch.allclose(one, z, rtol=0, atol=1e-5) for one in kept)


def test_observers_and_spectra_see_what_the_checkpoint_holds(tiny: Tiny, tmp_path: Path) -> None:
    from narrowly.spectrum.metrics import spectrum_summary, spectrum_table
    from narrowly.spectrum.pairs import pairs_from_model

    seen: dict[int, dict[str, torch.Tensor]] = {}
    norms: dict[int, float] = {}

    def look(context: ObserverContext) -> dict[str, float]:
        named = context.model.named_parameters()
        seen[context.step] = {name.replace(".default", ""): p.clone() for name, p in named if p.requires_grad}
        norms[context.step] = spectrum_summary(spectrum_table(pairs_from_model(context.model)))["update_norm"]
        return {}

    run = train_run(make_spec(*tiny, optimiser=OPTIMISER), tmp_path, observers=[look])
    rows = {row["step"]: row for row in read_jsonl(run / "trajectory.jsonl")}
    for step in (2, 6):
        held = adapter(run, step)
        assert seen[step].keys() == held.keys()
        assert all(torch.equal(held[name], tensor) for name, tensor in seen[step].items())
        assert rows[step]["update_norm"] == norms[step]


def test_more_looks_at_a_run_do_not_change_it(tiny: Tiny, tmp_path: Path) -> None:
    few = train_run(make_spec(*tiny, optimiser=OPTIMISER, checkpoints=2), tmp_path)
    many = train_run(make_spec(*tiny, optimiser=OPTIMISER, checkpoints=6, first_checkpoint=1), tmp_path)
    assert few != many
    losses = [[row["loss"] for row in read_jsonl(run / "trajectory.jsonl")] for run in (few, many)]
    assert losses[0] == losses[1]
    assert all(torch.equal(adapter(many, 6)[name], tensor) for name, tensor in adapter(few, 6).items())


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_stopped_anywhere_and_resumed_is_the_uninterrupted_one(step: int, tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(
        *tiny, optimiser={**OPTIMISER, "lora_plus_ratio": 4}, schedule={"kind": "constant", "warmup_steps": 2}
    )

    def stop(now: int, total: int, row: dict[str, Any]) -> None:
        if now == step:
            raise StopError

    with pytest.raises(StopError):
        train_run(spec, tmp_path / "a", on_step=stop)
    resumed, whole = train_run(spec, tmp_path / "a"), train_run(spec, tmp_path / "b")
    assert (resumed / "trajectory.jsonl").read_bytes() == (whole / "trajectory.jsonl").read_bytes()
    for at in (0, 2, 6):
        assert all(torch.equal(adapter(resumed, at)[name], tensor) for name, tensor in adapter(whole, at).items())


@pytest.mark.parametrize(
    ("optimiser", "schedule", "message"),
    [
        ({}, {"kind": "linear"}, r"schedule\.kind is 'linear', accepted with schedulefree_adamw: 'constant'"),
        ({}, {"kind": "cosine", "warmup_steps": 0}, r"schedule\.kind is 'cosine'"),
        ({"warmup_steps": 3}, {"warmup_steps": 2}, r"optimiser\.warmup_steps is 3 and schedule\.warmup_steps is 2"),
    ],
)
def test_decay_and_two_warm_ups_are_refused(
    optimiser: dict[str, Any], schedule: dict[str, Any], message: str, tiny: Tiny
) -> None:
    with pytest.raises(ValidationError, match=message):
        make_spec(*tiny, optimiser={**OPTIMISER, **optimiser}, schedule=schedule)
    make_spec(*tiny, optimiser={**OPTIMISER, "warmup_steps": 3}, schedule={"warmup_steps": 0})
