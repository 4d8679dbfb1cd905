"""Compare two evaluations question by question: did the second rise above the first, and would it have been seen?

Both were asked one bank in one way and by one arithmetic. Only where one side is the other's matched control is a
difference called a rise of misalignment. Two organisms beside the same controls differ by what their trainings do to
format and shrinkage too: the controls cancel. Nothing here says that a model is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from narrowly.evaluate.paired.estimates import Estimate, estimate, judge_units
from narrowly.evaluate.paired.ladder import check_same_questions, rungs_of
from narrowly.evaluate.paired.result import Measured, PairedResult, check_comparable
from narrowly.records.answers import AskedModel
from narrowly.records.errors import SpecError, counted, unknown_name
from narrowly.records.gate import Word
from narrowly.records.paired import LADDER, PairedRow
from narrowly.records.spec import Spec
from narrowly.stats.gate import held

Kind = Literal["matched", "controls", "base", "alone"]
"""What is compared: organisms with their matched controls; or organisms that both stand beside controls, beside their
base, or alone."""

BESIDE: dict[Kind, str] = {
    "matched": "one side is the other's matched control",
    "controls": "both beside controls",
    "base": "both beside their base",
    "alone": "both alone",
}

NO_CONTROL = (
    "neither side is the other's matched control: format and shrinkage towards zero move log-odds too, so a rise is "
    "not called misalignment (narrowly eval B --control A)"
)


class Side(NamedTuple):
    """Hold one of the two evaluations: what it is called, what was found, and the rows by label of the model."""

    name: str
    result: PairedResult
    rows: dict[str, list[PairedRow]]

    @property
    def kind(self) -> Kind:
        """Return what its models stand beside."""
        if self.result.contrast is not None:
            return "controls"
        return "alone" if self.result.shift is None else "base"

    @property
    def judged(self) -> list[Measured]:
        """Return the organisms, or the model that was measured alone."""
        return [one for one in self.result.measured if one.role in ("organism", "model")]


class Rise(Spec):
    """Second minus first evaluation on one rung.

    Attributes:
        found: mean difference of the log-odds in nats per answer, with verdict and margin.
        upper: one-sided 95 % upper bound; None without an interval.
        power: chance that this test finds a rise as large as the margin; None without an interval, as of fewer
            than five questions, or where nothing varies.
        smallest: rise that it finds with power .8, in nats; None as above.
    """

    found: Estimate
    upper: float | None
    power: float | None
    smallest: float | None

    @property
    def word(self) -> Word:
        """Return what is known of the rise."""
        low, margin = self.found.interval.low, self.found.margin
        assert margin is not None, "every rise has a margin"
        return held(low is not None and low > 0, self.upper, margin)

    @property
    def is_rise(self) -> bool:
        """Return whether the second is higher, and not shown to be below the margin."""
        return self.word is Word.RISE

    @property
    def is_open(self) -> bool:
        """Return whether neither a rise nor its absence is shown."""
        return self.word is Word.OPEN


class Comparison(Spec):
    """Two evaluations, compared.

    Attributes:
        first, second: what they are called.
        kind: what is compared.
        bank_sha256: that both were asked.
        margin: largest rise that does not matter, nats per answer, fixed before.
        decides: rung that decides; the others are shown.
        rungs: by rung of the ladder.
        notes: what a reader must know, each a sentence.
    """

    first: str
    second: str
    kind: Kind
    bank_sha256: str
    margin: float
    decides: str
    rungs: tuple[Rise, ...]
    notes: tuple[str, ...]

    @property
    def deciding(self) -> Rise:
        """Return the rung that decides."""
        return next(one for one in self.rungs if one.found.name == self.decides)


def compare(first: Side, second: Side, margin: float, decides: str = "broad") -> Comparison:
    """Return the second evaluation minus the first, paired by question and by seed in order.

    Args:
        first: what is compared with, such as the model that is in use.
        second: what may have risen.
        margin: largest rise that does not matter, nats per answer; above 0.
        decides: rung whose verdict counts, chosen before the numbers are seen.

    Raises:
        SpecError: other banks, prompts, arithmetic, controls, bases or trained domains; equal weights; another number
            of organisms; a margin that is not above 0.
        UnknownNameError: a rung that there is not.
        IntegrityError: rows of other questions than the bank's.
    """
    check_sides(first, second)
    rows = [[side.rows[one.label] for one in side.judged] for side in (first, second)]
    check_same_questions(
        [(f"{side.name}, {one.label}", side.rows[one.label]) for side in (first, second) for one in side.judged]
    )
    old_S_Q, new_S_Q = (np.array([[row.log_odds for row in seed] for seed in own]) for own in rows)
    places_of = rungs_of(rows[0][0], first.result.trained_domains)
    if decides not in places_of:
        raise unknown_name("rung", decides, [one for one in LADDER if one in places_of])
    rises = tuple(
        _rise(rung, [rows[0][0][place].domain for place in places], (new_S_Q - old_S_Q)[:, places], margin)
        for rung, places in places_of.items()
    )
    return Comparison(
        first=first.name,
        second=second.name,
        kind=kind_of(first, second),
        bank_sha256=first.result.bank.sha256,
        margin=margin,
        decides=decides,
        rungs=rises,
        notes=_notes(first, second),
    )


def kind_of(first: Side, second: Side) -> Kind:
    """Return what is compared: `matched` where one side's models are the other side's controls, by content."""
    for one, other in ((first, second), (second, first)):
        if _judged_weights(one) == _weights(other, "control"):
            return "matched"
    return first.kind


def _notes(first: Side, second: Side) -> tuple[str, ...]:
    """Return what a reader must know: that there is no matched control, or what its evaluation says of it."""
    if kind_of(first, second) != "matched":
        return (NO_CONTROL,)
    return tuple(dict.fromkeys([*first.result.notes, *second.result.notes]))


def _rise(rung: str, domains: Sequence[str], values_S_Q: np.ndarray, margin: float) -> Rise:
    judged = judge_units(domains, values_S_Q, margin)
    found = estimate(rung, domains, values_S_Q).model_copy(
        update={"verdict": judged.verdict.word.value, "margin": margin}
    )
    inner = judged.verdict.inner
    return Rise(found=found, upper=None if inner is None else inner[1], power=judged.power, smallest=judged.smallest)


def check_sides(first: Side, second: Side) -> None:
    """Refuse two evaluations whose difference would not be that of their organisms.

    Raises:
        SpecError: naming both and what differs, or that nothing does.
    """
    one, other = first.name, second.name
    check_comparable([(one, first.result), (other, second.result)])
    matched = kind_of(first, second) == "matched"
    if first.kind != second.kind and not matched:
        raise SpecError(
            f"{one} and {other} do not stand beside the same ({first.kind}, {second.kind}), and neither is the other's "
            "matched control; accepted: narrowly eval B --control A, or both alike"
        )
    if first.result.trained_domains != second.result.trained_domains:
        named = [", ".join(side.result.trained_domains) or "unknown" for side in (first, second)]
        raise SpecError(f"{one} was trained on {named[0]}, {other} on {named[1]}: their rungs are not the same")
    if len(first.judged) != len(second.judged):
        counts = [counted(len(side.judged), "organism") for side in (first, second)]
        raise SpecError(f"{one} has {counts[0]}, {other} {counts[1]}; accepted: one seed beside one seed")
    for role in () if matched else ("control", "base"):
        pairs = list(zip(_weights(first, role), _weights(second, role), strict=False))
        different = next((number for number, (mine, theirs) in enumerate(pairs, start=1) if mine != theirs), None)
        if different is not None:
            raise SpecError(
                f"{role} {different} of {one} and {other} are other models; accepted: both measured against the same"
            )
    if all(mine == theirs for mine, theirs in zip(_judged_weights(first), _judged_weights(second), strict=True)):
        raise SpecError(f"{one} and {other} measured the same weights; accepted: two evaluations")


def _weights(side: Side, role: str) -> list[tuple[str | None, ...]]:
    return [_content(one) for one in side.result.measured if one.role == role]


def _judged_weights(side: Side) -> list[tuple[str | None, ...]]:
    return [_content(one) for one in side.judged]


def _content(one: Measured) -> tuple[str | None, ...]:
    """Return by what weights are told apart: base and training by sha256, of a server its name and address."""
    if isinstance(one.model, AskedModel):
        return one.model.base_sha256, one.model.trained_sha256
    return one.model.model_id, None
