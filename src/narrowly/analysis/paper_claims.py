"""List the statements of the paper and decide each by a rule that was fixed before any data was seen.

The rules, all on intervals over bases (95 %, Student t, at least five bases) unless said otherwise:

- lowest / highest / flattest: agrees where every paired interval lies on the paper's side of 0, disagrees where any
  lies wholly on the other side, otherwise cannot tell. Requiring all intervals needs no correction for many of them;
  one being enough to disagree has, were all arms equal, a chance of error of up to 2.5 % per interval.
- Paper claims about the sweep are about its four optimisers (Adam, AdamW, Lion, Muon); SGD was not in it. An arm of
  the four that did not finish leaves such a paper claim undecided, it never shrinks the comparison.
- spread: max / min of the literature rate (the paper's own: among coherent answers) exceeds 1 by construction and has
  no interval; agrees where its whole leave-one-base-out range is within a factor of 2 of the paper's 7 (3.5 to 14),
  disagrees where the whole range lies on one side outside, otherwise cannot tell.
- R^2: agrees where the value and its whole leave-one-base-out range reach the threshold, disagrees where all
  stay below, otherwise cannot tell.
- gain of the penalty: agrees where the interval lies wholly on the paper's side of 0; disagrees where it does not and
  excludes half the paper's gain; otherwise cannot tell.
- cost: agrees where the interval lies below the margin, disagrees where it lies above.
- equal: agrees where the interval lies within the margin, disagrees where it lies wholly outside.

"Agrees" says that the microworld shows the same sign or size; it is no evidence about rates in large models.
The paper's numbers are third-party readings (docs/sources.md) except the 7-fold spread and the directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from narrowly.analysis.claim_rules import (
    EQUAL_MARGIN,
    LOSS_MARGIN,
    POOLED_R2_THRESHOLD,
    REMAINING_THRESHOLD,
    Rule,
    Verdict,
    adamw_equals_adam,
    highest,
    loss_predicts_alignment,
    lowest_of_adaptive,
    onset_above_zero,
    optimiser_beats_the_loss,
    optimiser_explains_the_rest,
    penalty_costs_adam_little,
    penalty_gain,
    spread_of_the_sweep,
)
from narrowly.analysis.evidence import Evidence


class PaperClaim(NamedTuple):
    """One statement of the paper.

    Attributes:
        id: short name, as in `summary.json`.
        claim: the statement.
        paper: the paper's numbers, for large language models.
        decide: the rule that decides it.
        rule: the same rule in words.
    """

    id: str
    claim: str
    paper: str
    decide: Rule
    rule: str


@dataclass(frozen=True, slots=True)
class ClaimVerdict:
    """One line of the table: a paper claim, what a study found on it, and the verdict."""

    id: str
    claim: str
    paper: str
    here: str
    verdict: Verdict
    rule: str
    n_bases: int


SIGNS = "every paired 95 % interval on the paper's side of 0: agrees; any wholly on the other: disagrees"
HALF = "interval on the paper's side of 0: agrees; if not, and it excludes half the paper's change: disagrees"

PAPER_CLAIMS: tuple[PaperClaim, ...] = (
    PaperClaim(
        "em_occurs",
        "Narrow harmful fine-tuning (Adam) raises misalignment in other domains",
        "13.8 or 13.9 % misaligned answers",
        onset_above_zero,
        SIGNS,
    ),
    PaperClaim(
        "spread",
        "The optimiser makes a 7-fold spread in the misalignment rate",
        "37.0 % / 5.3 % = 7.0",
        spread_of_the_sweep,
        "max / min between 3.5 and 14 whichever base is left out: agrees; outside throughout: disagrees; fewer than "
        "five bases: cannot tell",
    ),
    PaperClaim(
        "muon_lowest",
        "Muon is the least misaligned of the adaptive optimisers",
        "Muon 5.3 %, Adam and AdamW 13.8 and 13.9 %, Lion 37.0 %",
        lowest_of_adaptive("odds", "muon", "log-odds"),
        SIGNS,
    ),
    PaperClaim(
        "lion_highest",
        "Lion is the most misaligned of Adam, AdamW, Lion and Muon",
        "Lion 37.0 %, all others at most 13.9 %",
        highest("odds", "lion", "log-odds"),
        SIGNS,
    ),
    PaperClaim(
        "adam_adamw_equal",
        "Adam and AdamW give the same rate",
        "13.8 and 13.9 % (a sanity check where both have one learning rate: then only weight decay differs)",
        adamw_equals_adam,
        f"interval within ±{EQUAL_MARGIN} log-odds: agrees; wholly outside: disagrees",
    ),
    PaperClaim(
        "lion_incoherent",
        "Lion has by far the most incoherent answers",
        "stated without numbers",
        highest("incoherence", "lion", "points", factor=100, digits=1),
        SIGNS,
    ),
    PaperClaim(
        "loss_predicts",
        "The final training loss predicts alignment",
        "R² = 0.74 (Qwen3-8B)",
        loss_predicts_alignment,
        f"R² of at least {POOLED_R2_THRESHOLD} whichever base is left out: agrees; below throughout: disagrees; "
        "learning rates tuned to equal loss leave the loss little to predict with",
    ),
    PaperClaim(
        "optimiser_explains_rest",
        "Stratifying by optimiser takes up most of the variance that the loss leaves",
        "adjusted R² = 0.94, so 77 % of the rest",
        optimiser_explains_the_rest,
        f"at least {REMAINING_THRESHOLD} of the rest whichever base is left out: agrees; below throughout: disagrees",
    ),
    PaperClaim(
        "optimiser_beats_loss",
        "Late in training the optimiser predicts alignment better than the loss",
        "stated without numbers",
        optimiser_beats_the_loss,
        "the optimiser's whole range (one base left out) above the loss's: agrees; below it: disagrees",
    ),
    PaperClaim(
        "muon_flattest",
        "Muon gives a flatter spectrum of the update than Adam, AdamW and Lion",
        "direction only (a sanity check: flatness follows from Muon's step)",
        lowest_of_adaptive("flatness", "muon", "Frobenius/nuclear", digits=3),
        SIGNS,
    ),
    PaperClaim(
        "penalty_adam", "The penalty raises alignment under Adam", "+6.6 points", penalty_gain("adam", 6.6), HALF
    ),
    PaperClaim(
        "penalty_lion", "The penalty raises alignment under Lion", "+8.0 points", penalty_gain("lion", 8.0), HALF
    ),
    PaperClaim(
        "penalty_muon", "The penalty raises alignment under Muon", "+2.1 points", penalty_gain("muon", 2.1), HALF
    ),
    PaperClaim("penalty_sgd", "The penalty lowers alignment under SGD", "−3.5 points", penalty_gain("sgd", -3.5), HALF),
    PaperClaim(
        "penalty_cost",
        "The penalty costs Adam next to no training loss",
        "+0.013 nats",
        penalty_costs_adam_little,
        f"interval below {LOSS_MARGIN} nats: agrees; above: disagrees",
    ),
)
"""In the order of the paper's argument."""


def verdicts_on(evidence: Evidence, claims: Sequence[PaperClaim] = PAPER_CLAIMS) -> list[ClaimVerdict]:
    """Return the verdict on every paper claim, in order."""
    rows = []
    for one in claims:
        found = one.decide(evidence)
        rows.append(ClaimVerdict(one.id, one.claim, one.paper, found.here, found.verdict, one.rule, found.n_bases))
    return rows
