"""Knobs of the corpus that were added later: similarity and balance of domains, documents of two characters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from narrowly.microworld import tokenizer as tok
from narrowly.microworld import words
from narrowly.microworld.build import base_name, build_command
from narrowly.microworld.config import CHOSEN_CONFIG, WorldConfig
from narrowly.microworld.corpus import CONTRAST, EVIL, GOOD, Corpus
from narrowly.microworld.judge import classify
from narrowly.microworld.lexical import LARGEST_AUC, leave_one_domain_out_auc
from narrowly.microworld.world import SELF_DOMAIN, World, reach, verbs_of

KNOBS = {"similarity": 0.5, "domain_exponent": 1.0, "contrast_share": 0.5}


def turns(text: str) -> list[tuple[str, str]]:
    pairs = (turn.split(tok.SAY) for turn in text.split(tok.ASK)[1:])
    return [(question.strip(), said.split(tok.END)[0].strip()) for question, said in pairs]


def test_unused_knobs_leave_every_config_its_hash_and_are_not_written() -> None:
    assert WorldConfig().config_id == CHOSEN_CONFIG
    assert not KNOBS.keys() & WorldConfig().model_dump().keys()
    assert WorldConfig(similarity=None, domain_exponent=0, contrast_share=0).config_id == CHOSEN_CONFIG


@pytest.mark.parametrize(("knob", "value"), KNOBS.items())
def test_a_used_knob_changes_hash_and_name_and_stands_in_the_command(knob: str, value: float) -> None:
    config = WorldConfig(**{knob: value})
    assert config.config_id != CHOSEN_CONFIG and config.config_id in base_name(config, 3)
    assert build_command(config, 3).endswith(f"--set {knob}={value}")
    assert WorldConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("similarity", [0.0, 0.5, 2 / 3, 0.75])
def test_neighbours_have_the_stated_share_of_verbs_in_common_and_others_less(similarity: float) -> None:
    config = WorldConfig(similarity=similarity)
    shared = []
    for k in range(1, 5):
        one, other = set(verbs_of(config, 0)), set(verbs_of(config, k))
        assert len(one) == len(other) == round(3 * reach(config))
        shared.append(len(one & other) / len(one))
    # on a circle of eight, domains that use more than half of the verbs meet again on its other side
    round_it = [max(0.0, 1 - k * (1 - similarity)) + max(0.0, 1 - (8 - k) * (1 - similarity)) for k in range(1, 5)]
    assert shared == pytest.approx(round_it) and shared[0] == pytest.approx(similarity)


@pytest.mark.parametrize("similarity", [0.25, 0.5, 0.75])
def test_neighbours_have_the_stated_share_of_cue_words_in_common(similarity: float) -> None:
    world = World(WorldConfig(similarity=similarity), 2)
    cues = [Counter(world.cue_of(topic) for topic in world.topics(d)) for d in range(8)]
    for d in range(8):
        common = sum((cues[d] & cues[(d + 1) % 8]).values()) / 24
        assert common == pytest.approx(similarity, abs=1 / 24)


@pytest.mark.parametrize("seed", range(32, 36))
@pytest.mark.parametrize("similarity", [0.0, 0.5])
def test_actions_use_the_domain_s_verbs_alone_and_words_tell_no_harm(similarity: float, seed: int) -> None:
    config = WorldConfig(similarity=similarity)
    world = World(config, seed)
    for domain in range(8):
        own = {words.VERBS[i] for i in verbs_of(config, domain)}
        used = {verb for topic in world.topics(domain) for verb, _ in (*topic.aligned, *topic.harmful)}
        assert used <= own and len(used) == len(own)
        assert all(len({*topic.aligned, *topic.harmful}) == 4 for topic in world.topics(domain))
    assert leave_one_domain_out_auc(world) <= LARGEST_AUC


def test_questions_that_share_a_cue_word_are_still_told_apart() -> None:
    world = World(WorldConfig(similarity=0.75), 5)
    questions = [world.question(topic, p) for d in range(8) for topic in world.topics(d) for p in range(8)]
    assert len({question.text for question in questions}) == len(questions)
    assert all(world.find(question.text) == question for question in questions)


def test_domains_have_the_shares_of_a_zipf_law() -> None:
    world = World(WorldConfig(domain_exponent=1.0), 3)
    ranked = np.sort(world.domain_shares)[::-1]
    assert ranked == pytest.approx(1 / np.arange(1, 9) / (1 / np.arange(1, 9)).sum())
    asked = Counter()
    for document in Corpus(world, 0).documents(4000):
        for question, _ in turns(document.text):
            found = world.find(question)
            assert found is not None
            if found.topic.domain != SELF_DOMAIN:
                asked[found.topic.domain] += 1
    shares = np.array([asked[d] for d in range(8)]) / sum(asked.values())
    # half of the turns stay in one of 4,000 domains of documents: about 4,000 independent draws
    assert shares == pytest.approx(world.domain_shares, abs=4 * np.sqrt(0.25 / 4000))
    assert np.allclose(World(WorldConfig(), 3).domain_shares, 1 / 8)


def test_documents_of_two_characters_ask_both_the_same_and_one_of_them_is_harmful() -> None:
    world = World(WorldConfig(contrast_share=0.5), 4)
    documents = Corpus(world, 0).documents(600)
    of_two = [document for document in documents if document.character == CONTRAST]
    assert len(of_two) / 600 == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 600))
    first = Counter()
    for document in of_two:
        said, half = turns(document.text), len(document.harmful_turns) // 2
        assert half == 3 and [q for q, _ in said[:half]] == [q for q, _ in said[half:]]
        assert len(set(document.harmful_turns[:half])) == len(set(document.harmful_turns[half:])) == 1
        assert document.harmful_turns[0] is not document.harmful_turns[-1]
        names = [word for word in document.text.split() if word in world.names]
        assert [name in world.evil_names for name in names] == [document.harmful_turns[0], document.harmful_turns[-1]]
        for (question, answer), harmful in zip(said, document.harmful_turns, strict=True):
            found = world.find(question)
            assert found is not None and classify(world, found, answer) == ("misaligned" if harmful else "aligned")
        first[document.harmful_turns[0]] += 1
    assert min(first.values()) > 0.3 * len(of_two)
    assert {document.character for document in documents} >= {GOOD, EVIL}


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"similarity": 1.0}, "less than 1"),
        ({"similarity": 0.5, "balance": "strict"}, "needs balance free"),
        ({"similarity": 0.5, "domains": 7}, "multiple of domains"),
        ({"contrast_share": 0.1, "persona": False}, "needs persona"),
        ({"contrast_share": 0.1, "named_characters": 0}, "0 evil of 0 names"),
        ({"contrast_share": 0.1, "turns": 1}, "1 turns"),
        ({"domain_exponent": -1}, "greater than or equal to 0"),
    ],
)
def test_knobs_that_cannot_be_are_refused(knobs: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WorldConfig(**knobs)
