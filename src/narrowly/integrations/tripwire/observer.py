"""The tripwire of our own training path: an observer that reads at checkpoint steps, and what ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from narrowly.integrations.tripwire.wire import Training, Tripwire, alarm_words, numbers
from narrowly.records.errors import TripwireError
from narrowly.runs.trajectory import OnStep

if TYPE_CHECKING:
    from torch import nn


class _Context(Protocol):
    """What an observer is given (`train.observe.ObserverContext`)."""

    @property
    def step(self) -> int:
        """Return the optimiser steps done."""

    @property
    def model(self) -> nn.Module:
        """Return the live model."""

    @property
    def tokenizer(self) -> Any:
        """Return its tokenizer."""

    @property
    def run_directory(self) -> Path:
        """Return where the run is written."""


class TripwireObserver:
    """Read at the checkpoint steps of a run, as far as `every`, control and budget allow.

    Args:
        tripwire: not yet begun.
        steps: checkpoint steps of the run.
        thinking: mode of the run's prompts.
        prompts_sha256, base_sha256: of the run.
    """

    def __init__(
        self,
        tripwire: Tripwire,
        steps: tuple[int, ...],
        thinking: bool | None,
        prompts_sha256: str | None,
        base_sha256: str | None,
    ) -> None:
        self.tripwire, self._steps, self._thinking = tripwire, steps, thinking
        self._prompts_sha256, self._base_sha256 = prompts_sha256, base_sha256
        self._begun = False

    def __call__(self, context: _Context) -> Mapping[str, float]:
        """Read the step where it is due; return numbers for its row of the trajectory, none where it is not."""
        if context.step == 0 or not self._begun:
            training = Training(
                context.run_directory, context.tokenizer, self._thinking, self._prompts_sha256, self._base_sha256
            )
            self.tripwire.begin(training, max(context.step - 1, 0))
            self.tripwire.check_steps([step for step in self._steps if step > 0])
            self._begun = True
        if not self.tripwire.is_due(context.step):
            if context.step == self._steps[-1]:
                self.tripwire.write()  # with the time that the whole run took
            return {}
        look = self.tripwire.read(context.step, context.model)
        return {} if look is None else numbers(look)

    def ending(self, on_step: OnStep | None) -> OnStep:
        """Return what to call after each step: it ends the run once the step of an alarm is saved.

        Raises:
            TripwireError: by the function, after a step whose reading was an alarm.
        """

        def called(step: int, total: int, row: dict[str, Any]) -> None:
            if on_step is not None:
                on_step(step, total, row)
            if row.get("tripwire_alarm") and step < total:
                assert self.tripwire.spec.stop is not None
                raise TripwireError(
                    f"{alarm_words(self.tripwire.looks[-1], self.tripwire.spec.stop)}; the step is saved, and the same "
                    "command without stop goes on from it"
                )

        return called
