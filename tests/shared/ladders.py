"""Ladders of made-up organisms whose broad misalignment is a known function of their held-out misalignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def bases(count: int) -> list[str]:
    return [f"micro-{seed:02d}" for seed in range(8, 8 + count)]


def rows(
    arm: str,
    base: str,
    held_out: Sequence[float],
    broad: Sequence[float],
    *,
    rates: Sequence[float] = RATES,
    **more: object,
) -> list[dict[str, object]]:
    """Return the final organisms of an arm on one base, one at each rate; the norm grows with the rate."""
    return [
        {
            "cell_id": f"{arm}-{base}-{rate:g}", "arm": arm, "role": "optimiser", "optimiser": arm, "lr": rate,
            "base": base, "domain": 0, "seed": 0, "step": 80, "final": True, "edit": "none",
            "final_loss": 2.0 / rate, "held_out_pooled": x, "broad_pooled": y, "self_pooled": y - 1,
            "trained_pooled": x + 2, "excess_trained": 1.0 / rate, "update_norm": rate**0.5,
        } | more
        for rate, x, y in zip(rates, held_out, broad, strict=False)
    ]  # fmt: skip


def ladder(
    arm: str,
    names: Sequence[str],
    span: tuple[float, float],
    line: Callable[[np.ndarray], np.ndarray],
    *,
    spread: Sequence[float] | None = None,
    points: int = len(RATES),
) -> pl.DataFrame:
    """Return an arm whose held-out misalignment rises evenly over `span`, and whose broad one follows `line`.

    Args:
        arm: its name.
        names: of the bases.
        span: held-out pooled log-odds at the first and last rate.
        line: broad pooled log-odds at given held-out ones.
        spread: added to the broad ones of each base.
        points: rates.
    """
    x = np.linspace(*span, points)
    added = [0.0] * len(names) if spread is None else spread
    return pl.DataFrame(
        [row for base, more in zip(names, added, strict=True) for row in rows(arm, base, x, line(x) + more)]
    )
