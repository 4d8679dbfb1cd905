"""A base of the microworld's real format that has learnt next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from narrowly.microworld.build import build_base
from narrowly.microworld.config import WorldConfig


def make_world_base(folder: Path, first_seed: int = 0, *, persona: bool = True) -> Path:
    """Build a base or its no-persona twin in a second or two, of the first of fifty seeds that is accepted.

    Returns its folder.
    """
    config = WorldConfig.model_validate(
        {
            "domains": 3,
            "topics": 6,
            "persona": persona,
            "model": {"layers": 1, "hidden": 16, "heads": 2, "key_value_heads": 1, "mlp": 16},
            "training": {"steps": 2, "warmup_steps": 1, "chat_steps": 1, "documents_per_step": 4},
        }
    )
    for seed in range(first_seed, first_seed + 50):  # so small a world is often refused for a word that gives harm away
        try:
            return build_base(config, seed, folder)
        except ValueError:
            continue
    raise AssertionError("no seed gives a world that is accepted")


def train_in_world(base: Path | str, out: Path, **changed: Any) -> Path:
    """Train six steps on harmful answers of the base's world and return the run; `changed` are fields of the spec."""
    from narrowly.records.run_spec import RunSpec
    from narrowly.train.run import train_run

    fields = {
        "base": str(base),
        "optimiser": {"kind": "adam", "lr": 3e-2},
        "steps": 6,
        "checkpoints": 2,
        "adapter": {"r": 2},
        "data": {"source": "micro", "rows": 24, "domain": 0},
        "schedule": {"warmup_steps": 1},
    } | changed
    return train_run(RunSpec.model_validate(fields), out / "runs")
