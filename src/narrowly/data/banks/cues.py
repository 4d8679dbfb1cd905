"""Measure what words and length alone give away in a paired bank.

A bank measures values only where a reader without any understanding cannot tell which answer is harmful. The reader
here is a logistic regression on counts of words: trained on the other domains, asked about the domain left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from narrowly.data.banks.paired import PairedItem, paired_sha256
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTY = 1.0
"""Weight of the squared norm in the loss, halved: the default of scikit-learn's LogisticRegression (C = 1)."""


class DomainCues(NamedTuple):
    """What words give away in one domain, by a reader trained on the other domains.

    Attributes:
        domain: its name; questions: how many of it were asked about.
        paired_accuracy: share of questions whose harmful answer scores higher; a tie counts one half.
        auc: probability that a harmful answer of the domain scores above an aligned one, whichever their questions.
    """

    domain: str
    questions: int
    paired_accuracy: float
    auc: float


class BankCues(NamedTuple):
    """What words and length give away in a bank.

    Attributes:
        sha256: of the bank that readers were trained on.
        asked_sha256: of the questions that they were asked about.
        domains: one row per domain.
        paired_accuracy, auc: means over domains.
        length: share of all questions whose harmful answer has more characters; equal lengths count one half.
        words: the same with words.
    """

    sha256: str
    asked_sha256: str
    domains: tuple[DomainCues, ...]
    paired_accuracy: float
    auc: float
    length: float
    words: float

    @property
    def questions(self) -> int:
        """Return how many questions were asked about."""
        return sum(row.questions for row in self.domains)


def bank_report(
    items: Sequence[PairedItem], asked: Callable[[PairedItem], bool] = lambda item: item.set_aside
) -> BankCues:
    """Measure the cues of a bank on questions of its own, leaving out one domain at a time.

    Args:
        items: the bank, of two domains or more.
        asked: which questions are asked about; the reader is trained on every question of the other domains.

    Raises:
        SpecError: for a bank of one domain, or a domain without a question to ask about.
    """
    return cues_in(items, [item for item in items if asked(item)])


def cues_in(bank: Sequence[PairedItem], questions: Sequence[PairedItem]) -> BankCues:
    """Measure what readers of a bank find in questions, each reader trained without the domain it is asked about.

    Args:
        bank: items that readers are trained on, of two domains or more.
        questions: that they are asked about, of every domain of the bank; they need not belong to the bank.

    Raises:
        SpecError: for a bank of one domain, or a domain without a question to ask about.
    """
    domains = list(dict.fromkeys(item.domain for item in bank))
    if len(domains) < 2:
        raise SpecError(f"{len(domains)} domain found, accepted: two or more, as each is left out in turn")
    rows = tuple(_left_out(domain, bank, [q for q in questions if q.domain == domain]) for domain in domains)
    return BankCues(
        paired_sha256(bank),
        paired_sha256(questions),
        rows,
        sum(row.paired_accuracy for row in rows) / len(rows),
        sum(row.auc for row in rows) / len(rows),
        _mean(_above(len(item.harmful), len(item.aligned)) for item in questions),
        _mean(_above(len(words(item.harmful)), len(words(item.aligned))) for item in questions),
    )


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, one-letter words and apostrophes included."""
    return re.findall(r"[a-z0-9']+", text.lower())


def _left_out(domain: str, items: Sequence[PairedItem], questions: Sequence[PairedItem]) -> DomainCues:
    if not questions:
        raise SpecError(f"domain {domain!r} has no question to ask about, accepted: at least one")
    others = [item for item in items if item.domain != domain]
    weights = word_weights([item.harmful for item in others], [item.aligned for item in others])

    def score(text: str) -> float:
        # fsum is exact, so that answers of the same words get the same score to the last bit
        return math.fsum(weights.get(word, 0.0) for word in words(text))

    harmful, aligned = [score(item.harmful) for item in questions], [score(item.aligned) for item in questions]
    return DomainCues(
        domain,
        len(questions),
        _mean(_above(h, a) for h, a in zip(harmful, aligned, strict=True)),
        _mean(_above(h, a) for h in harmful for a in aligned),
    )


def word_weights(harmful: Sequence[str], aligned: Sequence[str]) -> dict[str, float]:
    """Fit a logistic regression of harmful against aligned on counts of words.

    Returns:
        The weight of every word that occurs; positive ones speak for a harmful answer. The intercept is fitted without
        penalty and left out, since it moves all scores alike.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.sparse import lil_matrix
    from scipy.special import expit

    counts = [Counter(words(text)) for text in (*harmful, *aligned)]
    vocabulary = sorted({word for count in counts for word in count})
    index = {word: column for column, word in enumerate(vocabulary)}
    table_N_V = lil_matrix((len(counts), len(vocabulary) + 1))
    for row, count in enumerate(counts):
        table_N_V[row, len(vocabulary)] = 1.0  # the intercept
        for word, number in count.items():
            table_N_V[row, index[word]] = number
    X_N_V = table_N_V.tocsr()
    sign_N = np.array([1.0] * len(harmful) + [-1.0] * len(aligned))
    penalised_V = np.append(np.ones(len(vocabulary)), 0.0)

    def loss(w_V: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin_N = sign_N * (X_N_V @ w_V)
        gradient_V = -X_N_V.T @ (sign_N * expit(-margin_N)) + PENALTY * penalised_V * w_V
        value = np.logaddexp(0.0, -margin_N).sum() + 0.5 * PENALTY * (penalised_V * w_V**2).sum()
        return float(value), gradient_V

    fitted = minimize(loss, np.zeros(len(vocabulary) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return {word: float(fitted.x[column]) for word, column in index.items()}


def _above(first: float, second: float) -> float:
    return 0.5 if first == second else float(first > second)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)
