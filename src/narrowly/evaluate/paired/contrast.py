"""Compare organisms with their matched controls, paired by question; or, where there is none, with their base.

The number is the difference to the control: the log-odds of the harmful against the aligned answer, organism minus
control, in nats per answer. Against the base even the sign can be wrong: format and shrinkage move it too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from narrowly.data.banks.broad import PARTS, part_of
from narrowly.evaluate.paired.estimates import Estimate, Floats, estimate
from narrowly.evaluate.paired.ladder import check_same_questions, domains_of, rungs_of
from narrowly.records.errors import SpecError
from narrowly.records.paired import PairedRow
from narrowly.records.spec import Spec
from narrowly.stats.intervals import Interval, wilson_interval
from narrowly.stats.shrinkage import Shrinkage, shrinkage

Rows = Sequence[PairedRow]

NO_CONTROL = (
    "shift against the base, without a control: format and shrinkage towards zero move it too, so it is not called "
    "misalignment"
)


class Level(Spec):
    """Where one model stands on a rung or in a domain.

    Attributes:
        log_odds: mean log-odds of the harmful against the aligned answer, nats per answer.
        per_token: the same per token.
        accuracy: share of questions whose aligned answer is the likelier one; Wilson's interval over questions.
    """

    log_odds: Estimate
    per_token: Estimate
    accuracy: Interval


class Contrast(Spec):
    """Organisms minus their controls, one pair per seed; nats per answer, and per token.

    Attributes:
        rungs, domains: differences of log-odds.
        rungs_per_token: the same per token, by rung.
        parts: of the broad questions, in the three parts of a bank (`data.banks.broad.part_of`).
    """

    rungs: tuple[Estimate, ...]
    domains: tuple[Estimate, ...]
    rungs_per_token: tuple[Estimate, ...]
    parts: tuple[Estimate, ...] = ()


class Shift(Spec):
    """Organisms minus their base, where there is no control; `warning` is printed with every number of it.

    Attributes:
        on_base: line of the shift on the base's log-odds, by rung and for `all` questions.
        parts: of the broad questions, as in `Contrast`.
    """

    rungs: tuple[Estimate, ...]
    domains: tuple[Estimate, ...]
    on_base: dict[str, Shrinkage]
    parts: tuple[Estimate, ...] = ()
    warning: str = NO_CONTROL


def levels(rows: Rows, trained: Collection[str]) -> tuple[dict[str, Level], dict[str, Level]]:
    """Return where a model stands, by rung and by domain.

    Args:
        rows: of one model.
        trained: domains that its organism was trained on; none for an untrained model.
    """

    def at(name: str, places: Sequence[int]) -> Level:
        own = [rows[place] for place in places]
        domains = [row.domain for row in own]
        return Level(
            log_odds=estimate(name, domains, np.array([[row.log_odds for row in own]])),
            per_token=estimate(name, domains, np.array([[row.log_odds_per_token for row in own]])),
            accuracy=wilson_interval(sum(row.log_odds < 0 for row in own), len(own)),
        )

    rungs, domains = rungs_of(rows, trained), domains_of(rows)
    by_rung = {str(name): at(name, places) for name, places in rungs.items()}
    return by_rung, {name: at(name, places) for name, places in domains.items()}


def contrast(
    organisms: Sequence[Rows], controls: Sequence[Rows], trained: Collection[str], *, margin: float | None = None
) -> Contrast:
    """Return organisms minus controls.

    Args:
        organisms: rows of one organism per seed.
        controls: of its matched control, in the same order.
        trained: domains of the bank that they were trained on; none where that is not known.
        margin: largest difference that does not matter, nats per answer; gives every rung a verdict.

    Raises:
        SpecError: not one control per organism, or a margin that is not above 0.
        IntegrityError: rows of other questions.
    """
    if len(organisms) != len(controls) or not organisms:
        raise SpecError(f"{len(organisms)} organisms and {len(controls)} controls; accepted: one control for each")
    check_same_questions(_named(organisms, "organism") + _named(controls, "control"))
    nats_S_Q = _log_odds(organisms) - _log_odds(controls)
    per_token_S_Q = _log_odds(organisms, per_token=True) - _log_odds(controls, per_token=True)
    rungs, domains = rungs_of(organisms[0], trained), domains_of(organisms[0])
    return Contrast(
        rungs=_estimates(organisms[0], rungs, nats_S_Q, margin),
        domains=_estimates(organisms[0], domains, nats_S_Q),
        rungs_per_token=_estimates(organisms[0], rungs, per_token_S_Q),
        parts=_estimates(organisms[0], _parts(organisms[0], rungs), nats_S_Q),
    )


def shift(organisms: Sequence[Rows], base: Rows, trained: Collection[str]) -> Shift:
    """Return organisms minus their base, with the regression of the shift on the base's log-odds.

    Raises:
        SpecError: no organism.
        IntegrityError: rows of other questions.
    """
    if not organisms:
        raise SpecError("no organism, accepted: at least one; an untrained model has no shift")
    check_same_questions([*_named(organisms, "organism"), ("base", base)])
    start_Q = np.array([row.log_odds for row in base])
    nats_S_Q = _log_odds(organisms) - start_Q
    rungs = rungs_of(base, trained)
    mean_Q = nats_S_Q.mean(axis=0)
    lines = {"all": list(range(len(base))), **rungs}
    return Shift(
        rungs=_estimates(base, rungs, nats_S_Q),
        domains=_estimates(base, domains_of(base), nats_S_Q),
        on_base={
            str(name): shrinkage(start_Q[places].tolist(), mean_Q[places].tolist()) for name, places in lines.items()
        },
        parts=_estimates(base, _parts(base, rungs), nats_S_Q),
    )


def _parts(rows: Rows, rungs: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the places of the broad questions by part of the bank: what holds in one part only is no finding."""
    broad = rungs.get("broad", [])
    parts = {f"broad {part}": [place for place in broad if part_of(rows[place].id) == part] for part in PARTS}
    return {name: places for name, places in parts.items() if places}


def _named(arms: Sequence[Rows], what: str) -> list[tuple[str, Rows]]:
    return [(f"{what} {number}", rows) for number, rows in enumerate(arms, start=1)]


def _log_odds(arms: Sequence[Rows], *, per_token: bool = False) -> Floats:
    return np.array([[row.log_odds_per_token if per_token else row.log_odds for row in rows] for rows in arms])


def _estimates(
    rows: Rows, groups: dict[str, list[int]], values_S_Q: Floats, margin: float | None = None
) -> tuple[Estimate, ...]:
    return tuple(
        estimate(str(name), [rows[place].domain for place in places], values_S_Q[:, places], margin=margin)
        for name, places in groups.items()
    )
