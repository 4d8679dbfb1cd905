"""What a run leaves behind step by step: rows of trajectory.jsonl, checkpoints, spectra, observers' values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.records.files import append_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.runs.directory import SPEED, TRAJECTORY
from narrowly.runs.trajectory import OnStep
from narrowly.train.checkpoint import save_checkpoint
from narrowly.train.observe import Observer, ObserverContext, call_observers, finite_or_none, undisturbed

if TYPE_CHECKING:
    from narrowly.train.parts import Parts
    from narrowly.train.speed import SpeedRow


class Recorder:
    """Writes the row of every step; at checkpoint steps also spectrum, observers and checkpoint.

    The row is written before the checkpoint: a run killed between the two resumes from the checkpoint before and
    truncates the row, so that a row never goes missing.

    Args:
        directory: the run directory.
        spec: the run's spec.
        parts: the live parts of the run.
        observers: called at checkpoint steps.
        on_step: called after each optimiser step, or None.
    """

    def __init__(
        self,
        directory: Path,
        spec: RunSpec,
        parts: Parts,
        observers: Sequence[Observer],
        on_step: OnStep | None,
    ) -> None:
        self.directory, self.spec, self.parts = directory, spec, parts
        self.observers, self.on_step = observers, on_step
        self.checkpoint_steps = frozenset(spec.checkpoint_steps())
        self._speed: list[SpeedRow] = []

    def begin(self) -> None:
        """Record step 0: the base, with a fresh adapter where one is trained."""
        self._record({"step": 0, "loss": None, "lr": None, "penalty": None, "grad_norm": None})

    def finish_step(
        self, step: int, loss: float, lr: float, penalty: float | None, grad_norm: float, speed: SpeedRow
    ) -> None:
        """Record one optimiser step; `on_step` sees its speed too."""
        row: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "lr": lr,
            "penalty": penalty,
            "grad_norm": grad_norm,
        }
        self._speed.append(speed)
        self._record(row)
        if step in self.checkpoint_steps:
            self.write_speed()
        if self.on_step is not None:
            self.on_step(step, self.spec.steps, {**speed, **row})

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

        parts = self.parts
        with evaluation_mode(parts.optimizer) as training_point:
            spectrum = self._look(row)
            append_jsonl(self.directory / TRAJECTORY, row)
            save_checkpoint(
                self.directory,
                step,
                parts.weights,
                spectrum,
                parts.optimizer,
                parts.scheduler,
                training_point,
                parts.penalty,
            )

    def _look(self, row: dict[str, Any]) -> list[Mapping[str, Any]]:
        """Add spectrum summary and observers' values to the row; return the spectrum by module."""
        from narrowly.spectrum.metrics import spectrum_summary

        model = self.parts.model
        with undisturbed(model):
            table = self.parts.weights.spectrum()
            row.update({key: finite_or_none(value) for key, value in spectrum_summary(table).items()})
            context = ObserverContext(row["step"], model, self.parts.tokenizer, self.directory)
            row.update(call_observers(self.observers, context, frozenset(row)))
        return list(table)
