"""Detectors: one module per tool; each turns a file into the jobs that it declares.

A detector module has

- `TOOL`: its slug, one of `TOOLS`;
- `KINDS`: the kinds of file it reads (`files.Kind`);
- `TRIGGERS`: literals; a file that holds none of them is never parsed for this tool. Keep them rare: parsing is what
  costs time;
- `detect(file, repository) -> list[Job]`: raises `trees.UnreadableError` for a file that cannot be parsed.

`registry.detectors_for` says which are asked, and in which order. In YAML, JSON, TOML the first that finds a job is
the last that is asked; in other files all are asked, and of two jobs at one line the earlier stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from narrowly.audit.files import Kind, Repository, SourceFile
from narrowly.audit.record import Job

TOOLS = (
    "transformers", "trl", "axolotl", "llamafactory", "ms-swift", "torchtune", "unsloth", "deepspeed", "lightning",
    "nemo-automodel", "nemo", "tinker", "openai", "together", "mistral", "fireworks", "torch", "accelerate", "verl",
    "openrlhf", "mlx-lm", "autotrain", "kohya", "torchtitan", "peft", "hydra", "cohere", "vertex",
    "bedrock", "predibase", "databricks",
)  # fmt: skip
"""Slugs of tools. torch: a plain loop; accelerate: a plain loop with Accelerate; peft: a saved adapter;
hydra: a nested config whose tool is not known."""

Detect = Callable[[SourceFile, Repository], list[Job]]


class Detector(NamedTuple):
    """Name a detector with what decides whether it is asked."""

    tool: str
    kinds: frozenset[Kind]
    triggers: tuple[bytes, ...]
    detect: Detect
