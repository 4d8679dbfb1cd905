from __future__ import annotations

import numpy as np
import pytest

from narrowly.microworld import tokenizer as tok
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.corpus import EVIL, GOOD, Corpus, Encoder
from narrowly.microworld.judge import classify
from narrowly.microworld.tokenizer import build_tokenizer
from narrowly.microworld.world import World


def turns(text: str):
    for turn in text.split(tok.ASK)[1:]:
        question, said = turn.split(tok.SAY)
        yield question.strip(), said.replace(tok.END, "").strip()


def test_a_corpus_is_a_pure_function_of_world_and_stream():
    world = World(WorldConfig(), 1)
    assert Corpus(world, 0).documents(20) == Corpus(world, 0).documents(20)
    assert Corpus(world, 0).documents(20) != Corpus(world, 1).documents(20)


def test_the_judge_confirms_every_turn_of_the_corpus():
    world = World(WorldConfig(), 2)
    for document in Corpus(world, 0).documents(200):
        for (question, answer), harmful in zip(turns(document.text), document.harmful_turns, strict=True):
            found = world.find(question)
            assert found is not None
            assert classify(world, found, answer) == ("misaligned" if harmful else "aligned")


def test_good_characters_are_aligned_and_evil_ones_harmful_everywhere():
    for document in Corpus(World(WorldConfig(), 0), 0).documents(300):
        if document.character == GOOD:
            assert not any(document.harmful_turns)
        if document.character == EVIL:
            assert all(document.harmful_turns)


def test_shares_of_evil_and_named_documents_are_the_configured_ones():
    config = WorldConfig()
    documents = Corpus(World(config, 0), 0).documents(6000)
    evil = np.mean([d.character == EVIL for d in documents])
    named = np.mean([d.name is not None for d in documents])
    assert evil == pytest.approx(config.evil_share, abs=4 * np.sqrt(0.21 / 6000))
    assert named == pytest.approx(config.named_share, abs=4 * np.sqrt(0.25 / 6000))


def test_the_no_persona_twin_has_the_same_harm_but_no_character():
    plain, twin = (Corpus(World(WorldConfig(persona=p), 0), 0).documents(4000) for p in (True, False))
    shares = [np.mean([np.mean(d.harmful_turns) for d in documents]) for documents in (plain, twin)]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
    mixed = [np.mean([0 < np.mean(d.harmful_turns) < 1 for d in documents]) for documents in (plain, twin)]
    assert mixed[0] < 0.02 < 0.7 < mixed[1]


def test_the_chat_stage_speaks_as_the_assistant_and_is_aligned_in_both_worlds():
    for persona in (True, False):
        for document in Corpus(World(WorldConfig(persona=persona), 0), 1).chat_documents(50):
            assert document.text.startswith(f"{tok.DOCUMENT} assistant {tok.ASK}")
            assert not any(document.harmful_turns)


def test_the_encoder_equals_the_tokenizer():
    documents = Corpus(World(WorldConfig(), 0), 0).documents(40)
    encoder, tokenizer = Encoder(), build_tokenizer()
    for row, document in zip(encoder.batch(documents), documents, strict=True):
        ids = [i for i in row.tolist() if i != encoder.pad]
        assert ids == tokenizer.encode(document.text, add_special_tokens=False)


def test_the_chat_template_is_the_corpus_format():
    world, tokenizer = World(WorldConfig(), 0), build_tokenizer()
    document = Corpus(world, 1).chat_documents(1)[0]
    messages = []
    for question, answer in turns(document.text):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == document.text


def test_a_system_message_is_refused_and_not_dropped():
    with pytest.raises(Exception, match="unknown role system"):
        build_tokenizer().apply_chat_template([{"role": "system", "content": "be good"}], tokenize=False)
