"""Measure how well the training loss predicts alignment, alone and within optimisers (docs/sources.md).

Ordinary least squares of the alignment score (0 to 100, broad panel) on the natural logarithm of the final loss, one
point per final organism. Three nested questions: the loss alone (`pooled`), a line of its own per optimiser
(`stratified`), and the optimiser alone without the loss (`optimiser_only`). R^2 has no honest interval here (organisms
of one base are not independent), so each comes with the range it takes when one base is left out at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from narrowly.records.errors import SpecError, counted


@dataclass(frozen=True, slots=True)
class Fit:
    """One least-squares fit.

    Attributes:
        r2: share of the variance explained, in [0, 1]; None with a reason where it is not defined.
        adjusted_r2: 1 - (1 - r2) (n - 1) / (n - parameters); None where n <= parameters.
        n: number of organisms.
        parameters: number of fitted coefficients, intercepts included.
        reason: why something is None.
        r2_range: smallest and largest r2 with one base left out; None with fewer than two bases.
        adjusted_range: the same for adjusted_r2.
    """

    r2: float | None
    adjusted_r2: float | None
    n: int
    parameters: int
    reason: str | None = None
    r2_range: tuple[float, float] | None = None
    adjusted_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class LossRegression:
    """The three fits, the pooled line, and the smallest and largest loss (a narrow span predicts little)."""

    pooled: Fit
    stratified: Fit
    optimiser_only: Fit
    slope: float | None
    intercept: float | None
    remaining_explained: float | None
    remaining_range: tuple[float, float] | None
    loss_span: tuple[float, float] | None = None


def fit(design: np.ndarray, response: np.ndarray) -> Fit:
    """Return R^2 and adjusted R^2 of an ordinary least-squares fit (centred total sum of squares).

    Args:
        design: n x p matrix whose columns span the constant.
        response: n values.
    """
    n = int(response.shape[0])
    rank = int(np.linalg.matrix_rank(design)) if n else 0
    if n < 3:
        return Fit(None, None, n, rank, f"{counted(n, 'organism')} with loss and alignment; a fit needs at least 3")
    total = float(np.sum((response - response.mean()) ** 2))
    if total <= 1e-12 * max(1.0, float(np.sum(response**2))):
        return Fit(None, None, n, rank, "alignment does not vary")
    coefficients, *_ = np.linalg.lstsq(design, response, rcond=None)
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


def _span(values: Sequence[float | None]) -> tuple[float, float] | None:
    found = [value for value in values if value is not None]
    return (min(found), max(found)) if len(found) == len(values) >= 2 else None


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
        base: name of the base, for the leave-one-base-out ranges.

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
        return LossRegression(none, none, none, None, None, None, None)
    x = np.array([row[0] for row in rows])
    y = np.array([row[1] for row in rows])
    groups = np.array([row[2] for row in rows])
    units = np.array([row[3] for row in rows])
    whole = {name: fit(design, y) for name, design in _designs(x, groups).items()}
    parts = [
        {name: fit(design, y[keep]) for name, design in _designs(x[keep], groups[keep]).items()}
        for keep in (units != unit for unit in sorted(set(units.tolist())))
        if keep.sum() >= 3
    ]

    def ranged(name: str) -> Fit:
        fits = [part[name] for part in parts]
        return replace(
            whole[name],
            r2_range=_span([one.r2 for one in fits]),
            adjusted_range=_span([one.adjusted_r2 for one in fits]),
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
        _span([_remaining(part["pooled"], part["stratified"]) for part in parts]),
        (math.exp(float(x.min())), math.exp(float(x.max()))),
    )
