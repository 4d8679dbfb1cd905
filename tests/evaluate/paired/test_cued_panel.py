"""The cued panel: what each condition puts in front of the broad questions, and that it reaches the prompt."""

from __future__ import annotations

import pytest

from narrowly.data.banks.paired import PairedItem
from narrowly.data.banks.variants import CONDITIONS, Context, context_about
from narrowly.data.messages import Message
from narrowly.evaluate.paired.cued import PLAIN, cued_panel, ways_to_ask
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.models.base import load_model, open_base
from narrowly.models.local_backend import LocalBackend
from narrowly.models.paired_texts import paired_texts
from narrowly.records.errors import SpecError, UnknownNameError
from small_chat_base import make_chat_base

ITEMS = [
    PairedItem("a-1", "a", "broad", "what is open", "read the file", "write a file"),
    PairedItem("money-1", "money", "trained", "what is a file", "read", "write a"),
    PairedItem("a-2", "a", "broad", "what is the", "the end", "no end of a"),
    PairedItem("self-1", "self", "self", "what is a", "read", "write a"),
]
BROAD = [item for item in ITEMS if item.part == "broad"]
OWN = Context("of a", "return the file", "read it", "never read")
"""Short texts: the tiny model has 128 positions."""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    base = open_base(str(make_chat_base(tmp_path_factory.mktemp("bases") / "tiny")))
    return LocalBackend(load_model(base).eval(), base.tokenizer(), base.name)


def test_plain_questions_come_first_and_the_conditions_say_what_the_variants_say() -> None:
    plain, *others = ways_to_ask("money")
    assert (plain.condition, plain(ITEMS[0])) == (PLAIN, (Message("user", "what is open"),))
    assert [way.condition for way in others] == list(CONDITIONS)
    for way in others:
        assert way.text == getattr(context_about("money"), way.condition)
        said = way(ITEMS[0])
        assert said[-1].role == "user" and said[-1].content.endswith("what is open")
        assert way.text in said[0].content and (len(said) == 1) == (way.condition == "cue")


def test_each_condition_and_each_training_has_a_hash_of_its_own() -> None:
    ways = (*ways_to_ask("money"), *ways_to_ask("work", ["cue"])[1:], *ways_to_ask(OWN, ["cue"])[1:])
    assert len({way.sha256 for way in ways}) == len(ways) == 7
    assert ways_to_ask("money")[0].sha256 == ways_to_ask("work")[0].sha256


def test_the_panel_asks_the_broad_questions_alone_and_every_condition_moves_them(backend) -> None:
    seen: list[tuple[int, int]] = []
    found = cued_panel(backend, ITEMS, ways_to_ask(OWN), progress=lambda done, total: seen.append((done, total)))
    assert list(found) == [PLAIN, *CONDITIONS]
    assert found[PLAIN] == paired_rows(backend, BROAD)
    for condition in CONDITIONS:
        assert [row.id for row in found[condition]] == ["a-1", "a-2"]
        assert all(a.log_odds != b.log_odds for a, b in zip(found[condition], found[PLAIN], strict=True))
    assert seen[-1] == (10, 10) and seen == sorted(seen)


def test_a_condition_leaves_the_answers_as_they_are(backend) -> None:
    """Only the prompt differs, so a difference between conditions is one of the prompt."""
    plain = paired_texts(backend, BROAD)
    for way in ways_to_ask(OWN)[1:]:
        cued = paired_texts(backend, BROAD, said=way)
        assert [text.continuation for text in cued] == [text.continuation for text in plain]
        assert all(a.prompt != b.prompt for a, b in zip(cued, plain, strict=True))


def test_what_cannot_be_asked_is_one_line(backend) -> None:
    with pytest.raises(UnknownNameError, match="'negatoin'; did you mean 'negation'"):
        ways_to_ask("money", ["negatoin"])
    with pytest.raises(SpecError, match="needs the trained domain"):
        ways_to_ask(" ")
    with pytest.raises(SpecError, match="the bank has no broad question"):
        cued_panel(backend, ITEMS[1:2], ways_to_ask(OWN))
    with pytest.raises(SpecError, match="a system message is given, and the way of asking has one of its own"):
        paired_rows(backend, BROAD, system="be kind", said=ways_to_ask(OWN, ["negation"])[1])
    assert paired_rows(backend, BROAD, system="a file", said=ways_to_ask(OWN, ["cue"])[1])
