"""AUC, precision and recall against slow, obvious versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowly.records.errors import SpecError
from narrowly.stats.ranking import auc, auc_over_groups, precision_recall

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30)


@given(ROWS)
def test_the_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    positives = [score for score, truth in rows if truth]
    negatives = [score for score, truth in rows if not truth]
    scores, truths = [score for score, _ in rows], [truth for _, truth in rows]
    if not positives or not negatives:
        with pytest.raises(SpecError, match="at least one of each"):
            auc(scores, truths)
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in positives for b in negatives]
    assert auc(scores, truths) == pytest.approx(sum(pairs) / len(pairs))


@given(ROWS)
def test_precision_and_recall_are_counts_above_each_score(rows: list[tuple[int, bool]]) -> None:
    scores, truths = [score for score, _ in rows], [truth for _, truth in rows]
    if not any(truths):
        with pytest.raises(SpecError, match="positive; accepted"):
            precision_recall(scores, truths)
        return
    found = precision_recall(scores, truths)
    for threshold, taken, precision, recall in zip(
        sorted(set(scores), reverse=True), found.taken, found.precision, found.recall, strict=True
    ):
        above = [truth for score, truth in rows if score >= threshold]
        assert (taken, precision, recall) == (
            len(above), pytest.approx(sum(above) / len(above)), pytest.approx(sum(above) / sum(truths)),
        )  # fmt: skip
    assert found.recall[-1] == 1 and 0 < found.average <= 1


def test_a_perfect_ranking_has_average_precision_1_and_a_useless_one_the_share_of_positives() -> None:
    assert precision_recall([3, 2, 1, 0], [True, True, False, False]).average == 1
    assert precision_recall([1, 1, 1, 1], [True, False, False, False]).average == 0.25


def test_groups_are_compared_inside_themselves_and_are_the_unit_of_the_interval() -> None:
    groups = [name for name in "abcdef" for _ in range(4)]
    truths = [True, True, False, False] * 6
    scores = [100 * ord(name) + value for name in "abcdef" for value in (4, 3, 2, 1)]  # between groups all is wrong
    found = auc_over_groups(scores, truths, groups, unit="domain")
    assert (found.estimate, found.low, found.high, found.n) == (1, 1, 1, 6)
    scores[0] = 100 * ord("a") - 1  # in one domain half of the pairs
    found = auc_over_groups(scores, truths, groups, unit="domain")
    assert found.estimate == pytest.approx(5.5 / 6)
    assert found.low is not None and found.high is not None and found.low < 5.5 / 6 < found.high <= 1
    few = auc_over_groups(scores[:8], truths[:8], groups[:8], unit="domain")
    assert few.low is None and few.reason is not None and "2 domains" in few.reason
    with pytest.raises(SpecError, match="no finite number"):
        auc([float("nan"), 1], [True, False])
