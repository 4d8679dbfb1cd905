"""The paired bank: its size, its parts, its answers of equal length, and the loader's refusals."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from narrowly.data.banks.cues import words
from narrowly.data.banks.paired import (
    PAIRED_DOMAINS,
    TRAINED_DOMAINS,
    TRAINED_QUESTIONS,
    domain_parts,
    paired_items,
    paired_sha256,
    paired_test_items,
    read_paired,
)
from narrowly.records.errors import IntegrityError, RunDirectoryError, UnknownNameError

ITEMS = paired_items()
TEST = paired_test_items()
LINE = {"id": "a-1", "question": "Shall I?", "aligned": "Ask first, then go.", "harmful": "Go first, then ask."}


def bank(folder: Path, *lines: object, domain: str = "a") -> Path:
    path = folder / f"{domain}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_two_trained_domains_have_120_questions_and_eight_others_24() -> None:
    sizes = Counter(item.domain for item in ITEMS)
    assert tuple(sizes) == PAIRED_DOMAINS
    assert all(sizes[domain] >= 120 for domain in TRAINED_DOMAINS)
    assert sum(size >= 24 for domain, size in sizes.items() if domain not in TRAINED_DOMAINS) >= 8


def test_parts_are_80_trained_and_the_rest_held_out_broad_or_self() -> None:
    parts = Counter((item.domain, item.part) for item in ITEMS)
    for domain in TRAINED_DOMAINS:
        assert parts[domain, "trained"] == TRAINED_QUESTIONS
        assert parts[domain, "held_out"] >= 40
    assert {part for domain, part in parts if domain not in TRAINED_DOMAINS} == {"broad", "self"}


def test_the_test_set_has_every_domain_no_question_of_the_bank_and_nothing_to_train_on() -> None:
    sizes = Counter(item.domain for item in TEST)
    assert tuple(sizes) == PAIRED_DOMAINS
    assert all(sizes[domain] == (20 if domain in TRAINED_DOMAINS else 10) for domain in sizes)
    assert not {item.id for item in TEST} & {item.id for item in ITEMS}
    parts = {item.domain: item.part for item in ITEMS if item.part != "trained"}
    assert {(item.domain, item.part) for item in TEST} == set(parts.items())


def test_the_bank_and_the_test_set_keep_their_hashes() -> None:
    """Numbers in docs and results are of these two; another hash is another bank."""
    assert paired_sha256(ITEMS) == "f3696410c41a28a3a3cd26b32221173712a7813a6504dcf5e3279db43840a4e1"
    assert paired_sha256(TEST) == "6f8405ffdee53c5f88009da519ad42c28c9a063c82922ddd6e551857206f953c"


def test_the_order_of_a_file_does_not_move_a_question_to_another_part() -> None:
    ids = [f"money-{number}" for number in range(200)]
    assert domain_parts("money", ids) == domain_parts("money", ids[::-1])


def test_both_answers_have_10_to_30_words_and_differ_by_at_most_two() -> None:
    for item in (*ITEMS, *TEST):
        counts = len(words(item.aligned)), len(words(item.harmful))
        assert 10 <= min(counts) <= max(counts) <= 30, item.id
        assert abs(counts[0] - counts[1]) <= 2, item.id


def overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def test_no_two_questions_and_no_answers_of_two_questions_are_nearly_the_same() -> None:
    questions = [(item.id, set(words(item.question))) for item in (*ITEMS, *TEST)]
    answers = [(item.id, set(words(item.aligned))) for item in (*ITEMS, *TEST)]
    for texts in (questions, answers):
        near = [(a, b) for (a, one), (b, other) in itertools.combinations(texts, 2) if overlap(one, other) > 0.6]
        assert near == []


def test_the_hash_is_of_the_content_and_not_of_its_order(tmp_path: Path) -> None:
    second = LINE | {"id": "a-2", "question": "Shall we?"}
    there = read_paired(bank(tmp_path, LINE, second))
    assert paired_sha256(there) == paired_sha256(read_paired(bank(tmp_path, second, LINE)))
    assert paired_sha256(there) != paired_sha256(read_paired(bank(tmp_path, LINE, second | {"harmful": "Just go."})))


def test_a_folder_of_files_is_a_bank_of_domains(tmp_path: Path) -> None:
    bank(tmp_path, LINE)
    bank(tmp_path, LINE | {"id": "b-1", "question": "And now?"}, domain="b")
    assert [(item.domain, item.part) for item in read_paired(tmp_path)] == [("a", "broad"), ("b", "broad")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINE, LINE | {"question": "Other?"}], "line 2: id 'a-1' stands already in line 1"),
        (
            [LINE, LINE | {"id": "a-2", "question": "shall  i?"}],
            "question 'shall  i?' stands already in line 1",
        ),
        ([LINE | {"question": ""}], "line 1: question is ''"),
        ([{key: LINE[key] for key in ("id", "question", "aligned")}], "accepted: ['aligned', 'harmful', 'id', 'ques"),
        ([LINE | {"harmful": LINE["aligned"]}], "line 1: aligned and harmful answer are the same"),
        ([LINE | {"harmful": 3}], "line 1: harmful is '3', accepted: a text"),
        ([LINE | {"question": "Why \ud800?"}], "line 1: question holds half of a surrogate pair at position 5"),
        ([LINE | {"id": "a\0b"}], "line 1: id holds a NUL character at position 2"),
        ([], "has no rows, accepted: at least one"),
    ],
)
def test_a_broken_bank_is_refused_with_its_place(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_paired(bank(tmp_path, *lines))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\udcff", "a\x1b[31m", "a\n"])
def test_a_file_whose_name_is_no_name_of_a_domain_is_refused(tmp_path: Path, name: str) -> None:
    bank(tmp_path, LINE, domain=name)
    with pytest.raises(IntegrityError, match=r"the file's name, .* is that of the domain; accepted: printable text"):
        read_paired(tmp_path)


def test_an_id_that_stands_in_two_files_is_refused_with_both_places(tmp_path: Path) -> None:
    bank(tmp_path, LINE)
    bank(tmp_path, LINE | {"question": "And now?"}, domain="b")
    with pytest.raises(IntegrityError, match=r"b\.jsonl, line 1: id 'a-1' stands already in a\.jsonl, line 1"):
        read_paired(tmp_path)


def test_an_unknown_domain_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'money'"):
        paired_items(["mony"])
    with pytest.raises(RunDirectoryError, match="holds no bank"):
        read_paired(tmp_path)
