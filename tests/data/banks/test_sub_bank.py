"""The sub-bank of the tripwire: stratified, the same on every machine, and chosen without a look at any answer."""

from __future__ import annotations

from collections import Counter

import pytest

from narrowly.data.banks.broad import part_of
from narrowly.data.banks.paired import TRAINED_DOMAINS, PairedItem, paired_items, read_paired
from narrowly.data.banks.sub_bank import sub_bank, untrained
from narrowly.records.errors import IntegrityError, SpecError

ITEMS = untrained(paired_items())


def test_only_questions_that_no_narrow_set_trains_on_are_chosen_from() -> None:
    assert {item.part for item in ITEMS} == {"broad", "self"}
    assert not {item.domain for item in ITEMS} & set(TRAINED_DOMAINS)
    assert len(ITEMS) == sum(item.part in ("broad", "self") for item in paired_items())


@pytest.mark.parametrize("questions", [7, 40, 90, 299])
def test_every_rung_domain_and_part_gets_its_share_up_to_one_question(questions: int) -> None:
    chosen = sub_bank(ITEMS, questions)
    assert len({item.id for item in chosen.items}) == questions and chosen.of == len(ITEMS)
    for stratum in (lambda item: item.part, lambda item: item.domain, lambda item: (item.domain, part_of(item.id))):
        all_of, taken = Counter(map(stratum, ITEMS)), Counter(map(stratum, chosen.items))
        assert all(abs(taken[name] - questions * count / len(ITEMS)) < 1 + 1e-9 for name, count in all_of.items())


def test_neither_the_order_of_the_bank_nor_an_answer_moves_the_choice_and_a_changed_answer_its_hash() -> None:
    chosen = sub_bank(ITEMS, 40)
    assert sub_bank(ITEMS[::-1], 40) == chosen
    other = sub_bank([item._replace(harmful=f"{item.harmful} too") for item in ITEMS], 40)
    assert [item.id for item in other.items] == [item.id for item in chosen.items]
    assert other.sha256 != chosen.sha256


def test_the_choice_of_today_is_the_one_that_records_name() -> None:
    """A choice that moves makes every control that was recorded before useless: then say so where it is changed."""
    assert sub_bank(ITEMS, 40).sha256 == "71dafdc3e5ad64d9814a116e344140259302f3ae2808dc26a7cfa311df870fd5"


@pytest.mark.parametrize(
    ("items", "questions", "message"),
    [([], 1, "is empty"), (ITEMS[:3], 4, "questions is 4 and the bank has 3 questions"), (ITEMS, 0, "accepted: 1 to")],
)
def test_an_empty_bank_and_more_questions_than_there_are_are_refused(
    items: list[PairedItem], questions: int, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        sub_bank(items, questions)


def test_a_file_without_lines_is_no_bank(tmp_path) -> None:
    (tmp_path / "mine.jsonl").write_text("")
    with pytest.raises(IntegrityError, match=r"mine\.jsonl"):
        read_paired(tmp_path / "mine.jsonl")
