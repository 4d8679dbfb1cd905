"""Turn measured intervals into "agrees", "disagrees" or "cannot tell".

First the rules on intervals, then one function per kind of paper claim that applies them to the evidence.
Why each rule is what it is, and when it was fixed, stands at the top of `paper_claims`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from narrowly.analysis.claim_limits import LABELS
from narrowly.analysis.contrasts import Contrast, missing_contrast
from narrowly.analysis.evidence import Evidence
from narrowly.records.errors import counted

Verdict = Literal["agrees", "disagrees", "cannot tell", "not tested"]

PAPER_ODDS = {("lion", "muon"): (0.370, 0.053), ("adam", "muon"): (0.138, 0.053)}
"""Misalignment rates of the paper whose odds are compared: 37.0, 13.8 and 5.3 %."""
ODDS_FACTOR = 2.0
POOLED_R2_THRESHOLD = 0.5
REMAINING_THRESHOLD = 0.5
LOSS_MARGIN = 0.026
"""Nats per token that still count as negligible: twice the paper's cost of the penalty under Adam (+0.013)."""
ADAPTIVE = ("adam", "adamw", "lion")
"""The optimisers that Muon is compared with."""
EQUAL_MARGIN = 0.25
"""Log-odds within which two optimisers count as equal: a ratio of odds of at most 1.28."""

NOT_RUN = "not run in this study"
NOT_COMPARED = "not compared, an arm has no finished organism"


class Finding(NamedTuple):
    """What a study found on one paper claim: in words, the verdict, and how many bases it rests on."""

    here: str
    verdict: Verdict
    n_bases: int


Rule = Callable[[Evidence], Finding]
"""How one paper claim is decided."""


def all_above_zero(contrasts: Sequence[Contrast]) -> Verdict:
    """Return the verdict on "every difference is positive"."""
    if any(c.high is not None and c.high < 0 for c in contrasts):
        return "disagrees"
    if contrasts and all(c.low is not None and c.low > 0 for c in contrasts):
        return "agrees"
    return "cannot tell"


def odds_ratio(rates: tuple[float, float]) -> float:
    """Return the ratio of the odds of two rates, each in (0, 1)."""
    first, second = rates
    return first / (1 - first) / (second / (1 - second))


def near_ratio(contrast: Contrast, paper: float) -> Verdict:
    """Return the verdict on "the odds differ by this factor".

    Agrees where the interval of the log-odds holds the paper's ratio and excludes 1; disagrees where it lies wholly
    more than a factor of `ODDS_FACTOR` away from the paper's.
    """
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    goal, reach = math.log(paper), math.log(ODDS_FACTOR)
    if contrast.high < goal - reach or contrast.low > goal + reach:
        return "disagrees"
    return "agrees" if contrast.low <= goal <= contrast.high and contrast.low > 0 else "cannot tell"


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on several statements at once: one that fails fails them all."""
    if "disagrees" in verdicts:
        return "disagrees"
    return "agrees" if verdicts and set(verdicts) == {"agrees"} else "cannot tell"


def reaches(interval: tuple[float, float] | None, threshold: float) -> Verdict:
    """Return the verdict on "at least the threshold" from an interval over bases."""
    if interval is None:
        return "cannot tell"
    if interval[0] >= threshold:
        return "agrees"
    return "disagrees" if interval[1] < threshold else "cannot tell"


def gain(contrast: Contrast, *, raises: bool) -> Verdict:
    """Return the verdict on "the penalty raises alignment", or lowers it; the sign alone decides.

    The paper's points of a judge's mean score and log-odds are not one scale, so no size is compared.

    Args:
        contrast: change of the log-odds of a misaligned answer.
        raises: whether the paper has more alignment, so that the log-odds fall.
    """
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    low, high = (-contrast.high, -contrast.low) if raises else (contrast.low, contrast.high)
    if low > 0:
        return "agrees"
    return "disagrees" if high < 0 else "cannot tell"


def below(contrast: Contrast, margin: float) -> Verdict:
    """Return the verdict on "costs less than the margin"."""
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    if contrast.high < margin:
        return "agrees"
    return "disagrees" if contrast.low > margin else "cannot tell"


def equal(contrast: Contrast, margin: float) -> Verdict:
    """Return the verdict on "the two are equal up to the margin"."""
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    if contrast.low > -margin and contrast.high < margin:
        return "agrees"
    return "disagrees" if contrast.low > margin or contrast.high < -margin else "cannot tell"


def onset_above_zero(evidence: Evidence) -> Finding:
    """Decide "Adam ends more misaligned than its base began"."""
    after = evidence.joint.get("adam")
    text = f"Adam − base before fine-tuning: {written(evidence.onset, 'log-odds')}"
    text += f"; joint rate after it {100 * after:.1f} %" if after is not None else ""
    return Finding(text, all_above_zero([evidence.onset]), evidence.onset.n_bases)


def spread_of_the_sweep(evidence: Evidence) -> Finding:
    """Decide "Lion's odds and Adam's odds are so many times Muon's as in the paper"."""
    found = {pair: evidence.odds.get(pair, missing_contrast(NOT_COMPARED)) for pair in PAPER_ODDS}
    texts = [
        f"{LABELS[first]} / {LABELS[second]} {times(found[first, second])} (paper {odds_ratio(rates):.1f})"
        for (first, second), rates in PAPER_ODDS.items()
    ]
    text = f"ratio of the odds: {'; '.join(texts)}; joint (literature): {_rates(evidence) or 'no optimiser arm'}"

    def decide(odds: Mapping[tuple[str, str], Contrast]) -> Verdict:
        absent = missing_contrast(NOT_COMPARED)
        return all_of([near_ratio(odds.get(pair, absent), odds_ratio(rates)) for pair, rates in PAPER_ODDS.items()])

    verdict, beside = _within_bounds(evidence, decide)
    return Finding(text + beside, verdict, min(contrast.n_bases for contrast in found.values()))


def _within_bounds(
    evidence: Evidence, decide: Callable[[Mapping[tuple[str, str], Contrast]], Verdict]
) -> tuple[Verdict, str]:
    """Return a verdict on odds and, where the two bounds do not give it too, "cannot tell" with what they give."""
    verdict, bounds = decide(evidence.odds), [decide(one) for one in evidence.bounds]
    if verdict == "cannot tell" or set(bounds) <= {verdict}:
        return verdict, ""
    given = " and ".join(f"“{bound}”" for bound in bounds)
    return "cannot tell", f"; “{verdict}”, with incoherent answers counted as aligned, then as misaligned {given}"


def highest(table: Literal["odds", "incoherence"], name: str, unit: str, factor: float = 1.0, digits: int = 2) -> Rule:
    """Return the rule "optimiser `name` has the highest value of the sweep".

    Args:
        table: field of the evidence with the paired differences.
        name: the optimiser.
        unit: of the differences, for the text.
        factor: that the differences are multiplied with for the text.
        digits: decimals of the text.
    """

    def rule(evidence: Evidence) -> Finding:
        pairs = [(name, other) for other in evidence.swept() if other != name]
        return _all_positive(evidence, table, name, pairs, unit, factor, digits)

    return rule


def lowest_of_adaptive(table: Literal["odds", "flatness"], name: str, unit: str, digits: int = 2) -> Rule:
    """Return the rule "optimiser `name` has the lowest value, below all of `ADAPTIVE`"; arguments as `highest`."""

    def rule(evidence: Evidence) -> Finding:
        others = [other for other in evidence.swept() if other in ADAPTIVE]
        return _all_positive(evidence, table, name, [(other, name) for other in others], unit, 1.0, digits)

    return rule


def _all_positive(
    evidence: Evidence, table: str, name: str, pairs: Sequence[tuple[str, str]], unit: str, factor: float, digits: int
) -> Finding:
    if name not in evidence.joint:
        return Finding(f"no finished organism of {LABELS[name]}", "cannot tell", 0)
    found = [getattr(evidence, table).get(pair, missing_contrast(NOT_COMPARED)) for pair in pairs]
    texts = [
        f"{LABELS[first]} − {LABELS[second]}: {written(contrast, unit, digits, factor)}"
        for (first, second), contrast in zip(pairs, found, strict=True)
    ]
    n_bases = min(contrast.n_bases for contrast in found)
    if table != "odds":
        return Finding("; ".join(texts), all_above_zero(found), n_bases)
    absent = missing_contrast(NOT_COMPARED)
    verdict, beside = _within_bounds(evidence, lambda odds: all_above_zero([odds.get(pair, absent) for pair in pairs]))
    return Finding("; ".join(texts) + beside, verdict, n_bases)


def adamw_equals_adam(evidence: Evidence) -> Finding:
    """Decide "AdamW and Adam are equal up to the margin"."""
    same = evidence.odds.get(("adamw", "adam"), missing_contrast("no arm adam or no arm adamw"))
    return Finding(f"AdamW − Adam: {written(same, 'log-odds')}", equal(same, EQUAL_MARGIN), same.n_bases)


def loss_predicts_alignment(evidence: Evidence) -> Finding:
    """Decide "the loss alone explains at least `POOLED_R2_THRESHOLD` of the variance"."""
    pooled, within, losses = evidence.regression.pooled, evidence.regression.within, evidence.regression.loss_span
    text = f"R² = {_r2(pooled.r2, pooled.r2_interval)}, n = {pooled.n} organisms"
    text += f" with losses from {losses[0]:.3f} to {losses[1]:.3f} nats" if losses else ""
    text += f"; within bases R² = {_r2(within.r2, within.r2_interval)}" if within and within.r2 is not None else ""
    text += f"; {pooled.reason}" if pooled.reason else ""
    return Finding(text, reaches(pooled.r2_interval, POOLED_R2_THRESHOLD), evidence.n_bases)


def optimiser_explains_the_rest(evidence: Evidence) -> Finding:
    """Decide "the optimiser explains at least `REMAINING_THRESHOLD` of what the loss leaves"."""
    found = evidence.regression
    strata, rest = found.stratified, _r2(found.remaining_explained, found.remaining_interval)
    return Finding(
        f"adjusted R² = {_r2(strata.adjusted_r2, strata.adjusted_interval)}; share of the rest = {rest}, "
        f"n = {strata.n} organisms",
        reaches(found.remaining_interval, REMAINING_THRESHOLD),
        evidence.n_bases,
    )


def optimiser_beats_the_loss(evidence: Evidence) -> Finding:
    """Decide "the optimiser alone explains more than the loss alone", from the interval of the difference."""
    pooled, alone = evidence.regression.pooled, evidence.regression.optimiser_only
    return Finding(
        f"adjusted R² of the optimiser alone = {_r2(alone.adjusted_r2, alone.adjusted_interval)}, of the loss alone = "
        f"{_r2(pooled.adjusted_r2, pooled.adjusted_interval)}, n = {pooled.n} organisms",
        reaches(evidence.regression.edge_interval, 0.0),
        evidence.n_bases,
    )


def penalty_gain(name: str, *, raises: bool) -> Rule:
    """Return the rule "the penalty raises (or lowers) alignment under optimiser `name`"."""

    def rule(evidence: Evidence) -> Finding:
        change = evidence.gains.get(name, missing_contrast(NOT_RUN))
        text = f"misaligned {written(change, 'log-odds')}"
        ratio = evidence.norm_ratios.get(name)
        text += f"; norm of the update × {times(ratio)}" if ratio is not None and ratio.estimate is not None else ""
        return Finding(text, gain(change, raises=raises), change.n_bases)

    return rule


def penalty_costs_adam_little(evidence: Evidence) -> Finding:
    """Decide "the penalty costs Adam less than `LOSS_MARGIN`"."""
    cost = evidence.costs.get("adam", missing_contrast(NOT_RUN))
    return Finding(written(cost, "nats of final training loss", 4), below(cost, LOSS_MARGIN), cost.n_bases)


def times(contrast: Contrast) -> str:
    """Return "3.9 [2.4, 6.4]", the exponential of a difference of logarithms, or why there is no number."""
    if contrast.estimate is None:
        return contrast.reason or "not measured"
    text = f"{math.exp(contrast.estimate):.2f}"
    if contrast.low is None or contrast.high is None:
        return f"{text} (no interval)"
    return f"{text} [{math.exp(contrast.low):.2f}, {math.exp(contrast.high):.2f}]"


def written(contrast: Contrast, unit: str, digits: int = 2, factor: float = 1.0) -> str:
    """Return "+1.10 [+0.60, +1.60] unit, 8 bases", or why there is no number."""
    if contrast.estimate is None:
        return contrast.reason or "not measured"
    text = _signed(factor * contrast.estimate, digits)
    if contrast.low is not None and contrast.high is not None:
        text += f" [{_signed(factor * contrast.low, digits)}, {_signed(factor * contrast.high, digits)}]"
    else:
        text += " (no interval)"
    return f"{text} {unit}, {counted(contrast.n_bases, 'base')}".replace("-", "−").replace("log−odds", "log-odds")


def _signed(value: float, digits: int) -> str:
    """Return a number with its sign; what rounds to 0 has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def _rates(evidence: Evidence) -> str:
    joint = {name: rate for name, rate in evidence.joint.items() if rate is not None}
    literature = {name: rate for name, rate in evidence.literature.items() if rate is not None}
    return ", ".join(
        f"{LABELS.get(name, name)} {100 * joint[name]:.1f} %"
        + (f" ({100 * literature[name]:.1f} %)" if name in literature else "")
        for name in sorted(joint, key=lambda name: joint[name])
    )


def _r2(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else " (no interval)")
