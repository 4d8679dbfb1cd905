"""The seed of the LoRA init apart from that of rows and order, against runs in which one seed decides both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from narrowly.microworld.config import WorldConfig
from narrowly.microworld.narrow import resolve_domain
from narrowly.microworld.world import World
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import adapter_folder
from narrowly.spectrum.folder import pairs_from_folder
from narrowly.train.inputs import resolve_inputs
from narrowly.train.run import train_run

FIELDS = {
    "base": "micro-0",
    "data": {"source": "micro", "domain": "base", "rows": 16},
    "optimiser": {"kind": "sgd", "lr": 1e-3},
    "steps": 2,
    "checkpoints": 2,
    "schedule": {"warmup_steps": 0},
}


def first_A(run: Path) -> torch.Tensor:
    return pairs_from_folder(adapter_folder(run, 0))[0].A_R_I


def test_init_and_data_follow_their_own_seeds(tmp_path: Path) -> None:
    """Init of seed 1 with the rows of seed 0 is neither of the two runs, and shares with each what it should."""
    specs = {
        name: RunSpec.model_validate({**FIELDS, **seeds})
        for name, seeds in {"0": {"seed": 0}, "1": {"seed": 1}, "mixed": {"seed": 0, "init_seed": 1}}.items()
    }
    runs = {name: train_run(spec, tmp_path) for name, spec in specs.items()}
    assert len({run.name for run in runs.values()}) == 3
    assert torch.equal(first_A(runs["mixed"]), first_A(runs["1"]))
    assert not torch.equal(first_A(runs["mixed"]), first_A(runs["0"]))
    data = {name: resolve_inputs(spec).data_sha256 for name, spec in specs.items()}
    assert data["mixed"] == data["0"] != data["1"]


def test_the_domain_of_the_base_does_not_rotate_with_the_run_seed() -> None:
    world = World(WorldConfig(), 11)
    assert [resolve_domain("base", world, seed) for seed in (0, 1, 5)] == [3, 3, 3]
    assert [resolve_domain("rotate", world, seed) for seed in (0, 1, 5)] == [3, 4, 0]
    with pytest.raises(SpecError, match=r"data\.domain is 8, accepted: 0 to 7, 'rotate' or 'base'"):
        resolve_domain(8, world, 0)


def test_a_run_without_an_adapter_has_no_init_seed() -> None:
    with pytest.raises(ValueError, match="init_seed is 1 with method full"):
        RunSpec.model_validate({**FIELDS, "method": "full", "init_seed": 1})
