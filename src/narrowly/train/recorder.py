"""Write what a run leaves step by step: rows of trajectory.jsonl and speed.jsonl, spectra, checkpoints, resume state.

A signal is answered here, between two steps or in the middle of an evaluation, once the state to go on from is saved. A
process whose claim was taken over while it was away writes nothing more (ClaimLostError).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from narrowly.engines import stopping
from narrowly.models.undisturbed import undisturbed
from narrowly.records.files import append_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.runs.claims import check_run
from narrowly.runs.directory import SPEED, TRAJECTORY
from narrowly.runs.trajectory import OnStep
from narrowly.train.checkpoint import save_checkpoint
from narrowly.train.observe import Observer, ObserverContext, call_observers, finite_or_none
from narrowly.train.resume import Progress, ResumeKeeper

if TYPE_CHECKING:
    from narrowly.train.state import TrainState


class FinishedStep(NamedTuple):
    """Hold the numbers of an optimiser step that has just ended.

    Attributes:
        step: optimiser steps done since the run began.
        loss: of the step's rows, before the update and without the penalty.
        lr: that the step used.
        grad_norm: before clipping, penalty included.
        micro_batches: rows per forward pass of each process, by rank.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    micro_batches: tuple[int, ...]


class SpeedRow(TypedDict):
    """Hold the speed of one optimiser step: tokens read, without padding; seconds, without those of a checkpoint.

    `memory_bytes` is the largest amount so far: allocated on the GPU, or resident for a run on the CPU.
    `micro_batch` is the smallest of all processes, below the spec's `batch_size` where memory did not suffice for that.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int
    micro_batch: int


class Recorder:
    """Write the row of every step; at checkpoint steps also spectrum, observers' values and checkpoint.

    The resume state of a step is saved last: a run killed before resumes from an older one, and what was written since
    is removed and done again, so that no row is missing or double.

    Args:
        directory: the run directory.
        spec: the run's spec.
        state: what the run trains.
        keeper: saves the resume state: at checkpoint steps, when it is due, and before a stop.
        observers: called at checkpoint steps.
        on_step: called after each optimiser step, or None.
    """

    def __init__(
        self,
        directory: Path,
        spec: RunSpec,
        state: TrainState,
        keeper: ResumeKeeper,
        observers: Sequence[Observer],
        on_step: OnStep | None,
    ) -> None:
        self.directory, self.spec, self.state, self.keeper = directory, spec, state, keeper
        self.observers, self.on_step = observers, on_step
        self.checkpoint_steps = frozenset(spec.checkpoint_steps())
        self._speed: list[SpeedRow] = []
        self._step_began = 0.0

    def begin(self) -> None:
        """Record step 0: the base, with a fresh adapter where one is trained.

        Raises:
            Stopped: a signal asked for it.
        """
        try:
            self._measure({"step": 0, "loss": None, "lr": None, "penalty": None, "grad_norm": None})
        except stopping.Stopped:
            self.check_stop(0)
        self.keeper.save(Progress(0))

    def finish_pending(self, progress: Progress) -> None:
        """Record the step that a stop has left without its row and checkpoint.

        Raises:
            Stopped: a signal asked for it.
        """
        assert progress.pending is not None
        self._finish(progress, progress.pending["row"], progress.pending["speed"])

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

        Raises:
            Stopped: a signal asked for it; the state is saved.
        """
        step, loss, lr, grad_norm, micro_batches = finished
        seconds = time.perf_counter() - self._step_began
        speed: SpeedRow = {
            "step": step,
            "tokens": tokens,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "memory_bytes": peak_memory(self.spec.device),
            "micro_batch": min(micro_batches),
        }
        self._speed.append(speed)
        row = {"step": step, "loss": loss, "lr": lr, "penalty": penalty, "grad_norm": grad_norm}
        self._finish(Progress(step, micro_batches), row, speed)
        self._step_began = time.perf_counter()  # what is recorded at a checkpoint is no training

    def _finish(self, progress: Progress, row: dict[str, Any], speed: Mapping[str, Any]) -> None:
        step, measured = progress.step, progress.step in self.checkpoint_steps
        if measured:
            unmeasured = replace(progress, pending={"row": dict(row), "speed": dict(speed)})
            if self.keeper.is_due():  # an evaluation may take long
                self._save(unmeasured)
            try:
                self._measure(row)
            except stopping.Stopped:
                self._save(unmeasured)
                self.check_stop(step)
        else:
            check_run(self.directory)
            append_jsonl(self.directory / TRAJECTORY, row)
        progress = replace(progress, pending=None)
        if measured or self.keeper.is_due() or stopping.requested() is not None:
            self._save(progress)
        if self.on_step is not None:
            self.on_step(step, self.spec.steps, {**speed, **row})
        # a run that has taken its last step is finished instead; what came while it was reported is not saved yet
        if step < self.spec.steps and stopping.requested() is not None:
            self._save(progress)
            self.check_stop(step)

    def check_stop(self, step: int) -> None:
        """Stop after a step, where a signal asks for it.

        Raises:
            Stopped: says where the run goes on.
        """
        stopping.check(f"stopped at step {step}; the same command goes on from {self.keeper.falls_back_to}")

    def _save(self, progress: Progress) -> None:
        check_run(self.directory)
        self.write_speed()
        self.keeper.save(progress)

    def write_speed(self) -> None:
        """Append what is known of the steps' speed to speed.jsonl; steps done again after a kill stand there twice."""
        rows, self._speed = self._speed, []
        if rows:
            append_jsonl(self.directory / SPEED, *rows)

    def _measure(self, row: dict[str, Any]) -> None:
        """Write the row and the checkpoint of a step, with spectrum and observers' values.

        Raises:
            Stopped: a signal asked for it; nothing is written.
        """
        from narrowly.optim.modes import evaluation_mode

        with evaluation_mode(self.state.optimizer):
            spectrum = self._observe(row)
            check_run(self.directory)
            append_jsonl(self.directory / TRAJECTORY, row)
            save_checkpoint(self.directory, row["step"], self.state.weights, spectrum)

    def _observe(self, row: dict[str, Any]) -> list[Mapping[str, Any]]:
        """Add spectrum summary and observers' values to the row; return the spectrum by module."""
        from narrowly.spectrum.metrics import spectrum_summary

        model, step = self.state.model, row["step"]
        with undisturbed(model):
            self.check_stop(step)
            table = self.state.weights.spectrum()
            row.update({key: finite_or_none(value) for key, value in spectrum_summary(table).items()})
            context = ObserverContext(step, model, self.state.tokenizer, self.directory)
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
