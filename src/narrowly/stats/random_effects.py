"""Give the mean over crossed seeds and questions its interval, from random effects of both.

Model of one value per seed i and question j (a rate over the samples of that cell, or a log-odds):
y_ij = mu + a_i + b_j + e_ij, all independent with variances of seed, question and residual (interaction, sampling).
Components: the method of moments on the uncorrected sums of squares (Henderson 1953, Biometrics 9, 226-252, method 1;
Searle, Casella & McCulloch 1992, "Variance components", ch. 5). In a full table it is the analysis of variance.
Interval: mean +- t(df) * se, df after Satterthwaite (1946, Biometrics Bulletin 2, 110-114) as 2 v^2 / Var(v), where
Var(v) is exact for a quadratic form in normal values: 2 tr(Q V Q V). Limits and coverage: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy_stats

from narrowly.records.errors import SpecError, counted
from narrowly.stats.intervals import LEVEL, MIN_UNITS, Interval, t_interval
from narrowly.stats.power import minimum_detectable_effect

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Components:
    """Variances of the three random parts, in squared units of the values; each at least 0."""

    seed: float
    question: float
    residual: float

    @property
    def total(self) -> float:
        """Return the variance of one value."""
        return self.seed + self.question + self.residual

    @property
    def icc_seed(self) -> float | None:
        """Return the correlation of two values of one seed; None where nothing varies."""
        return self.seed / self.total if self.total > 0 else None

    @property
    def icc_question(self) -> float | None:
        """Return the correlation of two values of one question; None where nothing varies."""
        return self.question / self.total if self.total > 0 else None


@dataclass(frozen=True, slots=True)
class CrossedMean:
    """The mean over seeds and questions, and how sure it is.

    Attributes:
        interval: the population interval, n = number of seeds; without bounds below five seeds, with the reason.
        seeds_only: an interval over questions for these seeds alone; it says nothing of another seed.
        per_seed: the mean of each seed over its questions, in the order of the rows; None for a seed without a value.
        components: variances of seed, question and residual; None where they cannot be told apart.
        standard_error: of the mean, in units of the values.
        df: Satterthwaite's degrees of freedom.
        design_effect: variance of the mean over what `n_values` independent values would have; this and the next two
            are of the population, None below five seeds.
        effective_n: n_values / design_effect, how many independent values the table is worth.
        smallest_detectable: effect that such a table finds with power .8 at two-sided .05, from this standard error.
        n_seeds: seeds with at least one value.
        n_questions: questions with at least one value.
        n_values: cells with a value.
    """

    interval: Interval
    seeds_only: Interval
    per_seed: tuple[float | None, ...]
    components: Components | None
    standard_error: float | None
    df: float | None
    design_effect: float | None
    effective_n: float | None
    smallest_detectable: float | None
    n_seeds: int
    n_questions: int
    n_values: int


class Layout:
    """Which cells of a table of seeds x questions have a value, and what follows from that alone.

    Everything here is linear algebra on the pattern, so one layout serves any number of tables with that pattern.

    Args:
        present_S_Q: True where a cell has a value; no row or column may be empty.

    Raises:
        SpecError: where the three variances cannot be told apart from these cells.
    """

    def __init__(self, present_S_Q: NDArray[np.bool_]) -> None:
        self.present_S_Q = present_S_Q
        mask_S_Q = present_S_Q.astype(np.float64)
        self.per_seed_S, self.per_question_Q = mask_S_Q.sum(axis=1), mask_S_Q.sum(axis=0)
        if not (present_S_Q.size and self.per_seed_S.all() and self.per_question_Q.all()):
            raise SpecError("a row or a column of the table has no value; take it out first")
        n, seeds, questions = self.per_seed_S.sum(), *present_S_Q.shape
        self.n = int(n)
        own_seed, own_question = (self.per_seed_S**2).sum() / n, (self.per_question_Q**2).sum() / n
        # Expected sums of squares about the mean: rows are sums over seeds, over questions, over cells.
        expected = np.array(
            [
                [n - own_seed, seeds - own_question, seeds - 1],
                [questions - own_seed, n - own_question, questions - 1],
                [n - own_seed, n - own_question, n - 1],
            ]
        )
        if np.linalg.matrix_rank(expected) < 3:
            raise SpecError(
                f"{counted(seeds, 'seed')} x {counted(questions, 'question')} with {counted(self.n, 'value')}: the "
                "variances of seeds, questions and residuals cannot be told apart; accepted: at least two of "
                "each that share questions"
            )
        self._solve = np.linalg.inv(expected)
        self.weights = np.array([own_seed, own_question, 1.0]) / n
        """Variance of the mean = weights . (seed, question, residual)."""
        self._spread = self._spread_of_variance(mask_S_Q)

    def _spread_of_variance(self, mask_S_Q: Floats) -> Floats:
        """Return the 3 x 3 matrix T with Var(v) = 2 theta' T theta, T_kl = tr(Q V_k Q V_l), v = y' Q y.

        Q = w_e I + U C U' with U the 0/1 columns of seeds and questions, so no matrix is larger than their number.
        """
        seeds = len(self.per_seed_S)
        w_s, w_q, w_e = self.weights @ self._solve
        gram = np.block([[np.diag(self.per_seed_S), mask_S_Q], [mask_S_Q.T, np.diag(self.per_question_Q)]])
        core = np.diag(np.concatenate([w_s / self.per_seed_S, w_q / self.per_question_Q]))
        core[:seeds, :seeds] -= (w_s + w_q + w_e) / self.n
        gc = gram @ core
        once = w_e * gram + gc @ gram  # U' Q U
        twice = w_e**2 * gram + 2 * w_e * gc @ gram + gc @ gc @ gram  # U' Q Q U
        ss, sq, qq = once[:seeds, :seeds], once[:seeds, seeds:], once[seeds:, seeds:]
        se, qe = np.trace(twice[:seeds, :seeds]), np.trace(twice[seeds:, seeds:])
        ee = w_e**2 * self.n + 2 * w_e * np.trace(gc) + np.trace(gc @ gc)
        return np.array([[(ss**2).sum(), (sq**2).sum(), se], [(sq**2).sum(), (qq**2).sum(), qe], [se, qe, ee]])

    def fit(self, values_B_S_Q: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return mean, components (B x 3, none below 0), variance of the mean and degrees of freedom of B tables.

        What stands in cells without a value is not read. Where nothing varies, the degrees of freedom are NaN.
        """
        y_B_S_Q = np.where(self.present_S_Q, values_B_S_Q, 0.0)
        mean_B = y_B_S_Q.sum(axis=(1, 2)) / self.n
        # About the mean, which changes no expectation and loses fewer digits.
        y_B_S_Q = np.where(self.present_S_Q, y_B_S_Q - mean_B[:, None, None], 0.0)
        squares_B_3 = np.stack(
            [
                (y_B_S_Q.sum(axis=2) ** 2 / self.per_seed_S).sum(axis=1),
                (y_B_S_Q.sum(axis=1) ** 2 / self.per_question_Q).sum(axis=1),
                (y_B_S_Q**2).sum(axis=(1, 2)),
            ],
            axis=1,
        )
        parts_B_3 = np.maximum(squares_B_3 @ self._solve.T, 0.0)
        variance_B = parts_B_3 @ self.weights
        with np.errstate(invalid="ignore", divide="ignore"):
            df_B = variance_B**2 / np.einsum("bk,kl,bl->b", parts_B_3, self._spread, parts_B_3)
        return mean_B, parts_B_3, variance_B, df_B


def crossed_mean(
    values_S_Q: ArrayLike | Sequence[Sequence[float | None]], *, level: float = LEVEL, min_seeds: int = MIN_UNITS
) -> CrossedMean:
    """Return the mean over seeds and questions with the primary interval, or without one below five seeds.

    For a contrast pass the differences of two arms cell by cell: the arms must share seeds and questions.

    Args:
        values_S_Q: one row per seed, one column per question; the mean over the samples of the cell. None and NaN are
            missing cells. Each cell should rest on the same number of samples.
        level: coverage, in (0, 1).
        min_seeds: with fewer seeds there is no population interval; never below 2.

    Raises:
        SpecError: where the table is empty or ragged, has an infinite value, or `level` is not in (0, 1).
    """
    table_S_Q, per_seed = _table(values_S_Q)
    present_S_Q = ~np.isnan(table_S_Q)
    seeds, questions = table_S_Q.shape
    method = f"{100 * level:g} % t interval of the mean, random seeds and questions, Satterthwaite's df"
    mean = float(np.nanmean(table_S_Q))
    seeds_only = these_seeds_only(table_S_Q, level=level)
    counts = (seeds, questions, int(present_S_Q.sum()))

    def without_bounds(reason: str) -> CrossedMean:
        interval = Interval(mean, None, None, seeds, method, reason)
        return CrossedMean(interval, seeds_only, per_seed, None, None, None, None, None, None, *counts)

    try:
        layout = Layout(present_S_Q)
    except SpecError as error:
        return without_bounds(str(error))
    parts_3, variance, df = (found[0] for found in layout.fit(table_S_Q[None])[1:])
    components = Components(*(float(part) for part in parts_3))
    if not variance > (1e-12 * max(1.0, abs(mean))) ** 2:
        return without_bounds("no value differs from another; for counted events see the exact bound")
    effect = float(variance) * layout.n / components.total
    deviation = float(np.sqrt(variance))
    half = float(_scipy_stats.t.ppf(0.5 + level / 2, df)) * deviation
    need = max(2, min_seeds)
    interval = (
        Interval(
            mean, None, None, seeds, method, f"{counted(seeds, 'seed')}; a population interval needs at least {need}"
        )
        if seeds < need
        else Interval(mean, mean - half, mean + half, seeds, method, None)
    )
    detectable = minimum_detectable_effect(deviation, float(df))
    known = (components, deviation, float(df))
    if seeds < need:
        return CrossedMean(interval, seeds_only, per_seed, *known, None, None, None, *counts)
    return CrossedMean(interval, seeds_only, per_seed, *known, effect, layout.n / effect, detectable, *counts)


def these_seeds_only(values_S_Q: Floats, *, level: float = LEVEL, unit: str = "question") -> Interval:
    """Return Student's t interval over questions of the mean over exactly these seeds.

    One value per question, its mean over the seeds; a question that some seed lacks is left out, because seeds of
    unequal level would otherwise count as unequal questions. It says nothing of a seed that was not run.

    Args:
        values_S_Q: one row per seed, one column per question; NaN where a cell is missing.
        level: coverage, in (0, 1).
        unit: what a column stands for, for the text.
    """
    whole_Q = ~np.isnan(values_S_Q).any(axis=0)
    found = t_interval(values_S_Q[:, whole_Q].mean(axis=0).tolist(), level=level, unit=unit)
    dropped = int((~whole_Q).sum())
    note = f", without {counted(dropped, unit)} that a seed lacks" if dropped else ""
    method = f"these seeds only: {found.method}{note}"
    return Interval(found.estimate, found.low, found.high, found.n, method, found.reason)


def _table(values_S_Q: ArrayLike | Sequence[Sequence[float | None]]) -> tuple[Floats, tuple[float | None, ...]]:
    """Return the table without empty rows and columns, and the mean of every row that was given."""
    try:
        table_S_Q = np.array(values_S_Q, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SpecError(f"a table of seeds x questions must be rectangular and of numbers: {error}") from error
    if table_S_Q.ndim != 2:
        raise SpecError(f"a table of seeds x questions has {counted(table_S_Q.ndim, 'dimension')}; accepted: 2")
    if np.isinf(table_S_Q).any():
        seed, question = np.argwhere(np.isinf(table_S_Q))[0]
        raise SpecError(f"seed {seed}, question {question} of a table is infinite; accepted: finite numbers or None")
    present_S_Q = ~np.isnan(table_S_Q)
    if not present_S_Q.any():
        raise SpecError("a table of seeds x questions has no value at all")
    means = tuple(
        float(np.nanmean(row)) if there.any() else None for row, there in zip(table_S_Q, present_S_Q, strict=True)
    )
    return table_S_Q[present_S_Q.any(axis=1)][:, present_S_Q.any(axis=0)], means
