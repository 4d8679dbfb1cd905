"""Say which detectors a file is shown to, and in which order."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from narrowly.audit.detectors import Detector
from narrowly.audit.files import SourceFile

MODULES: tuple[str, ...] = (
    "saved_runs", "model_cards", "tinker_config",
    "torchtune", "nemo_automodel", "verl", "autotrain", "llamafactory", "swift", "axolotl", "mlx_lm",
    "kohya", "unsloth_config", "hosted_requests", "deepspeed", "openrlhf", "torchtitan", "nemo_rl", "nemo",
    "trl_recipes",
    "lightning_config", "sky_tasks", "hydra", "torchtitan_registry", "scripts", "script_commands",
    "shell_scripts",
)  # fmt: skip
"""Modules of this folder in the order in which they are asked: the special before the general."""

LARGE = 65_536
_RATE = (b"learning_rate", b"lr:", b'"lr"', b"lr =")


@cache
def detectors() -> tuple[Detector, ...]:
    """Return every detector in order."""
    return tuple(_detector(import_module(f"narrowly.audit.detectors.{name}")) for name in MODULES)


def _detector(module: Any) -> Detector:
    return Detector(module.TOOL, frozenset(module.KINDS), tuple(module.TRIGGERS), module.detect)


@cache
def _of_kind(kind: str) -> tuple[Detector, ...]:
    return tuple(one for one in detectors() if kind in one.kinds)


def detectors_for(file: SourceFile) -> list[Detector]:
    """Return the detectors that are asked about a file: those of its kind whose literals it holds.

    Settings of training have a few kB; a large table of YAML or JSON is shown only where it speaks of a learning rate.
    """
    if len(file.data) > LARGE and file.kind in ("yaml", "json", "toml") and not file.has(*_RATE):
        return []
    return [one for one in _of_kind(file.kind) if not one.triggers or file.has(*one.triggers)]
