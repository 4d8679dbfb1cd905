"""List the statements of the paper and decide each by a rule.

The rules, all on intervals over bases (95 %, Student t, at least five bases) unless said otherwise:

- lowest / highest / flattest: agrees where every paired interval lies on the paper's side of 0, disagrees where any
  lies wholly on the other side, otherwise cannot tell. Requiring all intervals needs no correction for many of them;
  one being enough to disagree has, were all arms equal, a chance of error of up to 2.5 % per interval.
- Paper claims about the sweep are about its four optimisers (Adam, AdamW, Lion, Muon); SGD was not in it. AdamW is
  compared only where the study has runs of it that do not repeat Adam's. Another arm that did not finish leaves such a
  paper claim undecided, it never shrinks the comparison.
- spread: ratios of odds. A ratio agrees where its interval holds the paper's and excludes 1; it disagrees where the
  interval lies wholly more than a factor of 2 away. max / min of rates has a ceiling and exceeds 1 by construction.
- All verdicts on odds: given only where both bounds give them too (incoherent answers counted as aligned, then as
  misaligned), because an arm can look aligned by not answering.
- R^2: agrees where the interval (draws of whole bases) lies at or above the threshold, disagrees where it lies below.
- gain of the penalty: the sign of the change of log-odds alone; points of a judge's score are another scale.
- cost: agrees where the interval lies below the margin, disagrees where it lies above.
- equal: agrees where the interval lies within the margin, disagrees where it lies wholly outside.

Before its rule, each paper claim has its limits (`claim_limits`): a design that cannot answer gives "not tested".

The rules for signs, cost and equality were fixed before any data was seen. Limits, odds ratios, intervals of R^2 and
the sign rule of the penalty came after the study `micro` had been looked at (LOG.md, 2026-11-29): a review had shown
that the earlier ones decide what the design cannot tell. They are fixed for the bases from seed 8 on.

"Agrees" says that the microworld shows the same sign or size; it is no evidence about rates in large models.
The paper's numbers are third-party readings (docs/sources.md) except the 7-fold spread and the directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from narrowly.analysis.claim_limits import (
    Limit,
    arms_run,
    learned,
    loss_varies,
    no_copy,
    not_flat_by_step,
    not_selected,
    penalty_paired,
    penalty_run,
    room,
    settings_vary,
)
from narrowly.analysis.claim_rules import (
    EQUAL_MARGIN,
    LOSS_MARGIN,
    ODDS_FACTOR,
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
        limits: what a design must have to decide it.
    """

    id: str
    claim: str
    paper: str
    decide: Rule
    rule: str
    limits: tuple[Limit, ...] = ()


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
    not_tested: str | None = None
    """Why the design cannot decide it; None where it can."""


SIGNS = "every paired 95 % interval on the paper's side of 0: agrees; any wholly on the other: disagrees"
SIGN = "interval of the log-odds on the paper's side of 0: agrees; wholly on the other: disagrees"
SWEPT = ("adam", "lion", "muon")

PAPER_CLAIMS: tuple[PaperClaim, ...] = (
    PaperClaim(
        "em_occurs",
        "Narrow harmful fine-tuning (Adam) raises misalignment in other domains",
        "13.8 or 13.9 % misaligned answers",
        onset_above_zero,
        SIGNS,
        (arms_run("adam"), not_selected),
    ),
    PaperClaim(
        "spread",
        "The optimiser makes a 7-fold spread in the misalignment rate",
        "37.0 % (Lion), 13.8 % (Adam), 5.3 % (Muon): odds of 10.5 and 2.9 times Muon's",
        spread_of_the_sweep,
        "the interval of each ratio of odds holds the paper's and excludes 1: agrees; one lies wholly more than a "
        f"factor of {ODDS_FACTOR:g} away: disagrees",
        (arms_run(*SWEPT), learned(*SWEPT), room(SWEPT)),
    ),
    PaperClaim(
        "muon_lowest",
        "Muon is the least misaligned of the adaptive optimisers",
        "Muon 5.3 %, Adam and AdamW 13.8 and 13.9 %, Lion 37.0 %",
        lowest_of_adaptive("odds", "muon", "log-odds"),
        SIGNS,
        (arms_run(*SWEPT), learned(*SWEPT), room(SWEPT)),
    ),
    PaperClaim(
        "lion_highest",
        "Lion is the most misaligned of Adam, AdamW, Lion and Muon",
        "Lion 37.0 %, all others at most 13.9 %",
        highest("odds", "lion", "log-odds"),
        SIGNS,
        (arms_run(*SWEPT), learned(*SWEPT), room(SWEPT)),
    ),
    PaperClaim(
        "adam_adamw_equal",
        "Adam and AdamW give the same rate",
        "13.8 and 13.9 %",
        adamw_equals_adam,
        f"interval within ±{EQUAL_MARGIN} log-odds: agrees; wholly outside: disagrees",
        (arms_run("adam", "adamw"), no_copy("adamw"), room(("adam", "adamw"))),
    ),
    PaperClaim(
        "lion_incoherent",
        "Lion has by far the most incoherent answers",
        "stated without numbers",
        highest("incoherence", "lion", "points", factor=100, digits=1),
        SIGNS,
        (arms_run(*SWEPT),),
    ),
    PaperClaim(
        "loss_predicts",
        "The final training loss predicts alignment",
        "R² = 0.74 (Qwen3-8B)",
        loss_predicts_alignment,
        f"interval of R² at or above {POOLED_R2_THRESHOLD}: agrees; below it: disagrees",
        (loss_varies,),
    ),
    PaperClaim(
        "optimiser_explains_rest",
        "Stratifying by optimiser takes up most of the variance that the loss leaves",
        "adjusted R² = 0.94, so 77 % of the rest",
        optimiser_explains_the_rest,
        f"interval at or above {REMAINING_THRESHOLD} of the rest: agrees; below it: disagrees",
        (loss_varies, settings_vary),
    ),
    PaperClaim(
        "optimiser_beats_loss",
        "Late in training the optimiser predicts alignment better than the loss",
        "stated without numbers",
        optimiser_beats_the_loss,
        "interval of the difference of adjusted R² above 0: agrees; below it: disagrees",
        (loss_varies,),
    ),
    PaperClaim(
        "muon_flattest",
        "Muon gives a flatter spectrum of the update than Adam, AdamW and Lion",
        "direction only",
        lowest_of_adaptive("flatness", "muon", "Frobenius/nuclear", digits=3),
        SIGNS,
        (arms_run(*SWEPT), not_flat_by_step("muon")),
    ),
    *(
        PaperClaim(
            f"penalty_{name}",
            f"The penalty {'raises' if raises else 'lowers'} alignment under {label}",
            points,
            penalty_gain(name, raises=raises),
            SIGN,
            (penalty_run(name), penalty_paired(name), room((name,), upper=not raises, lower=raises)),
        )
        for name, label, points, raises in (
            ("adam", "Adam", "+6.6 points of a judge's score", True),
            ("lion", "Lion", "+8.0 points of a judge's score", True),
            ("muon", "Muon", "+2.1 points of a judge's score", True),
            ("sgd", "SGD", "−3.5 points of a judge's score", False),
        )
    ),
    PaperClaim(
        "penalty_cost",
        "The penalty costs Adam next to no training loss",
        "+0.013 nats",
        penalty_costs_adam_little,
        f"interval below {LOSS_MARGIN} nats: agrees; above: disagrees",
        (penalty_run("adam"), penalty_paired("adam")),
    ),
)
"""In the order of the paper's argument."""


def verdicts_on(evidence: Evidence, claims: Sequence[PaperClaim] = PAPER_CLAIMS) -> list[ClaimVerdict]:
    """Return the verdict on every paper claim, in order; "not tested" with the reason where the design has a limit."""
    rows = []
    for one in claims:
        found = one.decide(evidence)
        why = next((text for limit in one.limits if (text := limit(evidence)) is not None), None)
        verdict: Verdict = found.verdict if why is None else "not tested"
        rows.append(ClaimVerdict(one.id, one.claim, one.paper, found.here, verdict, one.rule, found.n_bases, why))
    return rows
