"""How often each preregistered rule of `evidence/` reaches its verdict, from the spread that the pilot had.

Per-base differences are normal. Their standard deviations follow from the 95 % intervals over eight bases of the pilot
(LOG.md, 2026-11-29): half-width x sqrt(8) / t(.975; 7). The number of bases in common support is binomial; with fewer
than the rule's minimum the verdict is `not tested`. Where the pilot gives no spread, the largest one is printed at
which the power is still .8. Seconds on one core:

    python experiments/evidence_power.py [--simulations 20000]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from narrowly.stats.verdict import Word

Floats = NDArray[np.float64]

POWER = 0.8
PILOT = {
    "adam - muon at equal norm": (0.40, 0.97, 1.54),
    "muon - adam given held-out": (-0.23, 0.14, 0.50),
    "lion - adam given held-out": (-0.14, 0.00, 0.15),
    "muon, orthogonal part halved": (0.27, 0.37, 0.47),
    "adam penalty (lengths differ)": (-0.20, 0.76, 1.71),
}
"""Contrast of the pilot -> 95 % interval and estimate: log-odds, of the dial a rate."""


def pilot_sd(name: str) -> float:
    """Return the standard deviation over the pilot's eight bases that an interval of it implies."""
    low, _, high = PILOT[name]
    return float((high - low) / 2 * np.sqrt(8) / stats.t.ppf(0.975, 7))


def verdicts(
    effect: float, sd: float, bases: int, overlap: float, minimum: int, margin: float, simulations: int
) -> dict[str, float]:
    """Return the share of each verdict, `not tested` among them."""
    generator = np.random.default_rng([bases, minimum, int(1e4 * sd), int(1e4 * overlap), int(1e4 * abs(effect))])
    counts: Counter[str] = Counter()
    for n, times in Counter(generator.binomial(bases, overlap, size=simulations).tolist()).items():
        if n < minimum:
            counts["not tested"] += times
            continue
        values_B_N: Floats = generator.normal(effect, sd, size=(times, n))
        counts.update(words(values_B_N.mean(axis=1), values_B_N.std(axis=1, ddof=1) / np.sqrt(n), n - 1, margin))
    return {word: count / simulations for word, count in counts.items()}


def words(mean_B: Floats, error_B: Floats, df: int, margin: float) -> list[str]:
    """Return the verdict of each simulation, as `narrowly.stats.verdict.judge` gives it (held by a test)."""
    half_B, inner_B = (stats.t.ppf(share, df) * error_B for share in (0.975, 0.95))
    excludes_0 = np.abs(mean_B) > half_B
    trivial, equivalent = (np.abs(mean_B) + reach < margin for reach in (half_B, inner_B))
    first = np.where(trivial, Word.TRIVIAL.value, Word.EFFECT.value)
    second = np.where(equivalent, Word.EQUIVALENT.value, Word.INDETERMINATE.value)
    found: list[str] = np.where(excludes_0, first, second).tolist()
    return found


def inside(found: dict[str, float]) -> float:
    """Return how often the difference is put inside the margin."""
    return found.get(Word.EQUIVALENT.value, 0.0) + found.get(Word.TRIVIAL.value, 0.0)


def effect_found(found: dict[str, float]) -> float:
    """Return how often the difference is an EFFECT."""
    return found.get(Word.EFFECT.value, 0.0)


def above(effect: float, sd: float, bases: int, least: float, simulations: int) -> float:
    """Return how often the whole 95 % interval lies above a number."""
    generator = np.random.default_rng([bases, int(1e4 * sd), int(1e4 * least)])
    values_B_N: Floats = generator.normal(effect, sd, size=(simulations, bases))
    half_B = stats.t.ppf(0.975, bases - 1) * values_B_N.std(axis=1, ddof=1) / np.sqrt(bases)
    return float((values_B_N.mean(axis=1) - half_B > least).mean())


def largest_sd(power: Callable[[float], float], start: float, step: float) -> float:
    """Return the largest standard deviation, in steps, at which a power is still .8."""
    sd = start
    while power(sd + step) >= POWER:
        sd += step
    return sd


def print_x1(simulations: int) -> None:
    """Print the power of the ladder's primary contrasts by how many bases overlap."""
    print("x1: share of simulations; 16 bases, margin .35, fewer than 10 in support: not tested")
    print("| contrast | true difference | SD | overlap | established | not tested |")
    print("|---|---|---|---|---|---|")
    norm = pilot_sd("adam - muon at equal norm")
    for overlap in (0.625, 0.75, 0.875, 1.0):
        found = verdicts(0.97, norm, 16, overlap, 10, 0.35, simulations)
        row = f"{effect_found(found):.2f} | {found.get('not tested', 0.0):.2f}"
        print(f"| adam - muon at equal norm | +0.97 | {norm:.2f} | {overlap:.3f} | {row} |")
    for name in ("muon - adam given held-out", "lion - adam given held-out"):
        for sd in sorted({round(pilot_sd(name), 2), 0.44}):
            for effect in (0.0, PILOT[name][1]) if PILOT[name][1] else (0.0,):
                for overlap in (0.625, 0.75, 0.875, 1.0):
                    found = verdicts(effect, sd, 16, overlap, 10, 0.35, simulations)
                    row = f"{inside(found):.2f} | {found.get('not tested', 0.0):.2f}"
                    print(f"| {name} | {effect:+.2f} | {sd:.2f} | {overlap:.3f} | {row} |")
    sd = largest_sd(lambda sd: inside(verdicts(0.0, sd, 16, 1.0, 10, 0.35, 4000)), 0.2, 0.01)
    print(f"no difference, all bases overlap: power is .8 up to SD {sd:.2f}")
    for bases in (16, 20, 24):
        found = verdicts(0.0, 0.44, bases, 0.875, round(0.625 * bases), 0.35, simulations)
        print(f"no difference, SD .44, overlap .875, {bases} bases: {inside(found):.2f}")


def print_x3(simulations: int) -> None:
    """Print the power of the dial's two rules."""
    sd = pilot_sd("muon, orthogonal part halved")
    print(f"x3 (a): rise +.37, SD {sd:.2f}, 16 bases, interval above .10: {above(0.37, sd, 16, 0.10, simulations):.2f}")
    print(f"x3 (a): the same with a true rise of .20: {above(0.20, sd, 16, 0.10, simulations):.2f}")
    for effect in (0.0, 0.012):
        most = largest_sd(lambda sd, effect=effect: inside(verdicts(effect, sd, 16, 1.0, 10, 0.05, 4000)), 0.01, 0.0025)
        print(f"x3 (b): foreign minus scaled {effect:+.3f}, margin .05: power .8 up to SD {most:.3f}")


def _inside_points(sd: float, effect: float, bases: int) -> float:
    return inside(verdicts(effect, sd, bases, 1.0, 2, 0.02, 4000))


def print_others(simulations: int) -> None:
    """Print the power of the primary contrasts of x4 to x7."""
    for bases, effect in ((8, 0.0), (8, 0.006), (16, 0.006)):
        most = largest_sd(
            lambda sd, bases=bases, effect=effect: inside(verdicts(effect, sd, bases, 1.0, 2, 0.02, 4000)),
            0.002,
            0.0005,
        )
        print(f"x4: control minus base {effect:+.3f}, margin .02, {bases} bases: power .8 up to SD {most:.4f}")
    sd = pilot_sd("adam penalty (lengths differ)")
    for sd_at_norm in (sd, sd / 2, 0.44):
        found = verdicts(0.76, sd_at_norm, 16, 1.0, 10, 0.35, simulations)
        none = verdicts(0.0, sd_at_norm, 16, 1.0, 10, 0.35, simulations)
        print(
            f"x5: SD {sd_at_norm:.2f}: an effect of .76 is found in {effect_found(found):.2f}, no effect is put inside "
            f"the margin in {inside(none):.2f}"
        )
    for bases in (8, 16):
        found = verdicts(0.0, 0.44, bases, 1.0, round(0.625 * bases), 0.35, simulations)
        print(f"x6: kaon - muon, no difference, SD .44, {bases} bases: {inside(found):.2f}")
    most = largest_sd(lambda sd: effect_found(verdicts(0.2, sd, 8, 1.0, 5, 0.05, 4000)), 0.05, 0.01)
    print(f"x7: EM .20 above the ideal learner, 8 bases: power .8 up to SD {most:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=20000)
    simulations = parser.parse_args().simulations
    for name in PILOT:
        print(f"pilot: {name}: SD over bases {pilot_sd(name):.2f}")
    print_x1(simulations)
    print_x3(simulations)
    print_others(simulations)


if __name__ == "__main__":
    main()
