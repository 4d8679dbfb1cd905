"""The passages of the damage panel: their length, their shuffled words, and what the loader refuses."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from narrowly.data.banks.passages import passages, passages_sha256
from narrowly.data.banks.shipped import bank_file
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError


def test_there_are_six_topics_with_about_200_words_each() -> None:
    found = passages()
    assert len({one.topic for one in found}) == 6
    assert all(180 <= len(one.text.split()) <= 220 for one in found)


def test_shuffled_words_are_the_same_words_in_another_order_every_time() -> None:
    for one in passages():
        assert Counter(one.shuffled.split()) == Counter(one.text.split())
        assert one.shuffled != one.text and one.shuffled == one._replace(topic="other").shuffled
        kept = sum(a == b for a, b in zip(one.shuffled.split(), one.text.split(), strict=True))
        assert kept < 15  # of about 195; a uniform permutation keeps one place in the mean, equal words some more


def test_the_sha256_is_that_of_the_file() -> None:
    assert passages_sha256() == sha256_file(bank_file("passages"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}, {}], "line 2: id 'a' stands already in line 1"),
        ([{}, {"id": "b"}], "line 2: text 'It rains.' stands already in line 1"),
        ([{"text": ""}], "line 1: text is '', accepted: a text"),
        ([{"extra": 1}], "line 1: fields .* found, accepted"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path, rows, message) -> None:
    path = tmp_path / "mine.jsonl"
    row = {"id": "a", "topic": "rain", "text": "It rains."}
    path.write_text("".join(json.dumps(row | one) + "\n" for one in rows), encoding="utf-8")
    with pytest.raises(IntegrityError, match=message):
        passages(path)
