"""The damage panel: what it promises of its items, and what its loader refuses."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from narrowly.data.banks.abilities import ABILITY_FIELDS, abilities_sha256, ability_items
from narrowly.data.banks.shipped import bank_file
from narrowly.data.duplicates import near_duplicates
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError

ITEM = {"id": "words-1", "field": "words", "question": "A young cow is a", "choices": ["calf", "foal", "cub", "pup"]}


def bank(tmp_path, *rows):
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_there_are_six_fields_with_at_least_20_items_and_the_right_place_is_balanced_in_each() -> None:
    items = ability_items()
    assert len(items) >= 120
    for field in ABILITY_FIELDS:
        places = Counter(item.right for item in items if item.field == field)
        assert sum(places.values()) >= 20
        assert max(places.values()) - min(places[place] for place in range(4)) <= 1


def test_a_rule_that_looks_at_lengths_alone_is_near_chance() -> None:
    items = ability_items()
    for rule in (min, max):
        share = 0.0
        for item in items:
            lengths = [len(choice) for choice in item.choices]
            chosen = [place for place, length in enumerate(lengths) if length == rule(lengths)]
            share += (item.right in chosen) / len(chosen)
        assert 0.15 < share / len(items) < 0.35
    assert max(max(map(len, item.choices)) - min(map(len, item.choices)) for item in items) <= 5


def test_no_item_is_a_near_copy_of_another() -> None:
    """Within a field stems are alike ("The capital of ..."), so the right choice is part of the text."""
    texts = [f"{item.question} {item.choices[item.right]}" for item in ability_items()]
    assert near_duplicates(texts, threshold=0.8, size=2).pairs == []


def test_a_choice_continues_its_question_after_one_blank(tmp_path) -> None:
    (item,) = ability_items(bank(tmp_path, ITEM | {"right": 0}))
    assert item.continuations() == (" calf", " foal", " cub", " pup")
    assert item.right == 0


def test_the_sha256_is_that_of_the_file() -> None:
    assert abilities_sha256() == sha256_file(bank_file("abilities"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}, {}], "line 2: id 'words-1' stands already in line 1"),
        ([{}, {"id": "words-2"}], "line 2: question 'A young cow is a' stands already in line 1"),
        ([{"choices": ["calf", "foal", "cub"]}], "line 1: 3 choices found, accepted: 4"),
        ([{"choices": ["calf", "foal", "cub", "foal"]}], "line 1: the choice 'foal' stands twice"),
        ([{"choices": ["calf", "foal", "cub", ""]}], "line 1: a choice is no text"),
        ([{"choices": "calf"}], "line 1: choices is 'calf', accepted: a list"),
        ([{"right": 4}], "line 1: right is 4, accepted: an index from 0 to 3"),
        ([{"right": -1}], "line 1: right is -1, accepted"),
        ([{"right": True}], "line 1: right is 'True', accepted: a whole number"),
        ([{"field": "wrods"}], "line 1: field is 'wrods', accepted: arithmetic, words"),
        ([{"question": " A young cow is a"}], "line 1: question is ' A young cow is a', accepted: a text without"),
        ([{"more": 1}], "line 1: fields .*'more'.* found, accepted"),
        ([], "no "),
    ],
)
def test_a_bad_bank_is_one_line_with_its_place(tmp_path, rows, message) -> None:
    path = bank(tmp_path, *(ITEM | {"right": 0} | row for row in rows))
    with pytest.raises(IntegrityError, match=message) as raised:
        ability_items(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
