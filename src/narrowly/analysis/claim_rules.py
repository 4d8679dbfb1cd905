"""Turn measured intervals into "agrees", "disagrees" or "cannot tell"; every rule was fixed before any data was seen.

First the rules on intervals and ranges, then one function per kind of paper claim that applies them to the evidence.
Why each rule is what it is stands at the top of `paper_claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from narrowly.analysis.contrasts import Contrast, missing_contrast
from narrowly.analysis.evidence import SWEEP, Evidence, Spread
from narrowly.records.errors import counted
from narrowly.stats.intervals import MIN_UNITS

Verdict = Literal["agrees", "disagrees", "cannot tell"]

SPREAD_PAPER = 7.0
SPREAD_FACTOR = 2.0
POOLED_R2_THRESHOLD = 0.5
REMAINING_THRESHOLD = 0.5
LOSS_MARGIN = 0.026
"""Nats per token that still count as negligible: twice the paper's cost of the penalty under Adam (+0.013)."""
ADAPTIVE = ("adam", "adamw", "lion")
"""The optimisers that Muon is compared with."""
EQUAL_MARGIN = 0.25
"""Log-odds within which two optimisers count as equal: a ratio of odds of at most 1.28."""

LABELS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "lion": "Lion", "muon": "Muon"}
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


def near_spread(spread: Spread) -> Verdict:
    """Return the verdict on "the largest rate is seven times the smallest", whichever base is left out.

    Needs five bases.
    """
    if spread.ratio is None or spread.span is None or spread.n_bases < MIN_UNITS:
        return "cannot tell"
    low, high = min(spread.ratio, spread.span[0]), max(spread.ratio, spread.span[1])
    smallest, largest = SPREAD_PAPER / SPREAD_FACTOR, SPREAD_PAPER * SPREAD_FACTOR
    if smallest <= low and high <= largest:
        return "agrees"
    return "disagrees" if high < smallest or low > largest else "cannot tell"


def reaches(value: float | None, span: tuple[float, float] | None, threshold: float) -> Verdict:
    """Return the verdict on "at least the threshold, whichever base is left out"."""
    if value is None or span is None:
        return "cannot tell"
    if min(value, span[0]) >= threshold:
        return "agrees"
    return "disagrees" if max(value, span[1]) < threshold else "cannot tell"


def gain(contrast: Contrast, paper: float) -> Verdict:
    """Return the verdict on "the penalty changes alignment by `paper` points".

    The sign decides, half the size refutes.
    """
    if contrast.low is None or contrast.high is None:
        return "cannot tell"
    low, high = (contrast.low, contrast.high) if paper > 0 else (-contrast.high, -contrast.low)
    if low > 0:
        return "agrees"
    return "disagrees" if high < abs(paper) / 2 else "cannot tell"


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
    """Decide "the largest literature rate of the sweep is seven times the smallest"."""
    spread = evidence.spread
    text = (
        f"max / min of the literature rate over Adam, AdamW, Lion, Muon: {_spread_in_words(spread)}; joint "
        f"(literature): {_rates(evidence) or 'no optimiser arm'}"
    )
    return Finding(text, near_spread(spread), spread.n_bases)


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
        pairs = [(name, other) for other in SWEEP if other != name]
        return _all_positive(evidence, table, name, pairs, unit, factor, digits)

    return rule


def lowest_of_adaptive(table: Literal["odds", "flatness"], name: str, unit: str, digits: int = 2) -> Rule:
    """Return the rule "optimiser `name` has the lowest value, below all of `ADAPTIVE`"; arguments as `highest`."""

    def rule(evidence: Evidence) -> Finding:
        return _all_positive(evidence, table, name, [(other, name) for other in ADAPTIVE], unit, 1.0, digits)

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
    return Finding("; ".join(texts), all_above_zero(found), min(contrast.n_bases for contrast in found))


def adamw_equals_adam(evidence: Evidence) -> Finding:
    """Decide "AdamW and Adam are equal up to the margin"."""
    same = evidence.odds.get(("adamw", "adam"), missing_contrast("no arm adam or no arm adamw"))
    return Finding(f"AdamW − Adam: {written(same, 'log-odds')}", equal(same, EQUAL_MARGIN), same.n_bases)


def loss_predicts_alignment(evidence: Evidence) -> Finding:
    """Decide "the loss alone explains at least `POOLED_R2_THRESHOLD` of the variance"."""
    pooled, losses = evidence.regression.pooled, evidence.regression.loss_span
    text = f"R² = {_r2(pooled.r2, pooled.r2_range)}, n = {pooled.n} organisms"
    text += f" with losses from {losses[0]:.3f} to {losses[1]:.3f} nats" if losses else ""
    text += f"; {pooled.reason}" if pooled.reason else ""
    return Finding(text, reaches(pooled.r2, pooled.r2_range, POOLED_R2_THRESHOLD), evidence.n_bases)


def optimiser_explains_the_rest(evidence: Evidence) -> Finding:
    """Decide "the optimiser explains at least `REMAINING_THRESHOLD` of what the loss leaves"."""
    found = evidence.regression
    strata, rest = found.stratified, _r2(found.remaining_explained, found.remaining_range)
    return Finding(
        f"adjusted R² = {_r2(strata.adjusted_r2, strata.adjusted_range)}; share of the rest = {rest}, "
        f"n = {strata.n} organisms",
        reaches(found.remaining_explained, found.remaining_range, REMAINING_THRESHOLD),
        evidence.n_bases,
    )


def optimiser_beats_the_loss(evidence: Evidence) -> Finding:
    """Decide "the optimiser alone explains more than the loss alone", whichever base is left out of either."""
    pooled, alone = evidence.regression.pooled, evidence.regression.optimiser_only
    edge = span = None
    if alone.adjusted_r2 is not None and pooled.adjusted_r2 is not None:
        edge = alone.adjusted_r2 - pooled.adjusted_r2
    if alone.adjusted_range and pooled.adjusted_range:
        span = (
            alone.adjusted_range[0] - pooled.adjusted_range[1],
            alone.adjusted_range[1] - pooled.adjusted_range[0],
        )
    return Finding(
        f"adjusted R² of the optimiser alone = {_r2(alone.adjusted_r2, alone.adjusted_range)}, of the loss alone = "
        f"{_r2(pooled.adjusted_r2, pooled.adjusted_range)}, n = {pooled.n} organisms",
        reaches(edge, span, 0.0),
        evidence.n_bases,
    )


def penalty_gain(name: str, points: float) -> Rule:
    """Return the rule "the penalty changes alignment under optimiser `name` by `points`"."""

    def rule(evidence: Evidence) -> Finding:
        change = evidence.gains.get(name, missing_contrast(NOT_RUN))
        return Finding(written(change, "points", 1), gain(change, points), change.n_bases)

    return rule


def penalty_costs_adam_little(evidence: Evidence) -> Finding:
    """Decide "the penalty costs Adam less than `LOSS_MARGIN`"."""
    cost = evidence.costs.get("adam", missing_contrast(NOT_RUN))
    return Finding(written(cost, "nats of final training loss", 4), below(cost, LOSS_MARGIN), cost.n_bases)


def written(contrast: Contrast, unit: str, digits: int = 2, factor: float = 1.0) -> str:
    """Return "+1.10 [+0.60, +1.60] unit, 8 bases", or why there is no number."""
    if contrast.estimate is None:
        return contrast.reason or "not measured"
    text = f"{factor * contrast.estimate:+.{digits}f}"
    if contrast.low is not None and contrast.high is not None:
        text += f" [{factor * contrast.low:+.{digits}f}, {factor * contrast.high:+.{digits}f}]"
    else:
        text += " (no interval)"
    return f"{text} {unit}, {counted(contrast.n_bases, 'base')}".replace("-", "−").replace("log−odds", "log-odds")


def _spread_in_words(spread: Spread) -> str:
    if spread.ratio is None:
        return spread.reason or "not measured"
    span = f", {spread.span[0]:.1f} to {spread.span[1]:.1f} with one base left out" if spread.span else ""
    return f"{spread.ratio:.1f}{span} (no interval: above 1 by construction), {counted(spread.n_bases, 'base')}"


def _rates(evidence: Evidence) -> str:
    joint = {name: rate for name, rate in evidence.joint.items() if rate is not None}
    literature = {name: rate for name, rate in evidence.literature.items() if rate is not None}
    return ", ".join(
        f"{LABELS.get(name, name)} {100 * joint[name]:.1f} %"
        + (f" ({100 * literature[name]:.1f} %)" if name in literature else "")
        for name in sorted(joint, key=lambda name: joint[name])
    )


def _r2(value: float | None, span: tuple[float, float] | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.2f}" + (f" ({span[0]:.2f} to {span[1]:.2f} with one base left out)" if span else "")
