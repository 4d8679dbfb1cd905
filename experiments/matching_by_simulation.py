"""Whether `narrowly match` keeps its promises: simulations of two arms with a known difference.

Each base has a curve of broad over held-out misalignment that bends, an intercept of its own, and six rates. The first
arm's held-out misalignment spans -4 to 0 and the second's -1 to 3, both moved by a random amount in each base; the
first lies above by a difference that varies over bases with a standard deviation of .44 (the pilot's). Points scatter
about their curves. In the noisy cases what is matched on is a mean over 40 questions.

    python experiments/matching_by_simulation.py [--simulations 2000] [--out experiments/results/matching.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from narrowly.stats.intervals import t_interval
from narrowly.stats.matched_curves import Curve, Pair, bootstrap_distance, distance
from narrowly.stats.sampled_values import Asked, Values
from narrowly.stats.split_halves import attenuation, shift_by_noise
from narrowly.stats.verdict import Word, judge

MARGIN, SD_OF_BASES, SCATTER, RATES = 0.35, 0.44, 0.1, 6
FIRST, SECOND = (-4.0, 0.0), (-1.0, 3.0)
HELD, BROAD = 40, 80
"""Questions behind one point of each rung."""
QUESTION_SD = 0.5
"""Standard deviation of what a question adds to broad misalignment of one arm on one base."""
BASES = (3, 5, 8, 16)
PROMISED = (8, 16)
RELIABILITIES = (0.5, 0.8, 0.9, 0.95, 1.0)


def line(x: np.ndarray) -> np.ndarray:
    """Return broad misalignment at held-out misalignment x: a curve that bends."""
    return 3 * np.tanh(0.35 * x)


def curve(span: tuple[float, float], above: float, noise_sd: float, generator: np.random.Generator) -> Curve:
    """Return an arm on one base; `noise_sd` is that of one question of what is matched on."""
    moved = generator.normal(0, 0.3)
    x_T = np.sort(np.linspace(*span, RATES) + moved + generator.normal(0, 0.15, RATES))
    y_T = line(x_T) + above + generator.normal(0, SCATTER, RATES)
    if noise_sd == 0:
        return Curve(Values(x_T), Values(y_T))
    x_T_Q = x_T[:, None] + generator.normal(0, noise_sd, (RATES, HELD))
    held = Asked(tuple(f"h{place}" for place in range(HELD)), np.ones(HELD), x_T_Q)
    return Curve(Values(x_T_Q.mean(axis=1), held), Values(y_T))


def asked_curve(span: tuple[float, float], above: float, generator: np.random.Generator) -> Curve:
    """Return an arm whose broad misalignment is a mean over questions that differ from arm to arm."""
    plain = curve(span, above, 0.0, generator)
    names = tuple(f"b{place}" for place in range(BROAD))
    y_T_Q = plain.y.plain_T[:, None] + generator.normal(0, QUESTION_SD, BROAD)
    asked = Asked(names, np.ones(BROAD), y_T_Q)
    return Curve(plain.x, Values(y_T_Q.mean(axis=1), asked))


def pairs(bases: int, difference: float, generator: np.random.Generator, noise_sd: float = 0.0) -> list[Pair]:
    """Return the curves of two arms on so many bases."""
    found = []
    for _ in range(bases):
        own, above = generator.normal(0, 1), generator.normal(difference, SD_OF_BASES)
        found.append(Pair(curve(FIRST, own + above, noise_sd, generator), curve(SECOND, own, noise_sd, generator)))
    return found


def differences(found: list[Pair]) -> list[float]:
    """Return the difference of every base with a common support."""
    return [one.value for one in map(distance, found) if one is not None]


def coverage(bases: int, difference: float, simulations: int) -> dict[str, Any]:
    """Return what the t interval covers, what was found on average, and the verdicts against the margin."""
    generator = np.random.default_rng([bases, round(1000 * difference)])
    covered, estimates, words, raw, lost = 0, [], [], [], 0
    for _ in range(simulations):
        found = pairs(bases, difference, generator)
        values = differences(found)
        lost += bases - len(values)
        if not values:
            continue
        interval = t_interval(values, min_n=2)
        estimates.append(interval.estimate)
        raw.append(float(np.mean([pair.first.y.plain_T.mean() - pair.second.y.plain_T.mean() for pair in found])))
        covered += interval.low is not None and interval.low <= difference <= interval.high
        if len(values) > 1:
            error = float(np.std(values, ddof=1)) / len(values) ** 0.5
            words.append(judge(float(np.mean(values)), error, len(values) - 1, MARGIN).word)
    return {
        "bases": bases,
        "difference": difference,
        "covered": covered / len(estimates),
        "found": float(np.mean(estimates)),
        "raw": float(np.mean(raw)),
        "without_support": lost / simulations / bases,
        "inside": sum(word in (Word.EQUIVALENT, Word.TRIVIAL) for word in words) / simulations,
        "not_zero": sum(word in (Word.EFFECT, Word.TRIVIAL) for word in words) / simulations,
    }


def bootstrap_coverage(bases: int, simulations: int, draws: int = 1000) -> dict[str, Any]:
    """Return what the crossed bootstrap and the t interval cover where questions are drawn too."""
    generator = np.random.default_rng([bases, 7])
    crossed, by_t = [], []
    for _ in range(simulations):
        units = []
        for _ in range(bases):
            own, above = generator.normal(0, 1), generator.normal(0, SD_OF_BASES)
            units.append([Pair(asked_curve(FIRST, own + above, generator), asked_curve(SECOND, own, generator))])
        interval = t_interval(differences([pair for unit in units for pair in unit]))
        drawn = bootstrap_distance(units, draws=draws)
        if interval.low is not None and drawn.low is not None:  # at five bases one without support leaves none
            by_t.append(interval.low <= 0 <= interval.high)
            crossed.append(drawn.low <= 0 <= drawn.high)
    told = {"crossed": float(np.mean(crossed)), "t": float(np.mean(by_t))}
    return {"bases": bases, **told, "intervals": len(crossed), "simulations": simulations}


def noise_of(reliability: float) -> float:
    """Return the noise of one question that gives a reliability along these curves."""
    spread = np.var(np.linspace(*FIRST, RATES), ddof=1) + 0.15**2
    return float(np.sqrt(HELD * spread * (1 / reliability - 1)))


def noisy(reliability: float, simulations: int, bases: int = 16) -> dict[str, Any]:
    """Return the reliability that split halves find, and how far noise moves a difference of 0."""
    generator = np.random.default_rng([round(1000 * reliability), 3])
    found, estimates, told = [], [], []
    for _ in range(simulations):
        own = pairs(bases, 0.0, generator, noise_of(reliability))
        values = differences(own)
        estimates.append(float(np.mean(values)) if values else np.nan)
        halves = attenuation([one.x for pair in own for one in (pair.first, pair.second)], splits=20)
        found.append(1.0 if halves is None else halves.reliability)
        shift = shift_by_noise([pair for pair in own if distance(pair)], found[-1])
        told.append(np.nan if shift is None else shift)
    error = float(np.nanstd(estimates) / simulations**0.5)
    row = {"planted": reliability, "found": float(np.mean(found)), "bias": float(np.nanmean(estimates)), "error": error}
    return row | {"told": None if np.isnan(told).mean() > 0.5 else float(np.nanmean(told))}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of docs/matching.md."""
    lines = [
        "| bases | planted | found | plain means | t covers | called inside the margin | excludes 0 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(f"{row[name]:.3f}" for name in ("covered", "inside", "not_zero"))
        lines.append(f"| {row['bases']} | {row['difference']:g} | {row['found']:.2f} | {row['raw']:.2f} | {shares} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "matching.json")
    arguments = parser.parse_args()
    start, count = time.process_time(), arguments.simulations
    rows = [coverage(bases, size, count) for bases in BASES for size in (0.0, MARGIN, 0.7)]
    print(*table(rows), sep="\n")
    drawn = [bootstrap_coverage(bases, max(100, count // 8)) for bases in (5, *PROMISED)]
    for row in drawn:
        print(f"{row['bases']} bases, {row['intervals']} intervals: crossed {row['crossed']:.3f}, t {row['t']:.3f}")
    noise = [noisy(reliability, max(50, count // 20)) for reliability in RELIABILITIES]
    for row in noise:
        told = "-" if row["told"] is None else f"{row['told']:+.3f}"
        moved = f"difference {row['bias']:+.3f} (standard error {row['error']:.3f}), told {told}"
        print(f"reliability {row['planted']}: found {row['found']:.3f}, {moved}")
    record = {"simulations": count, "margin": MARGIN, "cases": rows, "bootstrap": drawn, "noise": noise}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{time.process_time() - start:.0f} s of CPU; written to {arguments.out}")


if __name__ == "__main__":
    main()
