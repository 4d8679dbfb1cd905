"""Define what a defence is: options, where it acts, what it costs, where it comes from, and the plan that it makes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from narrowly.records.edits import EditSpec
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import RunSpec
from narrowly.records.spec import Spec, validated

Stage = Literal["before", "during", "after"]
"""When a defence acts: on the data before training, on a step during training, on the organism after it."""


class EarlyStop(NamedTuple):
    """Take the earliest checkpoint whose misaligned share on held-out topics reaches a threshold, else the last one."""

    threshold: float


class NormMatch(NamedTuple):
    """Scale the organism's update to this Frobenius norm, where it is longer."""

    norm: float


class Plan(NamedTuple):
    """Hold what a defence does to a run; a plan with the undefended run and nothing after it is no defence.

    Attributes:
        run: what is trained.
        edits: of the organism's spectrum, in order.
        after: which checkpoint or norm is taken, or None.
        again: a run that goes on from the organism; its `start` is the organism's (`goes_on`). None: none.
    """

    run: RunSpec
    edits: tuple[EditSpec, ...] = ()
    after: EarlyStop | NormMatch | None = None
    again: RunSpec | None = None

    def goes_on(self, start: str) -> RunSpec:
        """Return the run that goes on from the organism in this folder.

        Raises:
            SpecError: the plan has none.
        """
        if self.again is None:
            raise SpecError("this defence trains nothing after the run, accepted: realign_dpo or realign_sail")
        return self.again.model_copy(update={"start": start})


class Defence(Spec):
    """Base of the defences. At strength 0 the plan is that of no defence, so both are one run, bit for bit.

    Attributes:
        stage: when it acts.
        source: where it comes from.
        cost: of a step, beside an undefended one, or of what comes after.
        strength_field: the option that is its strength; None for a defence that is on or off.
        zero: the value of that option at which it is no defence.
    """

    stage: ClassVar[Stage]
    source: ClassVar[str]
    cost: ClassVar[str]
    strength_field: ClassVar[str | None] = None
    zero: ClassVar[float] = 0.0

    @property
    def dose(self) -> float | None:
        """Return the value of the option that is its strength."""
        return None if self.strength_field is None else float(getattr(self, self.strength_field))

    def plan(self, run: RunSpec) -> Plan:
        """Return what becomes of an undefended run.

        Args:
            run: supervised, without penalty.

        Raises:
            SpecError: a run that the defence cannot be put on.
        """
        self._check(run)
        return Plan(run) if self.dose == self.zero and self.strength_field is not None else self._plan(run)

    def _plan(self, run: RunSpec) -> Plan:
        raise NotImplementedError

    @property
    def called(self) -> str:
        """Return what messages call it."""
        return f"defence {type(self).model_fields['kind'].default}"

    def _check(self, run: RunSpec) -> None:
        """Refuse a run that is defended already, or realigned."""
        has = [f"objective {run.objective.kind}"] if run.objective.kind != "supervised" else []
        has += [name for name in ("penalty", "steering") if getattr(run, name) is not None]
        if has:
            raise SpecError(
                f"{self.called}: the run has {' and '.join(has)}, accepted: an undefended run (supervised, no penalty)"
            )


def changed(run: RunSpec, **fields: Any) -> RunSpec:
    """Return a run with other fields, checked as a whole.

    Raises:
        SpecError: fields that do not fit together.
    """
    length = "steps" if run.epochs is None else "epochs"
    given = {name: getattr(run, name) for name in type(run).model_fields if name not in ("steps", "epochs")}
    if "warmup_steps" not in run.schedule.model_fields_set:  # fitted again
        given["schedule"] = {"kind": run.schedule.kind}
    given[length] = getattr(run, length)
    if "steps" in fields:
        given.pop("epochs", None)
    found: RunSpec = validated(RunSpec, {**given, **fields})
    return found
