"""Say why a design cannot decide a paper claim; None where it can. The facts come from `design` and from the rates.

Range restriction, ceilings, tautologies, selection on the outcome, and arms that were not run: a verdict that such a
design cannot but give, or cannot give, is "not tested".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from narrowly.analysis.design import LEARNED_ODDS, NEEDED_SHARE, NEGLIGIBLE_DECAY, NO_ROOM
from narrowly.analysis.evidence import Evidence

Limit = Callable[[Evidence], str | None]
"""Why a claim is not tested, or None."""

LABELS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "lion": "Lion", "muon": "Muon"}


def arms_run(*names: str) -> Limit:
    """Return the limit "these optimisers have arms in the study"."""

    def limit(evidence: Evidence) -> str | None:
        absent = [LABELS[name] for name in names if name not in evidence.planned]
        return f"not run in this study: {', '.join(absent)}" if absent else None

    return limit


def learned(*names: str) -> Limit:
    """Return the limit "these optimisers have learned the trained topics"; one that was not measured there passes."""

    def limit(evidence: Evidence) -> str | None:
        for name in names:
            found = evidence.trained.get(name)
            if found is not None and found < math.log(LEARNED_ODDS):
                share = 100 / (1 + math.exp(-found))
                needed = 100 * LEARNED_ODDS / (1 + LEARNED_ODDS)
                return (
                    f"{LABELS[name]} has not learned its task: {share:.0f} % of aligned and misaligned answers on "
                    f"trained topics are misaligned; needed: {needed:.0f} %"
                )
        return None

    return limit


def penalty_run(name: str) -> Limit:
    """Return the limit "the optimiser has an arm with the penalty"."""

    def limit(evidence: Evidence) -> str | None:
        return None if name in evidence.gains else f"not run in this study: {LABELS[name]} with the penalty"

    return limit


def penalty_paired(name: str) -> Limit:
    """Return the limit "the runs with the penalty differ from those without in the penalty alone"."""

    def limit(evidence: Evidence) -> str | None:
        if name not in evidence.design.unpaired:
            return None
        return f"{LABELS[name]}'s runs with the penalty differ from those without in more than the penalty"

    return limit


def not_selected(evidence: Evidence) -> str | None:
    """Return the limit "the world was not chosen for this outcome"."""
    if not evidence.design.selected:
        return None
    return "the world was chosen so that emergent misalignment occurs under Adam"


def loss_varies(evidence: Evidence) -> str | None:
    """Return the limit "the losses of a base's runs differ enough to predict something"."""
    found = evidence.design.loss
    if found.within is None:
        return "no base has two finished runs whose losses could differ"
    if found.share is None:
        return "no training loss was logged, so that nothing says how far losses could differ"
    if found.share >= NEEDED_SHARE:
        return None
    return (
        f"range restriction: final losses of a base differ by {100 * found.share:.1f} % of the way that training goes "
        f"(ln of first over last loss {found.way:.2f}); needed: {100 * NEEDED_SHARE:.0f} %"
    )


def settings_vary(evidence: Evidence) -> str | None:
    """Return the limit "every optimiser ran at two settings or more on each base"."""
    if evidence.design.loss.settings >= 2:
        return None
    return "each optimiser ran at one setting on a base, so that within an optimiser only bases differ in loss"


def no_copy(name: str) -> Limit:
    """Return the limit "the optimiser's runs are not another one's again"."""

    def limit(evidence: Evidence) -> str | None:
        original = evidence.design.copies.get(name)
        if original is None:
            return None
        return (
            f"a tautology: {LABELS[name]} repeats {LABELS.get(original, original)}'s runs, its decay takes off less "
            f"than {100 * NEGLIGIBLE_DECAY:g} % of the weights"
        )

    return limit


def not_flat_by_step(name: str) -> Limit:
    """Return the limit "the optimiser's steps are not flat by construction"."""

    def limit(evidence: Evidence) -> str | None:
        if name not in evidence.design.flat_steps:
            return None
        return f"a tautology: {LABELS[name]} makes the spectrum of each of its steps flat"

    return limit


def room(names: Sequence[str], *, upper: bool = True, lower: bool = True) -> Limit:
    """Return the limit "the rates leave a difference room".

    Args:
        names: optimisers whose literature rates are compared.
        upper: whether rates near 1 leave none.
        lower: whether rates near 0 leave none.
    """

    def limit(evidence: Evidence) -> str | None:
        rates = [rate for name in names if (rate := evidence.literature.get(name)) is not None]
        if rates and upper and min(rates) > 1 - NO_ROOM:
            return f"a ceiling: all rates are above {100 * (1 - NO_ROOM):.0f} %"
        if rates and lower and max(rates) < NO_ROOM:
            return f"a floor: all rates are below {100 * NO_ROOM:.0f} %"
        return None

    return limit
