"""Whether the intervals and verdicts of `narrowly.stats` keep their promises: simulations with a known truth.

Values are normal with variance 1, of which seeds and questions have the stated shares. `full` tables have every cell;
`scattered` ones lack 30 % at random; in `graded` ones the first seed has all questions and the last a quarter. `rates`
are shares of four answers near 5 %, with normal log-odds. Draws of the crossed and the nested bootstrap are shared
between simulations. About four minutes on one core; the outcome stands in LOG.md and docs/statistics.md.

    python experiments/coverage_of_intervals.py [--simulations 4000] [--out experiments/results/coverage.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from narrowly.stats.random_effects import Layout
from narrowly.stats.verdict import Word, judge

Floats = NDArray[np.float64]
DRAWS = 2000
SAMPLES, RATE_LOGIT, RATE_SD = 4, -3.4, 0.8


class Case(NamedTuple):
    """One kind of table, with the shares of seeds and of questions; `promised` ones must keep within 2 points."""

    seeds: int
    questions: int
    icc_seed: float
    icc_question: float
    pattern: str
    promised: bool


ICCS = (0.05, 0.2)
PATTERNS = ("full", "scattered", "graded")
CASES = [
    *(
        Case(seeds, questions, icc_seed, icc_question, pattern, True)
        for seeds in (8, 16)
        for questions in (40, 80)
        for icc_seed in ICCS
        for icc_question in ICCS
        for pattern in PATTERNS
    ),
    *(Case(5, 80, icc, icc, pattern, False) for icc in ICCS for pattern in ("full", "graded")),
    *(Case(8, 24, icc, icc, pattern, False) for icc in ICCS for pattern in ("full", "graded")),
    *(Case(seeds, 24, 0.01, 0.2, "full", False) for seeds in (8, 16)),
    *(Case(seeds, 80, 0.0, 0.0, "rates", False) for seeds in (8, 16)),
]


def cells(case: Case) -> NDArray[np.bool_]:
    """Return which cells of the table have a value."""
    shape = (case.seeds, case.questions)
    if case.pattern == "graded":
        lengths = np.linspace(case.questions, case.questions // 4, case.seeds).round()
        return np.arange(case.questions) < lengths[:, None]
    if case.pattern == "scattered":
        return np.random.default_rng(11).random(shape) >= 0.3
    return np.ones(shape, dtype=bool)


def tables(case: Case, simulations: int, generator: np.random.Generator) -> tuple[Floats, float]:
    """Return simulated tables (simulations x seeds x questions) and their true mean."""
    by_seed = generator.standard_normal((simulations, case.seeds, 1))
    by_question = generator.standard_normal((simulations, 1, case.questions))
    if case.pattern == "rates":
        chance = special.expit(RATE_LOGIT + RATE_SD * (by_seed / 2 + by_question))
        points, weights = np.polynomial.hermite_e.hermegauss(80)
        spread = RATE_SD * np.sqrt(1.25)
        truth = float((weights * special.expit(RATE_LOGIT + spread * points)).sum() / weights.sum())
        return generator.binomial(SAMPLES, chance) / SAMPLES, truth
    rest = generator.standard_normal((simulations, case.seeds, case.questions))
    by_seed, by_question = np.sqrt(case.icc_seed) * by_seed, np.sqrt(case.icc_question) * by_question
    return by_seed + by_question + np.sqrt(1 - case.icc_seed - case.icc_question) * rest, 0.0


def draw_counts(case: Case, generator: np.random.Generator, nested: bool) -> Floats:
    """Return how often each draw takes each cell (draws x cells).

    Crossed: one resample of the questions for all seeds. Nested: one of its own for each seed that was drawn.
    """
    seeds, questions = case.seeds, case.questions
    seeds_D_S = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
    if nested:
        counts_D_S_Q = generator.multinomial(questions * seeds_D_S, np.full(questions, 1 / questions))
    else:
        questions_D_Q = generator.multinomial(questions, np.full(questions, 1 / questions), size=DRAWS)
        counts_D_S_Q = seeds_D_S[:, :, None] * questions_D_Q[:, None, :]
    return counts_D_S_Q.reshape(DRAWS, -1).astype(np.float64)


def bootstrap_coverage(values_B_S_Q: Floats, present_S_Q: NDArray[np.bool_], counts_D_N: Floats, truth: float) -> float:
    """Return how often the percentile interval of these draws holds the truth."""
    flat_B_N = np.where(present_S_Q, values_B_S_Q, 0.0).reshape(len(values_B_S_Q), -1)
    means_D_B = counts_D_N @ flat_B_N.T / (counts_D_N @ present_S_Q.reshape(-1).astype(np.float64))[:, None]
    low_B, high_B = np.quantile(means_D_B, [0.025, 0.975], axis=0)
    return float(((low_B <= truth) & (truth <= high_B)).mean())


def verdicts(mean_B: Floats, error_B: Floats, df_B: Floats, margin: float) -> dict[str, float]:
    """Return the share of each verdict."""
    found = Counter(
        judge(*one, margin).word for one in zip(mean_B.tolist(), error_B.tolist(), df_B.tolist(), strict=True)
    )
    return {word.value: found[word] / len(mean_B) for word in Word}


def measure(case: Case, simulations: int, with_bootstrap: bool = True) -> dict[str, Any]:
    """Return what one case covers, recovers and decides."""
    generator = np.random.default_rng(
        [case.seeds, case.questions, *(int(1000 * icc) for icc in case[2:4]), len(case.pattern)]
    )
    present_S_Q = cells(case)
    layout = Layout(present_S_Q)
    values_B_S_Q, truth = tables(case, simulations, generator)
    mean_B, parts_B_3, variance_B, df_B = layout.fit(values_B_S_Q)
    usable_B = variance_B > 0
    error_B = np.sqrt(variance_B)
    half_B = np.where(usable_B, stats.t.ppf(0.975, np.where(usable_B, df_B, 1.0)) * error_B, 0.0)
    row: dict[str, Any] = dict(case._asdict())
    row["primary"] = float((np.abs(mean_B - truth) <= half_B).mean())
    if with_bootstrap:
        for name, nested in (("crossed", False), ("nested", True)):
            counts_D_N = draw_counts(case, generator, nested)
            row[name] = bootstrap_coverage(values_B_S_Q, present_S_Q, counts_D_N, truth)
    if case.pattern == "rates":
        return row | {"truth": truth}
    row["components"] = parts_B_3.mean(axis=0).round(4).tolist()
    row["components_error"] = (parts_B_3.std(axis=0) / np.sqrt(simulations)).round(5).tolist()
    # Three standard errors: a margin at which a design has some power to call two arms equivalent.
    margin = 3 * float(
        np.sqrt(layout.weights @ [case.icc_seed, case.icc_question, 1 - case.icc_seed - case.icc_question])
    )
    row["verdicts_at_zero"] = verdicts(mean_B, error_B, df_B, margin)
    row["verdicts_at_margin"] = verdicts(mean_B + margin, error_B, df_B, margin)
    return row


def wrong_at_zero(row: dict[str, Any]) -> float:
    """Return how often an effect of 0 was said to be there."""
    return float(row["verdicts_at_zero"]["EFFECT"] + row["verdicts_at_zero"]["TRIVIAL"])


def wrong_at_margin(row: dict[str, Any]) -> float:
    """Return how often an effect as large as the margin was said to lie inside it."""
    return float(row["verdicts_at_margin"]["EQUIVALENT"] + row["verdicts_at_margin"]["TRIVIAL"])


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of docs/statistics.md: smallest and largest coverage by seeds, questions and kind of value."""
    lines = ["| seeds | questions | values | cases | primary | crossed | nested |", "|---|---|---|---|---|---|---|"]
    groups: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        kind = "rates near 5 %" if row["pattern"] == "rates" else "normal"
        kind = "normal, ICC .01 and .2" if row["icc_seed"] == 0.01 else kind
        groups.setdefault((row["seeds"], row["questions"], kind), []).append(row)
    for (seeds, questions, kind), found in groups.items():
        spans = []
        for name in ("primary", "crossed", "nested"):
            low, high = (f"{edge(row[name] for row in found):.3f}"[1:] for edge in (min, max))
            spans.append(low if low == high else f"{low} to {high}")
        lines.append(f"| {seeds} | {questions} | {kind} | {len(found)} | {' | '.join(spans)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows = []
    print(
        "| seeds | questions | ICC seed | question | cells | primary | crossed | nested | wrong at 0 | at the margin |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        row = measure(case, arguments.simulations)
        rows.append(row)
        head = f"| {case.seeds} | {case.questions} | {case.icc_seed:g} | {case.icc_question:g} | {case.pattern} |"
        rates = " ".join(f"{row[name]:.3f} |" for name in ("primary", "crossed", "nested"))
        errors = "- | - |" if case.pattern == "rates" else f"{wrong_at_zero(row):.3f} | {wrong_at_margin(row):.3f} |"
        print(head, rates, errors, flush=True)
    print(*summary(rows), sep="\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"simulations": arguments.simulations, "draws": DRAWS, "level": 0.95, "cases": rows}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{time.perf_counter() - start:.0f} s; written to {arguments.out}")


if __name__ == "__main__":
    main()
