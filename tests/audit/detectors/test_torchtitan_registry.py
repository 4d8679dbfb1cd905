"""torchtitan's Python configs: the job stands where the optimiser is stated."""

from __future__ import annotations

from pathlib import Path

from audited import jobs_of, values

SOURCE = """\
from torchtitan.components.optimizer import default_adamw
from torchtitan.trainer import Trainer

def ours() -> Trainer.Config:
    return Trainer.Config(optimizer=default_adamw(lr=3e-4), training=TrainingConfig(steps=100))

def changed() -> Trainer.Config:
    config = ours()
    config.compile.enable = True
    return config

def by_default() -> Trainer.Config:
    return Trainer.Config(optimizer=default_adamw())

def other() -> Trainer.Config:
    return Trainer.Config(optimizer=made_here(1))
"""


def test_each_function_that_states_an_optimiser_is_a_job(tmp_path: Path) -> None:
    ours, by_default, other = jobs_of(tmp_path, "config_registry.py", SOURCE)
    assert (ours.name, ours.line, *values(ours, "optimiser", "learning_rate", "weight_decay", "max_steps")) == (
        "ours",
        5,
        "adamw",
        3e-4,
        0.1,
        100,
    )
    assert by_default["learning_rate"].value == 8e-4
    assert by_default["learning_rate"].provenance == "default"
    assert other["optimiser"].provenance == "unknown"
