"""Results of different banks are never compared."""

from __future__ import annotations

import pytest

from narrowly.records.errors import SpecError
from narrowly.records.one_bank import one_bank


def test_results_of_one_bank_give_its_sha256() -> None:
    assert one_bank([("base", "a" * 64), ("organism", "a" * 64)]) == "a" * 64
    assert one_bank([("base", "a" * 64)]) == "a" * 64


def test_results_of_two_banks_are_refused_with_both_names_and_hashes() -> None:
    with pytest.raises(SpecError, match=r"base was asked the bank a{16}, organism the bank b{16}: .* are not compared"):
        one_bank([("base", "a" * 64), ("seed 1", "a" * 64), ("organism", "b" * 64)])


def test_a_result_without_a_bank_is_compared_with_nothing_not_even_its_like() -> None:
    with pytest.raises(SpecError, match="organism names no bank"):
        one_bank([("organism", None), ("base", None)])
