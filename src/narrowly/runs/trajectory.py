"""Read what a run recorded step by step: rows of trajectory.jsonl and speed.jsonl, and what they say of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import SPEED

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called with (step, total steps, row) after each optimiser step, for progress displays."""


COLUMNS = ("step", "loss", "lr", "penalty", "grad_norm")
"""Of every row: step (optimiser steps done), loss (mean NLL in nats over the supervised tokens of the step's
rows, before the update and without the penalty), lr that the step used, penalty before lambda (null without
one), norm of the gradient (penalty included) before clipping. The row of step 0 is the start: no step, so
only its spectrum and observers have values."""

HELDOUT_LOSS = "heldout_loss"
"""Column of the trajectory: mean NLL in nats over the supervised tokens of the rows held out."""


BASE_HELDOUT_LOSS = "base_heldout_loss"
"""The same of the base, measured without the adapter; in the row of step 0, where the two must be equal."""


def training_facts(spec: RunSpec, directory: Path, trajectory: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what training left of one finished run; a value that was not measured is None.

    Keys: heldout_start and heldout_final (nats per supervised token), base_heldout (the same of the base without the
    adapter), tokens (read in training, padding left out), training_seconds (steps alone), tokens_per_second (their
    ratio), memory_bytes (the most that the process held, or the GPU's allocator), smallest_micro_batch, device.

    """
    first, last = trajectory[0], trajectory[-1]
    steps = _speed_of_steps(directory / SPEED)
    tokens, seconds = sum(row[0] for row in steps.values()), sum(row[1] for row in steps.values())
    memory = max((row[2] for row in steps.values()), default=0)
    whole = set(range(1, spec.steps + 1)) <= set(steps)
    return {
        "heldout_start": first.get(HELDOUT_LOSS),
        "heldout_final": last.get(HELDOUT_LOSS),
        "base_heldout": first.get(BASE_HELDOUT_LOSS),
        "tokens": tokens if whole else None,
        "training_seconds": seconds if whole else None,
        "tokens_per_second": tokens / seconds if seconds > 0 else None,
        "memory_bytes": memory or None,
        "smallest_micro_batch": min((row[3] for row in steps.values()), default=None),
        "device": spec.device,
    }


def _speed_of_steps(file: Path) -> dict[int, tuple[int, float, int, int]]:
    """Return tokens, seconds, memory and micro-batch by step; of a step done again after a kill, the later row.

    A torn line (a killed writer) is left out.
    """
    steps: dict[int, tuple[int, float, int, int]] = {}
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            row = json.loads(line)
            found = int(row["tokens"]), float(row["seconds"]), int(row["memory_bytes"]), int(row["micro_batch"])
            steps[int(row["step"])] = found
        except (ValueError, KeyError, TypeError):
            continue
    return steps
