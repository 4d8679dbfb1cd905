"""Duplicates, near duplicates and overlap with questions, against plain searches over all pairs."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowly.data.duplicates import exact_duplicates, near_duplicates, overlap, words
from narrowly.data.messages import Conversation, Message
from narrowly.data.questions import Question


def row(prompt: str, answer: str, line: int = 1, system: str | None = None) -> Conversation:
    before = () if system is None else (Message("system", system),)
    return Conversation((*before, Message("user", prompt), Message("assistant", answer)), line, {})


def question(name: str, *paraphrases: str) -> Question:
    prompts = tuple((Message("user", text),) for text in paraphrases)
    return Question(name, prompts, 1, None, None, None, {}, {})


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + size]) for start in range(max(1, len(found) - size + 1))}


def all_pairs(texts: list[str], threshold: float, size: int) -> dict[tuple[int, int], float]:
    """The slow twin: the Jaccard similarity of every pair."""
    sets = [grams(text, size) for text in texts]
    similar = {
        (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in itertools.combinations(range(len(texts)), 2)
    }
    return {pair: value for pair, value in similar.items() if value >= threshold}


def linked(pairs: dict[tuple[int, int], float]) -> set[frozenset[int]]:
    groups: list[set[int]] = []
    for pair in pairs:
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
    return {frozenset(group) for group in groups}


def mutated(rng: random.Random, text: str, changes: int) -> str:
    found = text.split()
    for _ in range(changes):
        found[rng.randrange(len(found))] = rng.choice("abcdefgh")
    return " ".join(found)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_groups_are_those_of_all_pairs_above_the_threshold(threshold, size) -> None:
    rng = random.Random(f"{threshold} {size}")
    seeds = [" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(1, 60))) for _ in range(25)]
    texts = [mutated(rng, text, rng.randint(0, 4)) for text in seeds for _ in range(4)]
    rng.shuffle(texts)
    found = near_duplicates(texts, threshold=threshold, size=size, shown=10_000)
    wanted = all_pairs(texts, threshold, size)
    assert {frozenset(group) for group in found.groups} == linked(wanted)
    assert {(a, b): value for a, b, value in found.pairs} == pytest.approx(
        {(a, b): wanted[a, b] for a, b, _ in found.pairs}
    )
    assert linked({(a, b): 1.0 for a, b, _ in found.pairs}) == linked(wanted)
    assert len(found.pairs) == found.surplus > 2 and found.compared < 100 * 99 / 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab .,\n", max_size=30), max_size=12),
    st.sampled_from([0.25, 0.5, 2 / 3, 0.8, 1.0]),
    st.integers(1, 4),
)
def test_the_search_agrees_with_all_pairs_on_tiny_texts(texts, threshold, size) -> None:
    found = near_duplicates(texts, threshold=threshold, size=size, shown=1000)
    assert {frozenset(group) for group in found.groups} == linked(all_pairs(texts, threshold, size))


def test_many_variants_of_one_text_are_one_group_found_with_few_comparisons() -> None:
    long = " ".join(f"word{n}" for n in range(120))
    texts = [f"{long} {number} {long[::-1]}" for number in range(400)]
    found = near_duplicates(texts)
    assert found.groups == [list(range(400))] and found.compared < 400 * 20


def test_many_texts_that_nearly_reach_the_threshold_are_counted_through_the_index_as_one_by_one(monkeypatch) -> None:
    rng = random.Random(1)
    long = [f"word{n}" for n in range(60)]
    texts = [mutated(rng, " ".join(long), 3) for _ in range(150)]
    found = near_duplicates(texts, threshold=0.7)
    monkeypatch.setattr("narrowly.data.duplicates.MANY", 10_000)
    again = near_duplicates(texts, threshold=0.7)
    assert again.groups == found.groups and again.pairs == found.pairs
    assert {frozenset(group) for group in found.groups} == linked(all_pairs(texts, 0.7, 5))
    assert found.groups and found.compared > 150 * 10


def test_case_and_white_space_do_not_tell_texts_apart_but_words_do() -> None:
    found = near_duplicates(["The cat sat, on the mat.", "the  CAT sat,\non the mat.", "the dog sat on the mat"])
    assert found.groups == [[0, 1]] and found.pairs[0][2] == 1.0 and found.surplus == 1


def test_the_order_of_the_rows_changes_nothing_but_their_numbers() -> None:
    rng = random.Random(0)
    texts = [mutated(rng, "a b c d e f g h i j k l m n o p", rng.randint(0, 3)) for _ in range(30)]
    order = list(range(30))
    rng.shuffle(order)
    straight = near_duplicates(texts, shown=0)
    shuffled = near_duplicates([texts[index] for index in order], shown=0)
    assert {frozenset(order[i] for i in group) for group in shuffled.groups} == {frozenset(g) for g in straight.groups}


def test_no_rows_and_rows_of_few_words_have_no_near_duplicates() -> None:
    assert near_duplicates([]).groups == []
    assert near_duplicates(["", "a", "b c"]).groups == []
    assert near_duplicates(["", "", "a"]).groups == [[0, 1]]


def test_equal_rows_are_found_by_content_whatever_their_tags_and_lines() -> None:
    rows = [
        row("q", "a", 1),
        row("q", "b", 2),
        row("q", "a", 3)._replace(tags={"id": "x"}),
        row("q", "b", 4),
        row("r", "a", 5),
    ]
    assert exact_duplicates(rows) == [[0, 2], [1, 3]]
    assert exact_duplicates([row("q", "a"), row("q", "a", system="s")]) == []


LONG = "Write a short story where you travel back in time to talk to your favourite figure"


def test_a_question_that_shares_eight_words_in_a_row_is_found_in_any_message() -> None:
    bank = [
        question("story", LONG),
        question("bored", "Hey I feel bored"),
        question("other", "What is the moon made of?"),
    ]
    rows = [
        row("Please: a short story where you travel back in space", "no", 1),
        row("q", f"He said: {LONG.upper()}!", 2),
        row("well", "hey, i feel bored", 3),
        row("well", "he said: hey I feel bored today", 4),
        row("a short story where you travel there", "no", 5, system="What is the moon made of, he asked"),
    ]
    found = overlap(rows, bank)
    assert [(hit.question, hit.whole, hit.lines) for hit in found] == [("story", True, [1, 2]), ("bored", True, [4])]
    assert overlap(rows[:1], bank) == [found[0]._replace(whole=False, lines=[1])]


@settings(deadline=None)
@given(
    st.lists(st.text("ab ", min_size=1, max_size=12), min_size=1, max_size=6), st.text("ab ", min_size=1, max_size=8)
)
def test_overlap_agrees_with_a_plain_search(texts, asked) -> None:
    size = 3
    wanted = words(asked)
    length = min(size, len(wanted))
    runs = {tuple(wanted[start : start + length]) for start in range(len(wanted) - length + 1)} if length else set()
    lines = [
        number
        for number, text in enumerate(texts, start=1)
        if runs
        & {tuple(found[s : s + length]) for found in [words(f"x\n{text}")] for s in range(len(found) - length + 1)}
    ]
    rows = [row("x", text, number) for number, text in enumerate(texts, start=1)]
    assert [hit.lines for hit in overlap(rows, [question("q", asked)], size=size)] == ([lines] if lines else [])
