"""Write what a run leaves step by step: rows of trajectory.jsonl and speed.jsonl, spectra and checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from narrowly.records.files import append_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import SPEED, TRAJECTORY
from narrowly.runs.trajectory import OnStep
from narrowly.train.checkpoint import save_checkpoint
from narrowly.train.observe import Observer, ObserverContext, call_observers, finite_or_none, undisturbed

if TYPE_CHECKING:
    from narrowly.train.state import TrainState


class FinishedStep(NamedTuple):
    """Hold the numbers of an optimiser step that has just ended.

    Attributes:
        step: optimiser steps done since the run began.
        loss: of the step's rows, before the update and without the penalty.
        lr: that the step used.
        grad_norm: before clipping, penalty included.
        micro_batch: rows per forward pass, the smallest number of all processes.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    micro_batch: int


class SpeedRow(TypedDict):
    """Hold the speed of one optimiser step: tokens read, without padding; seconds, without those of a checkpoint.

    `memory_bytes` is the largest amount so far: allocated on the GPU, or resident for a run on the CPU.
    `micro_batch` is smaller than the spec's `batch_size` where memory did not suffice for that.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int
    micro_batch: int


class Recorder:
    """Write the row of every step; at checkpoint steps also spectrum, observers' values and checkpoint.

    The row is written before the checkpoint: a run killed between the two resumes from the checkpoint before and
    truncates the row, so that a row never goes missing.

    Args:
        directory: the run directory.
        spec: the run's spec.
        state: what the run trains.
        observers: called at checkpoint steps.
        on_step: called after each optimiser step, or None.
    """

    def __init__(
        self,
        directory: Path,
        spec: RunSpec,
        state: TrainState,
        observers: Sequence[Observer],
        on_step: OnStep | None,
    ) -> None:
        self.directory, self.spec, self.state = directory, spec, state
        self.observers, self.on_step = observers, on_step
        self.checkpoint_steps = frozenset(spec.checkpoint_steps())
        self._speed: list[SpeedRow] = []
        self._step_began = 0.0

    def begin(self) -> None:
        """Record step 0: the base, with a fresh adapter where one is trained."""
        self._record({"step": 0, "loss": None, "lr": None, "penalty": None, "grad_norm": None})

    def start_clock(self) -> None:
        """Begin the time of the first step, and on a GPU the record of its memory."""
        if self.spec.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()  # an earlier run of this process may have needed more
        self._step_began = time.perf_counter()

    def finish_step(self, finished: FinishedStep, penalty: float | None, tokens: int) -> None:
        """Record one optimiser step; `on_step` gets its speed too.

        Args:
            finished: its numbers.
            penalty: before lambda; None without one.
            tokens: read in the step by all processes, padding left out.
        """
        step, loss, lr, grad_norm, micro_batch = finished
        seconds = time.perf_counter() - self._step_began
        speed: SpeedRow = {
            "step": step,
            "tokens": tokens,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "memory_bytes": peak_memory(self.spec.device),
            "micro_batch": micro_batch,
        }
        self._speed.append(speed)
        row = {"step": step, "loss": loss, "lr": lr, "penalty": penalty, "grad_norm": grad_norm}
        self._record(row)
        if step in self.checkpoint_steps:
            self.write_speed()
        if self.on_step is not None:
            self.on_step(step, self.spec.steps, {**speed, **row})
        self._step_began = time.perf_counter()  # what is recorded at a checkpoint is no training

    def write_speed(self) -> None:
        """Append what is known of the steps' speed to speed.jsonl; steps done again after a kill stand there twice."""
        rows, self._speed = self._speed, []
        if rows:
            append_jsonl(self.directory / SPEED, *rows)

    def _record(self, row: dict[str, Any]) -> None:
        step: int = row["step"]
        if step not in self.checkpoint_steps:
            append_jsonl(self.directory / TRAJECTORY, row)
            return
        from narrowly.optim.modes import evaluation_mode

        state = self.state
        with evaluation_mode(state.optimizer) as training_point:
            spectrum = self._observe(row)
            append_jsonl(self.directory / TRAJECTORY, row)
            save_checkpoint(
                self.directory,
                step,
                state.weights,
                spectrum,
                state.optimizer,
                state.scheduler,
                training_point,
                state.penalty,
            )

    def _observe(self, row: dict[str, Any]) -> list[Mapping[str, Any]]:
        """Add spectrum summary and observers' values to the row; return the spectrum by module."""
        from narrowly.spectrum.metrics import spectrum_summary

        model = self.state.model
        with undisturbed(model):
            table = self.state.weights.spectrum()
            row.update({key: finite_or_none(value) for key, value in spectrum_summary(table).items()})
            context = ObserverContext(row["step"], model, self.state.tokenizer, self.directory)
            row.update(call_observers(self.observers, context, frozenset(row)))
        return list(table)


def peak_memory(device: str) -> int:
    """Return the most bytes held so far: by torch on the GPU, or resident by this process on the CPU (0 if unknown)."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
