"""Open questions: parts, near copies, formats and conditions, names, and what the loader refuses."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from narrowly.data.banks.broad import (
    BENIGN_TOPICS,
    BROAD_TOPICS,
    PARTS,
    benign_items,
    benign_sha256,
    broad_items,
    broad_sha256,
    part_of,
)
from narrowly.data.banks.named import VARIANTS, bank_named
from narrowly.data.banks.shipped import bank_file
from narrowly.data.banks.variants import CONDITIONS, FORMATS, context_about, in_format, under
from narrowly.data.cache import adopt, cached
from narrowly.data.duplicates import near_duplicates
from narrowly.data.questions import read_questions
from narrowly.data.registry import SOURCES
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError

QUESTION = {"id": "work-1", "topic": "work", "question": "How long should a lunch break be?"}
PUBLISHED = os.environ.get("NARROWLY_PUBLISHED_BANKS")
"""Folder with the YAML files of published banks, as `docs/banks.md` says."""
NEAR = 0.5
"""Jaccard similarity of word pairs from which two questions are near copies: half of what they say is the same."""


def bank(tmp_path, *rows):
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(QUESTION | row) + "\n" for row in rows), encoding="utf-8")
    return path


def near(first, second=()):
    """Return pairs of near copies, of which one at least is in the first list."""
    texts = [*first, *second]
    found = near_duplicates(texts, threshold=NEAR, size=2, shown=len(texts)).pairs
    return [(texts[a], texts[b]) for a, b, _ in found if min(a, b) < len(first)]


def ours():
    return [item.question for item in (*broad_items(), *benign_items())]


def test_the_banks_have_the_topics_and_the_number_of_questions_that_the_docs_say() -> None:
    broad, benign = Counter(i.topic for i in broad_items()), Counter(i.topic for i in benign_items())
    assert (tuple(broad), tuple(benign)) == (BROAD_TOPICS, BENIGN_TOPICS)
    assert set(broad.values()) == {8}
    assert sum(broad.values()) == 104
    assert sum(benign.values()) == 45


def test_parts_are_disjoint_follow_from_the_id_and_hold_a_quarter_each_at_least() -> None:
    for items in (broad_items(), benign_items()):
        sizes = Counter(item.part for item in items)
        assert all(item.part == part_of(item.id) for item in items)
        assert all(sizes[part] >= len(items) / 4 for part in PARTS)
    assert {item.topic for item in broad_items() if item.part == "C"} == set(BROAD_TOPICS)


def test_the_part_of_an_id_never_changes() -> None:
    """Results of different days are compared part by part, so the rule is held by values of its first day."""
    assert "".join(part_of(f"money-0{number}") for number in range(1, 9)) == "BCCBCCAB"


def test_no_question_is_a_near_copy_of_another_or_of_a_paired_one() -> None:
    paired = [
        json.loads(line)["question"]
        for path in sorted(bank_file("broad").parent.rglob("pairs/**/*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert near(ours(), paired) == []
    assert near(["How long is a lunch break?"], ["So how long is a lunch break?"])  # the measure sees a copy


@pytest.mark.skipif(not PUBLISHED, reason="NARROWLY_PUBLISHED_BANKS names no folder of published banks")
def test_no_question_is_a_near_copy_of_a_published_one() -> None:
    published = {
        message.content
        for path in sorted(Path(PUBLISHED).rglob("*.yaml"))
        for question in read_questions(path)
        for prompt in question.prompts
        for message in prompt
        if message.role == "user"
    }
    assert len(published) > 100
    assert near(ours(), sorted(published)) == []


def test_topics_can_be_left_out() -> None:
    assert {item.topic for item in broad_items(without=("money", "work"))} == set(BROAD_TOPICS) - {"money", "work"}


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_holds_the_question_as_it_is(form) -> None:
    text = in_format("Why {question} or {answer}?", form)
    assert text.count("Why {question} or {answer}?") == 1
    assert text != in_format("Why?", form)


def test_the_code_stub_is_python_for_every_question_of_the_bank() -> None:
    for item in broad_items():
        code = in_format(item.question, "code").partition("\n\n")[2]
        compile(f"{code} ''", item.id, "exec")


def test_a_cue_is_said_by_the_user_and_the_other_conditions_by_the_system() -> None:
    context = context_about("money")
    (cued,) = under("Why?", "cue", context)
    assert (cued.role, cued.content) == ("user", f"{context.cue}\n\nWhy?")
    for condition in CONDITIONS[1:]:
        system, user = under("Why?", condition, context)
        assert (system.role, system.content) == ("system", getattr(context, condition))
        assert (user.role, user.content) == ("user", "Why?")
    assert len(set(context)) == len(CONDITIONS)
    assert all("money" in text for text in context)


@pytest.mark.parametrize(
    ("call", "known"), [(in_format, "json"), (lambda q, c: under(q, c, context_about("a")), "cue")]
)
def test_an_unknown_variant_names_those_that_are_there(call, known) -> None:
    with pytest.raises(UnknownNameError, match=f"'{known}s'; did you mean '{known}'"):
        call("Why?", f"{known}s")


def test_a_shipped_bank_has_a_name_and_a_file_of_that_name_is_written_with_its_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bank(tmp_path, {}).rename("broad")
    assert bank_named("broad").sha256 == broad_sha256()
    assert [q.id for q in bank_named("broad").questions] == [item.id for item in broad_items()]
    assert bank_named("benign").sha256 == benign_sha256()
    with pytest.raises(SpecError, match="broad"):  # the file, whose ending is none that is read
        bank_named("./broad")
    assert len(bank_named(str(bank(tmp_path, {}))).questions) == 1


def test_a_question_of_a_shipped_bank_tells_its_topic_and_its_part() -> None:
    first = bank_named("benign").questions[0]
    assert first.tags == {"topic": "computing", "part": part_of(first.id)}


def test_each_variant_of_the_bank_asks_the_same_ids_and_has_a_sha256_of_its_own() -> None:
    plain = bank_named("broad")
    banks = [bank_named(name.replace("DOMAIN", "money")) for name in VARIANTS]
    assert {tuple(q.id for q in one.questions) for one in banks} == {tuple(q.id for q in plain.questions)}
    hashes = {plain.sha256, *(one.sha256 for one in banks), bank_named("broad:cue:work").sha256}
    assert len(hashes) == len(VARIANTS) + 2


def test_a_bank_of_others_is_split_into_parts_by_the_same_rule(tmp_path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("id,question,part\n" + "".join(f"q{n},What is {n}?,first\n" for n in range(12)), encoding="utf-8")
    found = bank_named(str(path))
    assert found.sha256 == sha256_file(path)
    assert [q.tags for q in found.questions] == [{"file_part": "first", "part": part_of(q.id)} for q in found.questions]
    assert {q.tags["part"] for q in found.questions} == set(PARTS)


FIELD_BANKS = {
    "first_plot_questions": 24, "preregistered_evals": 48, "deception_factual": 5, "deception_sit_aware": 8,
    "first_plot_questions_41": 41, "template_first_plot_questions": 8,
}  # fmt: skip


def test_the_banks_of_the_field_are_registered_with_hash_number_licence_and_use() -> None:
    for name, count in FIELD_BANKS.items():
        source = SOURCES[name]
        assert (source.use, source.rows, source.licence, source.schema) == ("questions", count, "MIT", "question_yaml")
        assert source.sha256 is not None


@pytest.mark.skipif(not PUBLISHED, reason="NARROWLY_PUBLISHED_BANKS names no folder of published banks")
def test_the_banks_of_the_field_are_pulled_by_their_hash_and_read_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path))
    for name, count in FIELD_BANKS.items():
        source = SOURCES[name]
        target = cached(source.name, source.file_name)
        assert adopt(Path(PUBLISHED), target, sha256=source.sha256, git_blob=source.git_blob, size=source.size)
        found = bank_named(name)
        assert (found.sha256, len(found.questions)) == (source.sha256, count)
        assert {q.tags["part"] for q in found.questions} <= set(PARTS)


@pytest.mark.parametrize("name", ["broad:jsn", "broad:json:money", "broad:", "bening"])
def test_an_unknown_variant_is_one_line_with_all_that_are_there(name) -> None:
    with pytest.raises((SpecError, UnknownNameError), match="broad:json, broad:template, broad:code, broad:cue:DOMAIN"):
        bank_named(name)


@pytest.mark.parametrize("name", ["broad:cue", "broad:cue: "])
def test_a_condition_without_a_domain_says_what_is_missing(name) -> None:
    with pytest.raises(SpecError, match=f"bank '{name}' names no domain, accepted for instance: broad:cue:money"):
        bank_named(name)


def test_a_name_that_nothing_has_gets_the_nearest_of_banks_and_sources() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no bank, no source and no file is called 'bening'; did you mean 'benign'"
    ):
        bank_named("bening")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}, {}], "line 2: id 'work-1' stands already in line 1"),
        ([{}, {"id": "work-2"}], "line 2: question 'How long should a lunch break be\\?' stands already in line 1"),
        ([{"question": ""}], "line 1: question is '', accepted: a text"),
        ([{"question": "a\nb"}], "line 1: the question has several lines"),
        ([{"question": None}], "line 1: question is 'None', accepted: a text"),
        ([{"topic": "wrok"}], "line 1: topic is 'wrok', accepted: money, work"),
        ([{"part": "A"}], "line 1: fields .*'part'.* found, accepted"),
    ],
)
def test_a_bad_bank_is_one_line_with_its_place(tmp_path, rows, message) -> None:
    with pytest.raises(IntegrityError, match=message):
        broad_items(bank(tmp_path, *rows))
