"""Measure how well the training loss predicts alignment, alone and within optimisers (docs/sources.md).

Ordinary least squares of the alignment score (0 to 100, broad panel) on the natural logarithm of the final loss, one
point per final organism. Three nested questions: the loss alone (`pooled`), a line of its own per optimiser
(`stratified`), and the optimiser alone without the loss (`optimiser_only`). A fourth fit is the loss alone within bases
(`within`): both sides are taken from their base's mean. Organisms of one base are not independent, so each R^2 has a
percentile interval over draws of whole bases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from narrowly.records.errors import SpecError, counted
from narrowly.stats.intervals import MIN_UNITS

DRAWS = 500
"""Draws of the bootstrap over bases."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One least-squares fit.

    Attributes:
        r2: share of the variance explained, in [0, 1]; None with a reason where it is not defined.
        adjusted_r2: 1 - (1 - r2) (n - 1) / (n - parameters); None where n <= parameters.
        n: number of organisms.
        parameters: number of fitted coefficients, intercepts included.
        reason: why something is None.
        r2_interval: middle 95 % of r2 over draws of whole bases; None with fewer than `MIN_UNITS` bases.
        adjusted_interval: the same for adjusted_r2.
    """

    r2: float | None
    adjusted_r2: float | None
    n: int
    parameters: int
    reason: str | None = None
    r2_interval: tuple[float, float] | None = None
    adjusted_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class LossRegression:
    """The fits, the pooled line, and the smallest and largest loss (a narrow span predicts little).

    Attributes:
        pooled: loss alone.
        stratified: a line per optimiser.
        optimiser_only: optimiser without loss.
        slope, intercept: of the pooled line, response units and those per unit of ln(loss).
        remaining_explained: share of what the loss leaves that the optimiser takes up.
        remaining_interval: its middle 95 % over draws of whole bases.
        loss_span: smallest and largest loss, nats.
        within: loss alone, within bases.
        edge_interval: middle 95 % of adjusted R^2 of the optimiser alone minus that of the loss alone.
    """

    pooled: Fit
    stratified: Fit
    optimiser_only: Fit
    slope: float | None
    intercept: float | None
    remaining_explained: float | None
    remaining_interval: tuple[float, float] | None = None
    loss_span: tuple[float, float] | None = None
    within: Fit | None = None
    edge_interval: tuple[float, float] | None = None


def fit(design: np.ndarray, response: np.ndarray) -> Fit:
    """Return R^2 and adjusted R^2 of an ordinary least-squares fit (centred total sum of squares).

    Args:
        design: n x p matrix whose columns span the constant.
        response: n values.
    """
    n = int(response.shape[0])
    if n < 3:
        return Fit(None, None, n, 0, f"{counted(n, 'organism')} with loss and alignment; a fit needs at least 3")
    coefficients, _, rank, _ = np.linalg.lstsq(design, response, rcond=None)
    rank = int(rank)
    total = float(np.sum((response - response.mean()) ** 2))
    if total <= 1e-12 * max(1.0, float(np.sum(response**2))):
        return Fit(None, None, n, rank, "alignment does not vary")
    residual = float(np.sum((response - design @ coefficients) ** 2))
    r2 = 1.0 - residual / total
    if n <= rank:
        return Fit(r2, None, n, rank, f"{counted(n, 'organism')} for {rank} coefficients: adjusted R^2 is not defined")
    return Fit(r2, 1.0 - (1.0 - r2) * (n - 1) / (n - rank), n, rank)


def _designs(x: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    member = np.stack([groups == name for name in sorted(set(groups.tolist()))], axis=1).astype(float)
    # Centring ln(loss) changes no fit and keeps the columns of the stratified design well conditioned.
    centred = (x - x.mean())[:, None]
    return {
        "pooled": np.concatenate([np.ones_like(centred), centred], axis=1),
        "stratified": np.concatenate([member, member * centred], axis=1),
        "optimiser_only": member,
    }


def _remaining(pooled: Fit, stratified: Fit) -> float | None:
    """Share of the adjusted variance left by the loss that the optimiser takes up; paper: (.94 - .74) / .26 = .77."""
    if pooled.adjusted_r2 is None or stratified.adjusted_r2 is None or pooled.adjusted_r2 >= 1.0:
        return None
    return (stratified.adjusted_r2 - pooled.adjusted_r2) / (1.0 - pooled.adjusted_r2)


def _middle(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Return the middle 95 % of draws; None where more than one draw in twenty has no value."""
    found = [value for value in values if value is not None]
    if not values or len(found) < 0.95 * len(values):
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _fits(x: np.ndarray, y: np.ndarray, groups: np.ndarray, units: np.ndarray) -> dict[str, Fit]:
    found = {name: fit(design, y) for name, design in _designs(x, groups).items()}
    names = np.unique(units, return_inverse=True)[1]
    counts = np.bincount(names)
    inside_x, inside_y = (values - (np.bincount(names, values) / counts)[names] for values in (x, y))
    found["within"] = fit(np.stack([np.ones_like(x), inside_x], axis=1), inside_y)
    return found


def _edge(fits: dict[str, Fit]) -> float | None:
    one, other = fits["optimiser_only"].adjusted_r2, fits["pooled"].adjusted_r2
    return None if one is None or other is None else one - other


def _drawn(x: np.ndarray, y: np.ndarray, groups: np.ndarray, units: np.ndarray) -> list[dict[str, Fit]]:
    """Return the fits of `DRAWS` draws of whole bases, with replacement; none with fewer than `MIN_UNITS` bases."""
    places = [np.flatnonzero(units == unit) for unit in sorted(set(units.tolist()))]
    if len(places) < MIN_UNITS:
        return []
    random, draws = np.random.default_rng(0), []
    for _ in range(DRAWS):
        chosen = [places[one] for one in random.integers(len(places), size=len(places))]
        rows = np.concatenate(chosen)
        copies = np.repeat(np.arange(len(chosen)), [len(one) for one in chosen])
        draws.append(_fits(x[rows], y[rows], groups[rows], copies))
    return draws


def alignment_on_loss(
    loss: Sequence[float | None],
    alignment: Sequence[float | None],
    optimiser: Sequence[str],
    base: Sequence[str],
) -> LossRegression:
    """Regress alignment on ln(loss), pooled and stratified by optimiser.

    Args:
        loss: final training loss (or excess loss) in nats per organism; rows that are not above 0 are left out.
        alignment: alignment score per organism, 0 to 100.
        optimiser: name of the stratum.
        base: name of the base, the unit that is resampled.

    Raises:
        SpecError: where the four sequences differ in length.
    """
    lengths = {len(loss), len(alignment), len(optimiser), len(base)}
    if len(lengths) != 1:
        raise SpecError(f"loss, alignment, optimiser and base have lengths {sorted(lengths)}; accepted: equal lengths")
    rows = [
        (math.log(x), float(y), group, unit)
        for x, y, group, unit in zip(loss, alignment, optimiser, base, strict=True)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y) and x > 0
    ]
    if len(rows) < 3:
        none = Fit(
            None,
            None,
            len(rows),
            0,
            f"{counted(len(rows), 'organism')} with loss and alignment; a fit needs at least 3",
        )
        return LossRegression(none, none, none, None, None, None)
    x = np.array([row[0] for row in rows])
    y = np.array([row[1] for row in rows])
    groups = np.array([row[2] for row in rows])
    units = np.array([row[3] for row in rows])
    whole, draws = _fits(x, y, groups, units), _drawn(x, y, groups, units)

    def ranged(name: str) -> Fit:
        fits = [draw[name] for draw in draws]
        return replace(
            whole[name],
            r2_interval=_middle([one.r2 for one in fits]),
            adjusted_interval=_middle([one.adjusted_r2 for one in fits]),
        )

    slope = intercept = None
    if float(np.ptp(x)) > 0:
        slope, intercept = (float(value) for value in np.polyfit(x, y, 1))
    return LossRegression(
        ranged("pooled"),
        ranged("stratified"),
        ranged("optimiser_only"),
        slope,
        intercept,
        _remaining(whole["pooled"], whole["stratified"]),
        _middle([_remaining(draw["pooled"], draw["stratified"]) for draw in draws]),
        (math.exp(float(x.min())), math.exp(float(x.max()))),
        ranged("within"),
        _middle([_edge(draw) for draw in draws]),
    )
