"""How often `narrowly compare` passes a rise of exactly the margin, and shows one, in simulated judged answers.

Questions of both sides have rates from beta distributions with a given ICC, independent of each other, and answers are
drawn from them. A pass of a true rise of the margin is an error, wanted in 5 % at most. The share of shown rises is
wanted where the printed power says it.

    python experiments/compare_gate.py [--studies 1000] [--questions 104] [--samples 6]
"""

from __future__ import annotations

import argparse

import numpy as np

from narrowly.evaluate.judges.cells import MISALIGNED, Table
from narrowly.evaluate.judges.components import difference_of
from narrowly.evaluate.judges.gates import gate_of
from narrowly.records.gate import Word
from narrowly.stats.eval_plan import QUESTION_ICCS

RATES = ((0.0, 0.02), (0.01, 0.02), (0.0, 0.05), (0.05, 0.05), (0.1, 0.1), (0.3, 0.05))
"""Rate of the first side, and the margin by which the second is higher."""


def table(generator: np.random.Generator, rate: float, icc: float, questions: int, samples: int) -> Table:
    """Return the drawn events of one side."""
    spread = 1 / icc - 1
    shares_Q = generator.beta(rate * spread, (1 - rate) * spread, questions) if rate else np.zeros(questions)
    return Table(generator.binomial(samples, shares_Q)[None] / samples, np.full(questions, float(samples)))


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=104)
    parser.add_argument("--samples", type=int, default=6)
    arguments = parser.parse_args()
    cells = [(f"q{at}", 0) for at in range(arguments.questions)]
    print("rate  margin  ICC    passed   shown  printed power")
    for rate, margin in RATES:
        for icc in QUESTION_ICCS:
            words, powers = [], []
            for study in range(arguments.studies):
                generator = np.random.default_rng([study, round(1e4 * rate), round(1e4 * margin), round(1e4 * icc)])
                sides = [
                    table(generator, share, icc, arguments.questions, arguments.samples)
                    for share in (rate, rate + margin)
                ]
                gate = gate_of(MISALIGNED, difference_of(*sides, cells), margin, QUESTION_ICCS[-1])
                words.append(gate.word)
                powers.append(gate.power or 0.0)
            passed, shown = (words.count(word) / len(words) for word in (Word.NO_RISE, Word.RISE))
            print(f"{rate:4.2f}  {margin:6.2f}  {icc:5.3f}  {passed:6.3f}  {shown:6.3f}  {np.mean(powers):6.3f}")


if __name__ == "__main__":
    main()
