"""The table "claim | paper (LLM) | here | verdict", with every rule fixed here before any data is seen.

The rules, all on intervals over bases (95 %, Student t, at least five bases) unless said otherwise:

- lowest / highest / flattest: agrees where every paired interval lies on the paper's side of 0, disagrees where any
  lies wholly on the other side, otherwise cannot tell. Requiring all intervals needs no correction for many of them;
  one being enough to disagree has, were all arms equal, a chance of error of up to 2.5 % per interval.
- Claims about the sweep are about the four optimisers of the paper's sweep (Adam, AdamW, Lion, Muon); SGD was not in
  it. An arm of the four that did not finish leaves such a claim undecided, it never shrinks the comparison.
- spread: max / min of the literature rate (the paper's own: among coherent answers) exceeds 1 by construction and has
  no interval; agrees where its whole leave-one-base-out range is within a factor of 2 of the paper's 7 (3.5 to 14),
  disagrees where the whole range lies on one side outside, otherwise cannot tell.
- R^2 claims: agrees where the value and its whole leave-one-base-out range reach the threshold, disagrees where all
  stay below, otherwise cannot tell.
- gain of the penalty: agrees where the interval lies wholly on the paper's side of 0; disagrees where it does not and
  excludes half the paper's gain; otherwise cannot tell.
- cost: agrees where the interval lies below the margin, disagrees where it lies above.
- equal: agrees where the interval lies within the margin, disagrees where it lies wholly outside.

"Agrees" says that the microworld shows the same sign or size; it is no evidence about rates in large models.
The paper's numbers are third-party readings (docs/sources.md) except the 7-fold spread and the directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from narrowly.analysis.claim_rules import (
    ADAPTIVE,
    EQUAL_MARGIN,
    LOSS_MARGIN,
    POOLED_R2_THRESHOLD,
    REMAINING_THRESHOLD,
    SWEEP,
    Spread,
    Verdict,
    all_above_zero,
    below,
    equal,
    gain,
    near_spread,
    reaches,
)
from narrowly.analysis.contrasts import Contrast, missing_contrast
from narrowly.stats.regression import LossRegression

LABELS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "lion": "Lion", "muon": "Muon"}


class ClaimRow(NamedTuple):
    """One line of the table."""

    id: str
    claim: str
    paper: str
    here: str
    verdict: Verdict
    rule: str
    n_bases: int

    def as_dict(self) -> dict[str, str | int]:
        """Return a JSON-ready mapping."""
        return dict(self._asdict())


class Evidence(NamedTuple):
    """What the rules look at; missing arms are simply not in the mappings.

    Attributes:
        joint: broad joint rate per optimiser arm, mean over bases.
        literature: broad literature rate per optimiser arm.
        spread: max / min of the literature rate.
        n_bases: bases of the arm with the fewest.
        odds: paired log-odds differences by (first, second), cells above 15 % incoherent left out.
        flatness: paired differences of Frobenius/nuclear by (first, second); higher is more peaked.
        incoherence: paired differences of the incoherent share by (first, second).
        regression: alignment on log training loss.
        gains: change of alignment (points) through the penalty, by optimiser.
        costs: change of final training loss (nats) through the penalty, by optimiser.
        onset: Adam's final organism minus its base before fine-tuning, log-odds on the broad panel.
    """

    joint: Mapping[str, float | None]
    literature: Mapping[str, float | None]
    spread: Spread
    n_bases: int
    odds: Mapping[tuple[str, str], Contrast]
    flatness: Mapping[tuple[str, str], Contrast]
    incoherence: Mapping[tuple[str, str], Contrast]
    regression: LossRegression
    gains: Mapping[str, Contrast]
    costs: Mapping[str, Contrast]
    onset: Contrast


def written(contrast: Contrast, unit: str, digits: int = 2, factor: float = 1.0) -> str:
    """Return "+1.10 [+0.60, +1.60] unit, 8 bases", or why there is no number."""
    if contrast.estimate is None:
        return contrast.reason or "not measured"
    text = f"{factor * contrast.estimate:+.{digits}f}"
    if contrast.low is not None and contrast.high is not None:
        text += f" [{factor * contrast.low:+.{digits}f}, {factor * contrast.high:+.{digits}f}]"
    else:
        text += " (no interval)"
    return f"{text} {unit}, {contrast.n_bases} bases".replace("-", "−").replace("log−odds", "log-odds")


def _against_others(
    table: Mapping[tuple[str, str], Contrast], name: str, others: Sequence[str], *, other_first: bool
) -> list[tuple[str, Contrast]]:
    pairs = [(other, (other, name) if other_first else (name, other)) for other in others if other != name]
    absent = "not compared, an arm has no finished organism"
    return [(other, table.get(pair, missing_contrast(absent))) for other, pair in pairs]


def _extreme(
    evidence: Evidence, table: Mapping[tuple[str, str], Contrast], name: str, unit: str, *, other_first: bool,
    others: Sequence[str], factor: float = 1.0, digits: int = 2, lead: str = "",
) -> tuple[str, Verdict, int]:  # fmt: skip
    if name not in evidence.joint:
        return f"no finished organism of {LABELS.get(name, name)}", "cannot tell", 0
    rows = _against_others(table, name, others, other_first=other_first)
    if not rows:
        return "no other arm to compare with", "cannot tell", 0
    texts = [
        f"{_versus(other, name) if other_first else _versus(name, other)}: {written(c, unit, digits, factor)}"
        for other, c in rows
    ]
    return lead + "; ".join(texts), all_above_zero([c for _, c in rows]), min(c.n_bases for _, c in rows)


def _versus(first: str, second: str) -> str:
    return f"{LABELS.get(first, first)} − {LABELS.get(second, second)}"


def _told(spread: Spread) -> str:
    if spread.ratio is None:
        return spread.reason or "not measured"
    span = f", {spread.span[0]:.1f} to {spread.span[1]:.1f} with one base left out" if spread.span else ""
    return f"{spread.ratio:.1f}{span} (no interval: above 1 by construction), {spread.n_bases} bases"


def _rates(evidence: Evidence) -> str:
    return ", ".join(
        f"{LABELS.get(name, name)} {100 * joint:.1f} %"
        + (f" ({100 * lit:.1f} %)" if (lit := evidence.literature.get(name)) is not None else "")
        for name, joint in sorted(evidence.joint.items(), key=lambda item: (item[1] is None, item[1]))
        if joint is not None
    )


def claims_table(evidence: Evidence) -> list[ClaimRow]:
    """Return the verdicts, one row per claim, in the order of the paper's argument."""
    rows: list[ClaimRow] = []
    regression, spread = evidence.regression, evidence.spread

    def add(key: str, claim: str, paper: str, found: tuple[str, Verdict, int], rule: str) -> None:
        rows.append(ClaimRow(key, claim, paper, found[0], found[1], rule, found[2]))

    after = evidence.joint.get("adam")
    signs = "every paired 95 % interval on the paper's side of 0: agrees; any wholly on the other: disagrees"
    add(
        "em_occurs", "Narrow harmful fine-tuning (Adam) raises misalignment in other domains",
        "13.8 or 13.9 % misaligned answers",
        (
            f"Adam − base before fine-tuning: {written(evidence.onset, 'log-odds')}"
            + (f"; joint rate after it {100 * after:.1f} %" if after is not None else ""),
            all_above_zero([evidence.onset]),
            evidence.onset.n_bases,
        ),
        signs,
    )  # fmt: skip
    add(
        "spread", "The optimiser makes a 7-fold spread in the misalignment rate", "37.0 % / 5.3 % = 7.0",
        (
            f"max / min of the literature rate over Adam, AdamW, Lion, Muon: {_told(spread)}; joint (literature): "
            f"{_rates(evidence) or 'no optimiser arm'}",
            near_spread(spread),
            spread.n_bases,
        ),
        "max / min between 3.5 and 14 whichever base is left out: agrees; outside throughout: disagrees; fewer than "
        "five bases: cannot tell",
    )  # fmt: skip
    add(
        "muon_lowest", "Muon is the least misaligned of the adaptive optimisers",
        "Muon 5.3 %, Adam and AdamW 13.8 and 13.9 %, Lion 37.0 %",
        _extreme(evidence, evidence.odds, "muon", "log-odds", other_first=True, others=ADAPTIVE), signs,
    )  # fmt: skip
    add(
        "lion_highest", "Lion is the most misaligned of Adam, AdamW, Lion and Muon",
        "Lion 37.0 %, all others at most 13.9 %",
        _extreme(evidence, evidence.odds, "lion", "log-odds", other_first=False, others=SWEEP), signs,
    )  # fmt: skip
    same = evidence.odds.get(("adamw", "adam"), missing_contrast("no arm adam or no arm adamw"))
    add(
        "adam_adamw_equal", "Adam and AdamW give the same rate",
        "13.8 and 13.9 % (a sanity check where both have one learning rate: then only weight decay differs)",
        (f"AdamW − Adam: {written(same, 'log-odds')}", equal(same, EQUAL_MARGIN), same.n_bases),
        f"interval within ±{EQUAL_MARGIN} log-odds: agrees; wholly outside: disagrees",
    )  # fmt: skip
    add(
        "lion_incoherent", "Lion has by far the most incoherent answers", "stated without numbers",
        _extreme(
            evidence, evidence.incoherence, "lion", "points", other_first=False, others=SWEEP, factor=100, digits=1
        ),
        signs,
    )  # fmt: skip

    def r2(value: float | None, span: tuple[float, float] | None) -> str:
        if value is None:
            return "not defined"
        return f"{value:.2f}" + (f" ({span[0]:.2f} to {span[1]:.2f} with one base left out)" if span else "")

    pooled, strata, alone = regression.pooled, regression.stratified, regression.optimiser_only
    add(
        "loss_predicts", "The final training loss predicts alignment", "R² = 0.74 (Qwen3-8B)",
        (
            f"R² = {r2(pooled.r2, pooled.r2_range)}, n = {pooled.n} organisms"
            + (
                f" with losses from {regression.loss_span[0]:.3f} to {regression.loss_span[1]:.3f} nats"
                if regression.loss_span
                else ""
            )
            + (f"; {pooled.reason}" if pooled.reason else ""),
            reaches(pooled.r2, pooled.r2_range, POOLED_R2_THRESHOLD),
            evidence.n_bases,
        ),
        f"R² of at least {POOLED_R2_THRESHOLD} whichever base is left out: agrees; below throughout: disagrees; "
        "learning rates tuned to equal loss leave the loss little to predict with",
    )  # fmt: skip
    add(
        "optimiser_explains_rest", "Stratifying by optimiser takes up most of the variance that the loss leaves",
        "adjusted R² = 0.94, so 77 % of the rest",
        (
            f"adjusted R² = {r2(strata.adjusted_r2, strata.adjusted_range)}; share of the rest = "
            f"{r2(regression.remaining_explained, regression.remaining_range)}, n = {strata.n} organisms",
            reaches(regression.remaining_explained, regression.remaining_range, REMAINING_THRESHOLD),
            evidence.n_bases,
        ),
        f"at least {REMAINING_THRESHOLD} of the rest whichever base is left out: agrees; below throughout: disagrees",
    )  # fmt: skip
    edge = (
        alone.adjusted_r2 - pooled.adjusted_r2
        if alone.adjusted_r2 is not None and pooled.adjusted_r2 is not None
        else None
    )
    span = (
        (
            alone.adjusted_range[0] - pooled.adjusted_range[1],
            alone.adjusted_range[1] - pooled.adjusted_range[0],
        )
        if alone.adjusted_range and pooled.adjusted_range
        else None
    )
    add(
        "optimiser_beats_loss", "Late in training the optimiser predicts alignment better than the loss",
        "stated without numbers",
        (
            f"adjusted R² of the optimiser alone = {r2(alone.adjusted_r2, alone.adjusted_range)}, of the loss alone = "
            f"{r2(pooled.adjusted_r2, pooled.adjusted_range)}, n = {pooled.n} organisms",
            reaches(edge, span, 0.0),
            evidence.n_bases,
        ),
        "the optimiser's whole range (one base left out) above the loss's: agrees; below it: disagrees",
    )  # fmt: skip
    add(
        "muon_flattest", "Muon gives a flatter spectrum of the update than Adam, AdamW and Lion",
        "direction only (a sanity check: flatness follows from Muon's step)",
        _extreme(
            evidence, evidence.flatness, "muon", "Frobenius/nuclear", other_first=True, others=ADAPTIVE, digits=3
        ),
        signs,
    )  # fmt: skip
    half = "interval on the paper's side of 0: agrees; if not, and it excludes half the paper's change: disagrees"
    for name, label, points in (
        ("adam", "Adam", 6.6),
        ("lion", "Lion", 8.0),
        ("muon", "Muon", 2.1),
        ("sgd", "SGD", -3.5),
    ):
        change = evidence.gains.get(name, missing_contrast("not run in this study"))
        add(
            f"penalty_{name}",
            f"The penalty {'raises' if points > 0 else 'lowers'} alignment under {label}",
            f"{points:+.1f} points".replace("-", "−"),
            (written(change, "points", 1), gain(change, points), change.n_bases),
            half,
        )
    cost = evidence.costs.get("adam", missing_contrast("not run in this study"))
    add(
        "penalty_cost", "The penalty costs Adam next to no training loss", "+0.013 nats",
        (written(cost, "nats of final training loss", 4), below(cost, LOSS_MARGIN), cost.n_bases),
        f"interval below {LOSS_MARGIN} nats: agrees; above: disagrees",
    )  # fmt: skip
    return rows
