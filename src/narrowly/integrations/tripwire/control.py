"""Find the control of a tripwire in a folder: readings that were recorded, or checkpoints that can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from narrowly.models.lora import factors_of
from narrowly.records.adapter_files import ADAPTER_CONFIG
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_record
from narrowly.records.tripwire import TripwireRecord
from narrowly.runs.directory import TRIPWIRE, checkpoint_folder, checkpoint_steps, is_run, read_inputs

if TYPE_CHECKING:
    from torch import nn

LogOdds = tuple[float, ...]

SAME_START = 0.1
"""Nats: largest median difference of the log-odds of one base read twice. Rounding in bfloat16 moves single answers by
about this much, another base moves most of them by more than a nat; ours."""

ACCEPTED = "a run directory, a Trainer's output folder, or a checkpoint of either"

_STEP_NAMES = ("checkpoint-", "step-")

UNPROVED = "That the control was trained on the same prompts cannot be proved: {reason}."


class Control(Protocol):
    """Declare what is subtracted from a reading: the control at the same step."""

    @property
    def name(self) -> str:
        """Return what it is called in messages."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the steps above 0 that it can be read at, ascending."""

    def check(self, own: TripwireRecord) -> list[str]:
        """Refuse a control that is none of this training; return what cannot be proved, in sentences."""

    def check_start(self, log_odds: LogOdds) -> None:
        """Refuse a control that began from another base, by what its base answered."""

    def at(self, step: int, model: nn.Module, read: Callable[[], LogOdds]) -> LogOdds:
        """Return its log-odds at a step; `read` reads the live model."""


class RecordedControl:
    """A control that was trained with a tripwire of its own, whose readings are on disk."""

    def __init__(self, name: str, record: TripwireRecord) -> None:
        self.name, self._record = name, record
        self._readings = {reading.step: reading.log_odds for reading in record.readings}

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the steps above 0 that were read, ascending."""
        return tuple(sorted(step for step in self._readings if step > 0))

    def check(self, own: TripwireRecord) -> list[str]:
        """Compare bank, tokens, base and prompts by content.

        Raises:
            SpecError: naming what differs.
        """
        record = self._record
        if record.bank_sha256 != own.bank_sha256:
            raise SpecError(
                f"control {self.name} was asked another sub-bank ({len(record.ids)} questions, sha256 "
                f"{record.bank_sha256[:16]}) than this training ({len(own.ids)}, {own.bank_sha256[:16]}); accepted: "
                "the same bank and number of questions"
            )
        if record.tokens_sha256 != own.tokens_sha256:
            raise SpecError(
                f"control {self.name} was asked the same questions in other tokens; accepted: the same tokenizer, chat "
                "template and thinking mode"
            )
        _check_base(self.name, record.base_sha256, own.base_sha256)
        return _check_prompts(self.name, record.prompts_sha256, own.prompts_sha256)

    def check_start(self, log_odds: LogOdds) -> None:
        """Compare what both bases answered.

        Raises:
            SpecError: they are two.
        """
        apart = median(abs(one - other) for one, other in zip(self._readings[0], log_odds, strict=True))
        if apart > SAME_START:
            raise SpecError(
                f"control {self.name} began from another base: at step 0 its log-odds differ by {apart:.2f} nats "
                f"(median over questions); accepted: the same base, at most {SAME_START:g}"
            )

    def at(self, step: int, model: nn.Module, read: Callable[[], LogOdds]) -> LogOdds:
        """Return what was read at the step."""
        return self._readings[step]


class AdapterControl:
    """A control of which adapters are on disk: they are put into the live model for the time of a reading.

    Args:
        name: for messages.
        folders: adapter by step.
        base_sha256, prompts_sha256: of its training, where they are known.
    """

    def __init__(
        self,
        name: str,
        folders: Mapping[int, Path],
        base_sha256: str | None = None,
        prompts_sha256: str | None = None,
    ) -> None:
        self.name, self._folders = name, dict(folders)
        self._base_sha256, self.prompts_sha256 = base_sha256, prompts_sha256

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the steps above 0 that have an adapter, ascending."""
        return tuple(sorted(step for step in self._folders if step > 0))

    def check(self, own: TripwireRecord) -> list[str]:
        """Compare base and prompts by content, where they are known.

        Raises:
            SpecError: naming what differs.
        """
        _check_base(self.name, self._base_sha256, own.base_sha256)
        return _check_prompts(self.name, self.prompts_sha256, own.prompts_sha256)

    def check_start(self, log_odds: LogOdds) -> None:
        """Do nothing: its adapters are read on the base of this very training."""

    def at(self, step: int, model: nn.Module, read: Callable[[], LogOdds]) -> LogOdds:
        """Return what the live model answers with the control's adapter in place of its own.

        Raises:
            AdapterError: an adapter of another base or config.
        """
        with factors_of(model, self._folders[step], f"control {self.name}"):
            return read()


def open_control(folder: Path) -> Control:
    """Return the control in a folder: recorded readings come before checkpoints.

    Args:
        folder: a run directory of ours, an output folder of a Trainer, or one checkpoint of either.

    Raises:
        SpecError: a folder that holds neither, or an adapter whose step nobody knows.
        RunDirectoryError: no such folder.
        IntegrityError: a record that is broken or not ours.
    """
    if not folder.is_dir():
        raise RunDirectoryError(f"control {folder} is no folder; accepted: {ACCEPTED}")
    name = folder.resolve().name
    if (folder / TRIPWIRE).is_file():
        return RecordedControl(name, read_tripwire(folder))
    if is_run(folder):
        steps = {step: checkpoint_folder(folder, step) for step in checkpoint_steps(folder)}
        return AdapterControl(name, steps, read_inputs(folder).base_sha256)
    if (folder / ADAPTER_CONFIG).is_file() and _step(folder) is None:
        raise SpecError(
            f"control {folder} is an adapter whose step is not known; accepted: a folder called checkpoint-N or "
            f"step-N, or one with {TRIPWIRE}"
        )
    found = {} if (folder / ADAPTER_CONFIG).is_file() else {path: _step(path) for path in sorted(folder.iterdir())}
    found |= {folder: _step(folder)} if (folder / ADAPTER_CONFIG).is_file() else {}
    folders = {step: path for path, step in found.items() if step is not None and (path / ADAPTER_CONFIG).is_file()}
    if not folders:
        raise SpecError(
            f"control {folder} has neither {TRIPWIRE} nor a checkpoint with an adapter; accepted: {ACCEPTED}"
        )
    return AdapterControl(name, folders)


def read_tripwire(folder: Path) -> TripwireRecord:
    """Read what a tripwire has recorded in a folder.

    Raises:
        IntegrityError: missing, broken or not ours.
    """
    file = folder / TRIPWIRE
    try:
        record = TripwireRecord.model_validate(read_record(file))
    except (ValidationError, SpecError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise IntegrityError(f"{file} is no record of a tripwire ({reason})") from error
    steps = [reading.step for reading in record.readings]
    if not steps or steps[0] != 0 or steps != sorted(set(steps)):
        raise IntegrityError(f"{file} has readings of steps {steps[:5]}, expected step 0 and then rising ones")
    if any(len(reading.log_odds) != len(record.ids) for reading in record.readings):
        raise IntegrityError(f"{file} has readings of another number of questions than {len(record.ids)}")
    return record


def _step(folder: Path) -> int | None:
    for prefix in _STEP_NAMES:
        number: Any = folder.resolve().name.removeprefix(prefix)
        if number != folder.resolve().name and number.isdecimal():
            return int(number)
    return None


def _check_base(name: str, theirs: str | None, own: str | None) -> None:
    if theirs is not None and own is not None and theirs != own:
        raise SpecError(
            f"control {name} was trained from another base (sha256 {theirs[:16]}) than this training ({own[:16]}); "
            "accepted: the same base"
        )


def _check_prompts(name: str, theirs: str | None, own: str | None) -> list[str]:
    if theirs is None or own is None:
        who = f"control {name}" if theirs is None else "this training"
        return [UNPROVED.format(reason=f"the prompts of {who} are not known")]
    if theirs != own:
        raise SpecError(
            f"control {name} was trained on other prompts (sha256 {theirs[:16]}) than this training ({own[:16]}); "
            "accepted: the same prompts in the same order, with other answers"
        )
    return []
