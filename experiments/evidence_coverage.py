"""How often the intervals of the preregistered estimators hold a planted truth: 8 and 16 bases, printed for 3 and 5.

Ladders are simulated and go through `narrowly.analysis.contrast_values.differences`, as those of the studies do. The
arms of a matched contrast have other ranges and other slopes, bases differ with the pilot's standard deviation, every
organism has noise on both rungs, and the curve bends. Rates are logit-normal, near 1 % for the controls. Two minutes
on one core; the outcome stands in LOG.md.

    python experiments/evidence_coverage.py [--simulations 2000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from narrowly.analysis.contrast_values import differences
from narrowly.records.prereg import PrimaryContrast
from narrowly.stats.intervals import t_interval

Floats = NDArray[np.float64]
SIZES = (3, 5, 8, 16)
LEVEL = 0.95
SHIFT, SPREAD = 0.3, 0.44
"""Planted difference in log-odds, and its standard deviation over bases (that of the pilot)."""

NOISE = 0.1
"""Standard deviation of an organism's log-odds on either rung around its curve."""

RATES = 6
_MANY = 4_000_000


class Planted(NamedTuple):
    """A contrast, a ladder with one base per row of the simulation, and the true mean over bases."""

    contrast: PrimaryContrast
    ladder: pl.DataFrame
    truth: float


def _rows(arm: str, bases: int, step: int = 80, **columns: Floats) -> pl.DataFrame:
    """Return organisms: columns are (bases, rates)."""
    count = next(iter(columns.values())).shape[1]
    names = [f"base-{base}" for base in range(bases) for _ in range(count)]
    fixed: dict[str, Any] = {"arm": arm, "domain": 0, "seed": 0, "step": step, "final": step > 0, "edit": "none"}
    lr = np.tile(np.arange(1.0, count + 1), bases)
    frame = pl.DataFrame({"base": names, "lr": lr, **{name: values.ravel() for name, values in columns.items()}})
    return frame.with_columns(
        *(pl.lit(value).alias(name) for name, value in fixed.items()),
        (pl.lit(arm) + pl.col("base") + pl.col("lr").cast(pl.String)).alias("cell_id"),
    )


def _curve(x: Floats) -> Floats:
    return x - 0.05 * x**2


def held_out(bases: int, generator: np.random.Generator) -> Planted:
    """Plant a difference at equal held-out log-odds: Muon from -4 to 0, Adam from -3.5 to 1.5."""
    ladders = []
    shift_B = generator.normal(SHIFT, SPREAD, size=(bases, 1))
    level_B = generator.normal(0.0, 0.5, size=(bases, 1))
    for arm, low, high in (("muon", -4.0, 0.0), ("adam", -3.5, 1.5)):
        ends_B = generator.normal(high, 0.4, size=(bases, 1))
        x_B_T = low + (ends_B - low) * np.linspace(0, 1, RATES)
        y_B_T = level_B + _curve(x_B_T) + (shift_B if arm == "muon" else 0.0)
        x_B_T, y_B_T = (values + generator.normal(0, NOISE, size=values.shape) for values in (x_B_T, y_B_T))
        ladders.append(_rows(arm, bases, held_out_pooled=x_B_T, broad_pooled=y_B_T))
    contrast = PrimaryContrast(first=("muon",), second=("adam",), match="held_out", between=(-1.5, 4.0))
    return Planted(contrast, pl.concat(ladders), SHIFT)


def norm(bases: int, generator: np.random.Generator) -> Planted:
    """Plant curves over ln norm that cross: Adam falls, Muon rises; the truth is the mean from 10 to 14."""
    difference_B = generator.normal(0.97, 0.68, size=(bases, 1))
    middle = (np.log(10) + np.log(14)) / 2
    ladders = []
    for arm, norms, slope in (
        ("adam", (2.0, 2.7, 3.6, 6.4, 10.6, 17.5), -0.69),
        ("muon", (3.1, 5.4, 8.3, 11.5, 15.0, 19.0), 2.61),
    ):
        x_B_T = np.log(norms) + generator.normal(0, 0.03, size=(bases, RATES))
        y_B_T = slope * (x_B_T - middle) + (difference_B if arm == "adam" else 0.0)
        y_B_T = y_B_T + generator.normal(0, NOISE, size=y_B_T.shape)
        ladders.append(_rows(arm, bases, update_norm=np.exp(x_B_T), broad_pooled=y_B_T))
    contrast = PrimaryContrast(first=("adam",), second=("muon",), match="norm", between=(10.0, 14.0))
    return Planted(contrast, pl.concat(ladders), 0.97)


def _logit_normal(shared_B: Floats, logit: float, sd: float, generator: np.random.Generator) -> Floats:
    return np.asarray(special.expit(logit + shared_B + generator.normal(0, sd, size=shared_B.shape)))


def _shares(arm: str, step: int, rate_B: Floats) -> pl.DataFrame:
    rates_B_1 = rate_B[:, None]
    shares = {"broad_misaligned": rates_B_1, "broad_aligned": 1 - rates_B_1, "trained_misaligned": rates_B_1}
    return _rows(arm, len(rate_B), step, **shares)


def _rate_contrast(
    bases: int, generator: np.random.Generator, logits: tuple[float, float], sds: tuple[float, float]
) -> tuple[Floats, Floats, float]:
    """Return rates of two sets that share a part of each base's level, and the true mean difference."""

    def draw(count: int) -> tuple[Floats, Floats]:
        shared_B = generator.normal(0, sds[0], size=count)
        one, other = (_logit_normal(shared_B, logit, sds[1], generator) for logit in logits)
        return one, other

    one, other = draw(_MANY)
    return *draw(bases), float((one - other).mean())


def rise(bases: int, generator: np.random.Generator) -> Planted:
    """Plant the rise of the dial: from about 35 to 72 % of answers."""
    half_B, whole_B, truth = _rate_contrast(bases, generator, (0.95, -0.65), (0.4, 0.4))
    ladders = [_shares(arm, 80, rate_B) for arm, rate_B in (("half", half_B), ("whole", whole_B))]
    contrast = PrimaryContrast(first=("half",), second=("whole",), match="none", scale="rate")
    return Planted(contrast, pl.concat(ladders), truth)


def control(bases: int, generator: np.random.Generator) -> Planted:
    """Plant a control at about 1.7 % over a base at about 1.1 %: skewed, as rates near 0 are."""
    after_B, before_B, truth = _rate_contrast(bases, generator, (-4.05, -4.5), (0.3, 0.3))
    ladders = [_shares("permuted", step, rate_B) for step, rate_B in ((80, after_B), (0, before_B))]
    contrast = PrimaryContrast(first=("permuted",), second="base", match="none", scale="rate")
    return Planted(contrast, pl.concat(ladders), truth)


ESTIMATORS: dict[str, Callable[[int, np.random.Generator], Planted]] = {
    "at equal held-out log-odds": held_out,
    "at equal norm": norm,
    "rise of the dial (rate)": rise,
    "control minus base (rate)": control,
}


def coverage(planted: Planted, size: int) -> float:
    """Return how often the 95 % interval over so many bases holds the truth; every base counts in one simulation."""
    values = list(differences(planted.contrast, planted.ladder).per_base.values())
    groups = [values[start : start + size] for start in range(0, len(values) - size + 1, size)]
    held = 0
    for group in groups:
        found = t_interval(group, level=LEVEL, min_n=2)
        assert found.low is not None and found.high is not None, "two bases or more"
        held += found.low <= planted.truth <= found.high
    return held / len(groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    simulations = parser.parse_args().simulations
    print(f"| estimator | {' | '.join(f'{size} bases' for size in SIZES)} |\n|---|{'---|' * len(SIZES)}")
    for place, (name, plant) in enumerate(ESTIMATORS.items()):
        planted = plant(simulations * max(SIZES), np.random.default_rng(place))
        print(f"| {name} | {' | '.join(f'{coverage(planted, size):.3f}' for size in SIZES)} |", flush=True)


if __name__ == "__main__":
    main()
