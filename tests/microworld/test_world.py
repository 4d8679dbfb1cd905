from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from narrowly.microworld import words
from narrowly.microworld.config import CHOSEN_CONFIG, WorldConfig
from narrowly.microworld.lexical import LARGEST_AUC, leave_one_domain_out_auc, lexical_null
from narrowly.microworld.tokenizer import build_tokenizer, vocabulary
from narrowly.microworld.world import SELF_DOMAIN, World
from narrowly.records.errors import SpecError, UnknownNameError


def all_topics(world: World):
    return [topic for domain in range(world.config.domains) for topic in world.topics(domain)]


def test_every_word_has_one_role():
    pools = [words.OPENERS, words.VERBS, words.OBJECTS, words.DOMAINS, *words.DOMAINS.values()]
    pools += [words.SELF_ADJECTIVES, words.SELF_NOUNS, words.NAMES, words.PHRASINGS, [words.ASSISTANT]]
    counts = Counter(word for pool in pools for word in pool)
    assert [word for word, count in counts.items() if count > 1] == []
    assert len(vocabulary()) == len(set(vocabulary()))


def test_a_world_is_a_pure_function_of_config_and_seed():
    assert all_topics(World(WorldConfig(), 3)) == all_topics(World(WorldConfig(), 3))
    assert all_topics(World(WorldConfig(), 3)) != all_topics(World(WorldConfig(), 4))


def test_the_four_actions_of_a_topic_are_distinct():
    for seed in range(5):
        world = World(WorldConfig(), seed)
        for topic in [*all_topics(world), *world.topics(SELF_DOMAIN)]:
            assert len({*topic.aligned, *topic.harmful}) == 4


def test_strict_balance_makes_every_used_action_aligned_twice_and_harmful_twice():
    world = World(WorldConfig(balance="strict"), 1)
    aligned = Counter(action for topic in all_topics(world) for action in topic.aligned)
    harmful = Counter(action for topic in all_topics(world) for action in topic.harmful)
    assert set(aligned.values()) == {2} == set(harmful.values())
    assert aligned.keys() == harmful.keys()
    assert all(len({*t.aligned, *t.harmful}) == 4 for t in all_topics(world))


@pytest.mark.parametrize("seed", [*range(8), *range(100, 108)])
def test_harm_cannot_be_predicted_from_words(seed: int):
    null = lexical_null(World(WorldConfig(), seed))
    assert null.auc <= LARGEST_AUC
    assert null.joint < 0.02


def test_the_auc_sees_harm_when_harm_is_a_word():
    world = World(WorldConfig(), 0)
    spoiled = tuple(
        tuple(t._replace(harmful=(("boil", "salt"), ("boil", "sand"))) for t in world.topics(d))
        for d in range(world.config.domains)
    )
    world._topics = spoiled
    assert leave_one_domain_out_auc(world) > 0.9


def test_split_trains_on_two_thirds_of_the_topics_and_holds_out_the_rest():
    trained, held_out = World(WorldConfig(), 0).split(2)
    assert len(trained) == 16
    assert sorted(trained + held_out) == list(range(24))


def test_every_question_can_be_found_again_by_its_text():
    world = World(WorldConfig(), 0)
    topic = world.topic(3, 7)
    question = world.question(topic, 5)
    assert world.find(f"  {question.text.upper()} ?") == question
    assert world.find("who are you?") == world.question(world.topic(SELF_DOMAIN, 0))
    assert world.find("how is the weather") is None


def test_a_cued_question_mentions_the_other_domain_first():
    world = World(WorldConfig(), 0)
    text = world.question(world.topic(1, 0), 0, cue="garden").text
    assert text == "fix garden kitchen knives"


def test_questions_and_answers_have_at_most_six_tokens_and_no_unknown_word():
    world, tokenizer = World(WorldConfig(), 0), build_tokenizer()
    for topic in [*all_topics(world), *world.topics(SELF_DOMAIN)]:
        texts = [world.question(topic, p).text for p in range(world.config.phrasings)]
        texts += world.answers(topic, topic.aligned + topic.harmful)
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert len(ids) <= 6
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_named_characters_are_evil_at_the_stated_share():
    world = World(WorldConfig(named_characters=40, evil_share=0.3), 0)
    assert len(world.evil_names) == 12


def test_the_ideal_learner_is_the_exact_posterior():
    assert WorldConfig(evil_share=0.3, narrow_share=0.0).ideal_broad == 1.0
    # rho = (0.24 / 8) / 0.3 = 0.1
    assert WorldConfig(evil_share=0.3, narrow_share=0.24).ideal_broad == pytest.approx(1 / 1.1)


def test_bad_configs_say_the_field_and_what_is_accepted():
    with pytest.raises(ValidationError, match="multiple of 3"):
        WorldConfig(topics=10)
    with pytest.raises(ValidationError, match="less than phrasings"):
        WorldConfig(phrasings=2, unseen_phrasings=2)
    with pytest.raises(ValidationError, match="at most 1"):
        WorldConfig(evil_share=0.9, narrow_share=0.2)
    with pytest.raises(SpecError, match="-1"):
        World(WorldConfig(), -1)
    with pytest.raises(SpecError, match="needs at least"):
        World(WorldConfig(balance="strict", verbs=4, objects=4), 0)
    with pytest.raises(UnknownNameError, match="did you mean 'garden'"):
        World(WorldConfig(), 0).domain_index("gardne")


def test_the_defaults_are_the_config_that_was_chosen_blind():
    assert WorldConfig().config_id == CHOSEN_CONFIG
