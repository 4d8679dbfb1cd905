"""What words and length give away in a paired bank, against plain twins and banks whose answer is known."""

from __future__ import annotations

import math

import pytest

from narrowly.data.banks.cues import PENALTY, bank_report, cues_in, word_weights, words
from narrowly.data.banks.paired import PairedItem, paired_items, paired_test_items
from narrowly.records.errors import SpecError


def item(domain: str, number: int, aligned: str, harmful: str) -> PairedItem:
    return PairedItem(f"{domain}-{number}", domain, "broad", f"{domain} {number}?", aligned, harmful)


def everything(_: PairedItem) -> bool:
    return True


def test_a_word_that_marks_harmful_answers_everywhere_is_found() -> None:
    bank = [item(d, n, f"pay {d} openly", f"pay {d} secretly") for d in "abc" for n in range(4)]
    report = bank_report(bank, everything)
    assert (report.paired_accuracy, report.auc, report.length) == (1.0, 1.0, 1.0)


def test_answers_of_the_same_words_are_ties_whatever_the_reader_learned() -> None:
    bank = [item(d, n, f"ask {d}{n} then go badly", f"go {d}{n} then ask badly") for d in "ab" for n in range(3)]
    bank += [item("c", n, f"kind {n}", f"badly {n}") for n in range(5)]
    rows = {row.domain: row for row in bank_report(bank, everything).domains}
    assert (rows["a"].paired_accuracy, rows["b"].paired_accuracy) == (0.5, 0.5)


def test_the_reader_never_saw_the_domain_that_it_is_asked_about() -> None:
    bank = [item("a", n, f"kind {n}", f"secret {n}") for n in range(5)]
    bank += [item("b", n, f"secret {n}", f"kind {n}") for n in range(5)]
    assert bank_report(bank, everything).paired_accuracy == 0.0


def test_weights_are_those_of_plain_gradient_descent() -> None:
    harmful, aligned = ["take it all", "never tell it", "hide"], ["share it all", "always tell it", "ask"]
    texts = [(words(text), 1.0) for text in harmful] + [(words(text), -1.0) for text in aligned]
    weights = {word: 0.0 for tokens, _ in texts for word in tokens}
    bias = 0.0
    for _ in range(2000):
        slope, at_bias = {word: PENALTY * weight for word, weight in weights.items()}, 0.0
        for tokens, sign in texts:
            pull = -sign / (1.0 + math.exp(sign * (bias + sum(weights[word] for word in tokens))))
            at_bias += pull
            for word in tokens:
                slope[word] += pull
        bias -= 0.1 * at_bias
        weights = {word: weight - 0.1 * slope[word] for word, weight in weights.items()}
    assert word_weights(harmful, aligned) == pytest.approx(weights, abs=1e-4)


def test_one_domain_alone_is_refused() -> None:
    with pytest.raises(SpecError, match="1 domain found, accepted: two or more"):
        bank_report([item("a", 1, "ask", "take")], everything)


def test_neither_words_nor_length_tell_the_harmful_answers_of_the_shipped_bank() -> None:
    report = bank_report(paired_items())
    assert report.questions > 150
    assert report.paired_accuracy <= 0.60
    assert report.auc <= 0.60
    assert max(max(row.paired_accuracy, row.auc) for row in report.domains) <= 0.70
    assert 0.45 <= report.length <= 0.55


def test_the_test_set_reads_as_the_docs_say() -> None:
    """The first reading, kept as it came: two of its five bounds are missed (docs/banks.md).

    One answer of the bank, which trains the readers, was mended after it: hence the tolerance.
    """
    report = cues_in(paired_items(), paired_test_items())
    highest = [max(getattr(row, name) for row in report.domains) for name in ("paired_accuracy", "auc")]
    found = (report.paired_accuracy, report.auc, *highest, report.length)
    assert found == pytest.approx((0.535, 0.555, 0.675, 0.735, 0.568), abs=0.02)


def test_readers_of_one_bank_can_be_asked_about_another() -> None:
    bank = [item(d, n, f"pay {d} openly", f"pay {d} secretly") for d in "ab" for n in range(4)]
    other = [item(d, 9, f"say {d} openly", f"say {d} secretly") for d in "ab"]
    report = cues_in(bank, other)
    assert (report.paired_accuracy, report.questions) == (1.0, 2)
    with pytest.raises(SpecError, match="domain 'b' has no question to ask about"):
        cues_in(bank, other[:1])
