"""Read the steps of a run from trajectory.jsonl and speed.jsonl, and derive facts of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import SPEED, TRAJECTORY

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called with (step, total steps, row) after each optimiser step, for progress displays."""


COLUMNS = ("step", "loss", "lr", "penalty", "grad_norm")
"""Of every row: step (optimiser steps done), loss (of the run's objective in nats, by default the mean NLL over the
supervised tokens of the step's rows; before the update and without the penalty), lr that the step used, penalty before
lambda (null without one), norm of the gradient (penalty included) before clipping. The row of step 0 is the start: no
step, so only its spectrum and observers have values."""

HELDOUT_LOSS = "heldout_loss"
"""Column of the trajectory: mean NLL in nats over the supervised tokens of the rows held out."""


BASE_HELDOUT_LOSS = "base_heldout_loss"
"""The same of the base, measured without the adapter; in the row of step 0, where the two must be equal."""


class TrajectoryRow(BaseModel):
    """Describe one logged step; values of observers stand beside these."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    step: int
    loss: float | None = None
    lr: float | None = None
    penalty: float | None = None
    grad_norm: float | None = None
    update_norm: float | None = None
    stable_rank: float | None = None
    spectral_entropy: float | None = None
    condition_number: float | None = None
    frobenius_nuclear: float | None = None
    heldout_loss: float | None = None
    base_heldout_loss: float | None = None


class SpeedRow(BaseModel):
    """Describe the cost of one step: tokens read, seconds, memory in bytes, rows per micro-batch."""

    step: int
    tokens: int
    seconds: float
    memory_bytes: int
    micro_batch: int


def read_trajectory(directory: Path, steps: int) -> list[dict[str, Any]]:
    """Read the logged steps of a finished run, each checked to be a `TrajectoryRow`; values of observers are kept.

    Args:
        directory: of the run.
        steps: steps of the whole run; the last row must be of that step.

    Raises:
        IntegrityError: the file is missing or cut off, or a row is none of ours.
    """
    file = directory / TRAJECTORY
    rows: list[dict[str, Any]] = read_jsonl(file)
    for number, row in enumerate(rows, start=1):
        try:
            TrajectoryRow.model_validate(row)
        except ValidationError as error:
            raise IntegrityError(
                f"{file}, row {number}: {first_fault(error)}; move {directory} away and give the same command again"
            ) from None
    last = rows[-1]["step"] if rows else "nothing"
    if last != steps:  # the reader leaves a torn last line out, which of a finished run would be a wrong number
        raise IntegrityError(
            f"{file} ends at step {last}, expected {steps}: the file was cut off; move {directory} away and give the "
            "same command again"
        )
    return rows


def training_facts(spec: RunSpec, directory: Path, trajectory: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the training facts of one finished run; a value that was not measured is None.

    Keys: heldout_start and heldout_final (nats per supervised token), base_heldout (the same of the base without the
    adapter), tokens (read in training, padding left out), training_seconds (steps alone), tokens_per_second (their
    ratio), memory_bytes (the most that the process held, or the GPU's allocator), smallest_micro_batch, device.
    """
    first, last = trajectory[0], trajectory[-1]
    steps = _speed_of_steps(directory / SPEED)
    tokens, seconds = sum(row.tokens for row in steps.values()), sum(row.seconds for row in steps.values())
    memory = max((row.memory_bytes for row in steps.values()), default=0)
    whole = set(range(1, spec.steps + 1)) <= set(steps)
    return {
        "heldout_start": first.get(HELDOUT_LOSS),
        "heldout_final": last.get(HELDOUT_LOSS),
        "base_heldout": first.get(BASE_HELDOUT_LOSS),
        "tokens": tokens if whole else None,
        "training_seconds": seconds if whole else None,
        "tokens_per_second": tokens / seconds if seconds > 0 else None,
        "memory_bytes": memory or None,
        "smallest_micro_batch": min((row.micro_batch for row in steps.values()), default=None),
        "device": spec.device,
    }


def _speed_of_steps(file: Path) -> dict[int, SpeedRow]:
    """Return the cost of each step; where a step was repeated after a kill, that of the later row.

    A torn line (a killed writer) is left out.
    """
    steps: dict[int, SpeedRow] = {}
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            row = SpeedRow.model_validate_json(line)
        except ValidationError:
            continue
        steps[row.step] = row
    return steps
