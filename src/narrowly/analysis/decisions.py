"""Apply the preregistered rules of a study to its tables: every finding established, refuted, open or not tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import polars as pl
from scipy import stats as _scipy_stats

from narrowly.analysis.contrast_values import Differences, differences
from narrowly.records.errors import counted
from narrowly.records.prereg import DifferenceRule, EquivalenceRule, Finding, Prereg, RiseRule, Word
from narrowly.records.spec import Spec
from narrowly.stats.intervals import Interval, t_interval
from narrowly.stats.multiplicity import benjamini_hochberg
from narrowly.stats.verdict import Verdict, judge
from narrowly.stats.verdict import Word as Effect

INSIDE = (Effect.EQUIVALENT, Effect.TRIVIAL)


class Decision(Spec):
    """What a preregistered rule says of a finding, and from what.

    Attributes:
        word: established, refuted, open or not tested.
        effect: verdict of the contrast against its margin; None where there is none.
        estimate, low, high: mean over bases with its 95 % t interval.
        inner: the interval of the two one-sided tests.
        bases: in common support, and `of_bases`: how many there are.
        without: base -> why it counts for nothing.
        reason: why the word is open or not tested; None else.
    """

    id: str
    question: str
    word: Word
    effect: str | None
    estimate: float | None
    low: float | None
    high: float | None
    inner: tuple[float, float] | None
    bases: int
    of_bases: int
    per_base: dict[str, float]
    without: dict[str, str]
    reason: str | None


class SecondaryResult(Spec):
    """A secondary contrast: mean over bases, interval, p value, and the p value adjusted within the study."""

    id: str
    estimate: float | None
    low: float | None
    high: float | None
    bases: int
    of_bases: int
    p: float | None
    p_adjusted: float | None
    reason: str | None


class Findings(Spec):
    """Everything that a preregistration says once the study is done."""

    decisions: tuple[Decision, ...]
    conclusions: tuple[str, ...]
    secondary: tuple[SecondaryResult, ...]


class Evidence(NamedTuple):
    """The tables that contrasts are computed from, as `differences` takes them."""

    ladder: pl.DataFrame
    dial: pl.DataFrame | None = None
    ideal: Mapping[str, float] | None = None


def decide_all(prereg: Prereg, evidence: Evidence) -> Findings:
    """Return what every rule of a preregistration says, which conclusions may be written, and the secondary family.

    Raises:
        SpecError: a contrast needs a table that is not there.
    """
    decisions = tuple(decide(finding, evidence) for finding in prereg.findings)
    words = {one.id: one.word for one in decisions}
    said = tuple(one.say for one in prereg.conclusions if all(words[name] == word for name, word in one.when.items()))
    return Findings(decisions=decisions, conclusions=said, secondary=_secondary(prereg, evidence))


def decide(finding: Finding, evidence: Evidence) -> Decision:
    """Return what the rule of one finding says.

    With fewer bases in common support than the finding asks for it is `not tested`, and no interval is given.
    """
    found = differences(finding.contrast, *evidence)
    interval = t_interval(found.per_base.values())
    if len(found.per_base) < finding.min_bases:
        few = f"{len(found.per_base)} of {counted(found.bases, 'base')} in common support, {finding.min_bases} needed"
        return _decision(finding, found, "not tested", None, interval, few)
    verdict = _judged(found, getattr(finding.rule, "margin", None))
    if isinstance(finding.rule, RiseRule):
        word, reason = _rise(finding, finding.rule, found, interval, evidence)
    elif verdict is None:
        word, reason = "not tested", "every base gives the same difference: there is no spread to judge it by"
    else:
        word, reason = _margin_word(finding.rule, verdict, interval)
    return _decision(finding, found, word, verdict, interval, reason)


def _judged(found: Differences, margin: float | None) -> Verdict | None:
    values = list(found.per_base.values())
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    if margin is None or spread <= 1e-12 * max(1.0, abs(mean)):
        return None
    return judge(mean, spread / math.sqrt(len(values)), len(values) - 1, margin)


def _margin_word(
    rule: EquivalenceRule | DifferenceRule, verdict: Verdict, interval: Interval
) -> tuple[Word, str | None]:
    """Return what a rule with a margin says, from the verdict of the contrast."""
    if verdict.word is Effect.INDETERMINATE:
        return "open", "the difference is neither an EFFECT nor inside the margin"
    if isinstance(rule, EquivalenceRule):
        return ("established" if verdict.word in INSIDE else "refuted"), None
    above = (interval.estimate or 0.0) > 0
    right = rule.sign == "either" or (rule.sign == "above") == above
    return ("established" if verdict.word is Effect.EFFECT and right else "refuted"), None


def _rise(
    finding: Finding, rule: RiseRule, found: Differences, rise: Interval, evidence: Evidence
) -> tuple[Word, str | None]:
    """Return what the rule of a rise says: over its least value, over every control, at the trained rung asked for."""
    if rise.low is None or rise.high is None:
        return "not tested", rise.reason
    if rise.high < rule.least:
        return "refuted", None
    reasons = [] if rise.low > rule.least else [f"the interval of the rise reaches down to {rise.low:.3f}"]
    for control in rule.controls:
        contrast = finding.contrast.model_copy(update={"second": finding.contrast.first, "second_edit": control})
        over = t_interval(differences(contrast, *evidence).per_base.values())
        if over.n < finding.min_bases or over.low is None or over.high is None:
            return "not tested", f"against {control}: {counted(over.n, 'base')}, {finding.min_bases} needed"
        if over.high < 0:
            return "refuted", None
        if over.low <= 0:
            reasons.append(f"against {control} the interval is {over.low:.3f} to {over.high:.3f}")
    trained = list(found.first_trained.values())
    mean = math.fsum(trained) / len(trained) if trained else math.nan
    if not mean >= rule.trained:
        reasons.append(f"the trained rung is at {mean:.3f}, below {rule.trained:g}")
    return ("open", "; ".join(reasons)) if reasons else ("established", None)


def _decision(
    finding: Finding, found: Differences, word: Word, verdict: Verdict | None, interval: Interval, reason: str | None
) -> Decision:
    tested = word != "not tested"
    return Decision(
        id=finding.id,
        question=finding.question,
        word=word,
        effect=None if verdict is None else verdict.word.value,
        estimate=interval.estimate,
        low=interval.low if tested else None,
        high=interval.high if tested else None,
        inner=None if verdict is None else verdict.inner,
        bases=len(found.per_base),
        of_bases=found.bases,
        per_base=found.per_base,
        without=found.without,
        reason=reason,
    )


def _p_value(values: list[float]) -> float | None:
    """Return the two-sided p value of a mean of 0; None without an interval or a spread."""
    if t_interval(values).low is None or max(values) == min(values):
        return None
    return float(_scipy_stats.ttest_1samp(values, 0.0).pvalue)


def _secondary(prereg: Prereg, evidence: Evidence) -> tuple[SecondaryResult, ...]:
    found = {one.id: differences(one.contrast, *evidence) for one in prereg.secondary}
    p_values = {name: _p_value(list(one.per_base.values())) for name, one in found.items()}
    adjusted = benjamini_hochberg(p_values)
    rows = []
    for name, one in found.items():
        interval = t_interval(one.per_base.values())
        rows.append(
            SecondaryResult(
                id=name,
                estimate=interval.estimate,
                low=interval.low,
                high=interval.high,
                bases=len(one.per_base),
                of_bases=one.bases,
                p=p_values[name],
                p_adjusted=adjusted[name],
                reason=interval.reason,
            )
        )
    return tuple(rows)
