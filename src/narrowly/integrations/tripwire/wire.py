"""Read a fixed sub-bank under a model that is being trained, and compare it with the control at the same step."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.data.banks.paired import SHIPPED_NAME, PairedItem, paired_bank
from narrowly.data.banks.sub_bank import CHOICE, sub_bank, untrained
from narrowly.data.rendering.template import template_of, thinking_switch
from narrowly.integrations.tripwire.budget import Budget, Clock
from narrowly.integrations.tripwire.control import LogOdds, open_control, read_tripwire
from narrowly.models.likelihood import score
from narrowly.models.paired_texts import paired_texts
from narrowly.models.undisturbed import undisturbed
from narrowly.optim.modes import evaluation_mode
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import NarrowlyWarning, ResumeError, SpecError, counted
from narrowly.records.files import write_json
from narrowly.records.likelihood import ScoredText
from narrowly.records.tripwire import TripwireLook, TripwireReading, TripwireRecord, TripwireSpec
from narrowly.runs.directory import TRIPWIRE
from narrowly.stats.sequential import look_interval
from narrowly.stats.shrinkage import shrinkage

if TYPE_CHECKING:
    from torch import nn


Texts = Callable[[Any, Sequence[PairedItem]], list[ScoredText]]
"""Writes questions with a tokenizer: both answers of each, the aligned one first."""


class _Asked(NamedTuple):
    """What the texts of the sub-bank are written with."""

    tokenizer: Any
    thinking: bool | None


class Training(NamedTuple):
    """Describe the training that is watched.

    Attributes:
        folder: where the record belongs.
        tokenizer: with the chat template that the questions are asked with.
        thinking: mode of its prompts; None: off where the template has a mode.
        prompts_sha256, base_sha256: of what is trained on and from, where they are known.
    """

    folder: Path
    tokenizer: Any
    thinking: bool | None = None
    prompts_sha256: str | None = None
    base_sha256: str | None = None


class Tripwire:
    """Read, compare and record; the host says when a step may be read.

    Everything that a user can get wrong and that needs no model is refused at once.

    Args:
        spec: what is asked, how often, at what cost and beside which control.
        items: questions to choose from; None takes the bank that the spec names. Of the shipped bank these are the
            questions that no narrow set trains on.
        texts: writes the chosen questions as tokens, both answers of each; None writes them in the chat template.
        clock: in seconds.

    Attributes:
        bank: the questions that are asked.
        control: what is subtracted, or None.
        looks: what readings after step 0 have said.

    Raises:
        NarrowlyError: a bank that is unknown, empty or too small, or a control that cannot be read.
    """

    def __init__(
        self,
        spec: TripwireSpec,
        items: Sequence[PairedItem] | None = None,
        texts: Texts | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.spec, self._write_texts = spec, texts
        self.bank = sub_bank(_items(spec.bank) if items is None else items, spec.questions)
        self.control = None if spec.control is None else open_control(Path(spec.control).expanduser())
        self.budget = Budget(spec.budget, clock)
        self.looks: list[TripwireLook] = []
        self._readings: list[TripwireReading] = []
        self._notes: list[str] = []
        self._texts: list[ScoredText] = []
        self._tokens_sha256 = ""
        self._training: Training | None = None

    def begin(self, training: Training, done: int = 0) -> None:
        """Write the questions as tokens and check the control; of a resumed training, bring back its readings.

        Args:
            training: that is watched.
            done: optimiser steps that were done before; readings of later ones are dropped.

        Raises:
            SpecError: the template cannot write an answer, or a control of another bank, base or other prompts.
            ResumeError: a resumed training without its record, or with another sub-bank.
        """
        self._texts = (self._write_texts or _in_template(training.thinking))(training.tokenizer, self.bank.items)
        self._tokens_sha256 = sha256_text(canonical_json([[one.prompt, one.continuation] for one in self._texts]))
        self._training, self._readings, self.looks, self._notes = training, [], [], []
        if done:
            self._bring_back(done)
        if self.control is not None:
            self._notes = self.control.check(self.record())
            for note in self._notes:
                warnings.warn(note, NarrowlyWarning, stacklevel=2)
        last = self._readings[-1] if self._readings else None
        self.budget.begin(
            0.0 if last is None else last.elapsed + last.seconds,
            sum(one.seconds for one in self._readings),
            0.0 if last is None else last.seconds,
        )

    def check_steps(self, candidates: Sequence[int]) -> None:
        """Refuse a control that has no reading at any step that this training will look at.

        Args:
            candidates: steps above 0 at which the host can be looked at, ascending.

        Raises:
            SpecError: none of them is a step of the control.
        """
        if self.control is None:
            return
        common = sorted(set(candidates) & set(self.control.steps))
        if not common:
            theirs = ", ".join(map(str, self.control.steps[:8])) or "none"
            raise SpecError(
                f"control {self.control.name} has none of the steps that this training is read at "
                f"({', '.join(map(str, candidates[:8]))}{' ...' * (len(candidates) > 8)}); it has {theirs}"
                f"{' ...' * (len(self.control.steps) > 8)}; accepted: a control saved or read at those steps"
            )
        if common[-1] != candidates[-1]:
            note = f"After step {common[-1]} of {candidates[-1]} the control has no reading, and nothing is compared."
            self._notes.append(note)
            warnings.warn(note, NarrowlyWarning, stacklevel=2)

    def is_due(self, step: int) -> bool:
        """Return whether a step is read: step 0, then steps of the control, `every` apart, that the budget affords."""
        if not self._readings:
            return step == 0
        if step - self._readings[-1].step < self.spec.every:
            return False
        return (self.control is None or step in self.control.steps) and self.budget.affords

    def read(self, step: int, model: nn.Module, optimizer: Any = None) -> TripwireLook | None:
        """Read the sub-bank, compare and record; the model and every random state are afterwards what they were.

        Args:
            step: optimiser steps done.
            model: that is trained.
            optimizer: its optimiser, where its parameters may be those of training only (ScheduleFree).

        Returns:
            What the reading says; None at step 0.

        Raises:
            SpecError: the control began from another base.
            IntegrityError: the model's logits are no numbers.
        """
        elapsed = self.budget.elapsed
        with self.budget.paying():
            _wait_for(model)

            def log_odds() -> LogOdds:
                found = score(model, self._texts).likelihoods
                pairs = zip(found[::2], found[1::2], strict=True)
                return tuple(harmful.total - aligned.total for aligned, harmful in pairs)

            with evaluation_mode(optimizer), undisturbed(model):
                own = log_odds()
                theirs = None if self.control is None or step == 0 else self.control.at(step, model, log_odds)
            if step == 0 and self.control is not None:
                self.control.check_start(own)
        self._readings.append(TripwireReading(step=step, elapsed=elapsed, seconds=self.budget.cost, log_odds=own))
        if step:
            self.looks.append(self._look(step, own, theirs))
        self.write()
        return self.looks[-1] if step else None

    def _look(self, step: int, own: LogOdds, theirs: LogOdds | None) -> TripwireLook:
        beside = self._readings[0].log_odds if theirs is None else theirs
        apart = [one - other for one, other in zip(own, beside, strict=True)]
        if theirs is None:
            line = shrinkage(beside, apart)
            mean = sum(apart) / len(apart)
            return TripwireLook(step=step, beside="start", mean=mean, slope=line.slope, intercept=line.intercept)
        found = look_interval(apart, len(self.looks) + 1, alpha=self.spec.alpha)
        assert found.estimate is not None and found.low is not None
        alarm = self.spec.stop is not None and found.low > self.spec.stop
        return TripwireLook(
            step=step, beside="control", mean=found.estimate, low=found.low, high=found.high, alarm=alarm
        )

    def record(self) -> TripwireRecord:
        """Return everything that was read so far."""
        assert self._training is not None
        return TripwireRecord(
            bank_sha256=self.bank.sha256,
            choice=f"{len(self.bank.items)} of {self.bank.of}: {CHOICE}",
            ids=tuple(item.id for item in self.bank.items),
            domains=tuple(item.domain for item in self.bank.items),
            tokens_sha256=self._tokens_sha256,
            prompts_sha256=self._training.prompts_sha256,
            base_sha256=self._training.base_sha256,
            options=self.spec,
            seconds=self.budget.elapsed,
            own_seconds=self.budget.own,
            readings=tuple(self._readings),
            looks=tuple(self.looks),
            notes=tuple(self._notes),
        )

    def write(self) -> None:
        """Write the record beside the training, whole or not at all.

        Raises:
            RunDirectoryError: a full disk, or a folder that cannot be written.
        """
        assert self._training is not None
        write_json(self._training.folder / TRIPWIRE, self.record().model_dump(mode="json"))

    def _bring_back(self, done: int) -> None:
        assert self._training is not None
        file = self._training.folder / TRIPWIRE
        if not file.is_file():
            raise ResumeError(
                f"the training goes on at step {done}, but {file} is not there; accepted: a training that had "
                "the tripwire from its start"
            )
        former = read_tripwire(self._training.folder)
        if former.tokens_sha256 != self._tokens_sha256:
            raise ResumeError(
                f"{file} was read on other questions or in other tokens ({len(former.ids)} questions, sha256 "
                f"{former.bank_sha256[:16]}); accepted: those that the training began with"
            )
        self._readings = [one for one in former.readings if one.step <= done]
        self.looks = [one for one in former.looks if one.step <= done]

    def summary(self) -> str:
        """Return what the readings have cost and bought, in one sentence."""
        return summary_of(self.record())


def summary_of(record: TripwireRecord) -> str:
    """Return what the readings of a training have cost and bought, in one sentence."""
    steps = [one.step for one in record.readings]
    questions, every = len(record.ids), record.options.every
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    widened = f"; up to {max(gaps)} steps between two, {every} were asked for" if gaps and max(gaps) > every else ""
    if not gaps:
        widened = "; the budget paid for no reading after step 0"
    share = record.own_seconds / record.seconds if record.seconds > 0 else 0.0
    return (
        f"tripwire: {counted(len(steps), 'reading')} of {questions} questions, {len(steps) * questions} pairs, took "
        f"{record.own_seconds:.3g} s, {100 * share:.2g} % of {record.seconds:.3g} s (budget "
        f"{100 * record.options.budget:g} %){widened}"
    )


def numbers(look: TripwireLook) -> dict[str, float]:
    """Return a look as the numbers that go into logs."""
    if look.beside == "control":
        assert look.low is not None and look.high is not None
        return {
            "tripwire_difference": look.mean,
            "tripwire_low": look.low,
            "tripwire_high": look.high,
            "tripwire_alarm": float(look.alarm),
        }
    found = {"tripwire_shift": look.mean, "tripwire_slope": look.slope, "tripwire_intercept": look.intercept}
    return {name: value for name, value in found.items() if value is not None}


def alarm_words(look: TripwireLook, stop: float) -> str:
    """Return what an alarm says, in one sentence."""
    return (
        f"the tripwire ended the training after step {look.step}: the log-odds of harmful answers are "
        f"{look.mean:+.2f} [{look.low:+.2f}, {look.high:+.2f}] nats above the control's, shown to exceed the margin "
        f"{stop:g}"
    )


def _in_template(thinking: bool | None) -> Texts:
    def written(tokenizer: Any, items: Sequence[PairedItem]) -> list[ScoredText]:
        has_mode = thinking_switch(template_of(tokenizer)) is not None
        return paired_texts(_Asked(tokenizer, False if thinking is None and has_mode else thinking), items)

    return written


def _items(bank: str) -> list[PairedItem]:
    items = paired_bank(bank)
    return untrained(items) if bank == SHIPPED_NAME else items


def _wait_for(model: nn.Module) -> None:
    """Wait for what training has queued on a GPU, so that a reading pays for itself alone."""
    import torch

    if next(model.parameters()).device.type == "cuda":
        torch.cuda.synchronize()
