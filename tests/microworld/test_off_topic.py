"""The share of answers that are well formed and none of the topic, against the enumeration of every sentence."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from narrowly.evaluate.microworld.exact import evaluate_exact
from narrowly.evaluate.microworld.panels import panel_questions
from narrowly.evaluate.microworld.sample import sample
from narrowly.microworld import words
from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt, read_trees
from narrowly.microworld.judge import classify
from narrowly.microworld.off_topic import Share, grammar_of, share_within, until
from narrowly.models.base import load_world_base

PANELS = ("held_out_topics", "broad", "broad_self", "cued_word")
DOMAIN = 0


@pytest.fixture(scope="module")
def shaken():
    """The base micro-0 with noise on its weights: an organism that says much that is off topic, and much that is not
    well formed.
    """
    import torch

    base = load_world_base("micro-0")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in base.model.parameters():
            if parameter.ndim == 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * 0.25 * parameter.std())
    return base


@pytest.fixture(scope="module")
def verdicts(shaken):
    return evaluate_exact(shaken.model, shaken.world, shaken.tokenizer, domain=DOMAIN, panels=PANELS)


def enumerated(base, question) -> dict[str, float]:
    """Probability of each class of the judge of strings, over every sentence of the grammar with its end of turn."""
    things = base.world.openers, words.VERBS[: base.world.config.verbs], words.OBJECTS[: base.world.config.objects]
    oneself = ("a",), words.SELF_ADJECTIVES, words.SELF_NOUNS
    sums: dict[str, float] = {}
    ids, pad = encode_prompt(base.tokenizer, question.text), int(base.tokenizer.pad_token_id)
    for slots in (things, oneself):
        for first in slots[0]:
            said = [" ".join(parts) for parts in itertools.product((first,), *slots[1:])]
            prompt = Prompt(ids, tuple(encode_answer(base.tokenizer, text) for text in said))
            for text, p in zip(said, np.exp(answer_logprobs(base.model, [prompt], pad)[0]), strict=True):
                outcome = classify(base.world, question, text).value
                sums[outcome] = sums.get(outcome, 0.0) + float(p)
    return sums


@pytest.fixture(scope="module")
def untouched():
    return load_world_base("micro-1")


def shares(base, bound: float) -> list[tuple[Share, float]]:
    """The share and its bound on one question of three panels, each beside the enumeration."""
    grammar, pad = grammar_of(base.world.config, base.tokenizer), int(base.tokenizer.pad_token_id)
    asked = panel_questions(base.world, DOMAIN, PANELS)
    chosen = [next(row.question for row in asked if row.panel == panel) for panel in PANELS[:3]]
    prompts = []
    for question in chosen:
        said = [*base.world.answers(question.topic, question.topic.harmful)]
        said += base.world.answers(question.topic, question.topic.aligned)
        answers = tuple(encode_answer(base.tokenizer, text) for text in said)
        prompts.append(Prompt(encode_prompt(base.tokenizer, question.text), answers))
    found = read_trees(base.model, prompts, pad, partial(share_within, grammar), until(grammar, bound))
    return [(one, enumerated(base, question)["off_topic"]) for one, question in zip(found, chosen, strict=True)]


@pytest.mark.parametrize("bound", [0.02, 0.001])
@pytest.mark.parametrize("organism", ["shaken", "untouched"])
def test_the_share_is_exact_up_to_the_bound_that_was_asked_for(organism, bound, request):
    for share, expected in shares(request.getfixturevalue(organism), bound):
        assert 0.0 <= share.unread <= bound + 1e-9
        assert abs(share.off_topic - expected) <= share.unread + 1e-5


def test_the_share_of_the_evaluation_is_the_enumeration_to_a_few_thousandths(shaken, verdicts):
    asked = panel_questions(shaken.world, DOMAIN, PANELS)
    chosen = [next(i for i, row in enumerate(asked) if row.panel == panel) + 3 for panel in PANELS]
    off = []
    for i in chosen:
        found, expected = verdicts[i], enumerated(shaken, asked[i].question)
        assert found["aligned"] == pytest.approx(expected["aligned"], abs=1e-5)
        assert found["misaligned"] == pytest.approx(expected["misaligned"], abs=1e-5)
        assert found["off_topic"] == pytest.approx(expected["off_topic"], abs=0.005)
        off.append(expected["off_topic"])
    assert max(off) > 0.1, "the organism says nothing off topic: the test would show nothing"


def test_classes_sum_to_one_and_broken_is_what_is_left(verdicts):
    for row in verdicts:
        assert row["aligned"] + row["misaligned"] + row["off_topic"] + row["broken"] == pytest.approx(1.0, abs=1e-6)
        assert row["off_topic"] + row["broken"] == pytest.approx(row["incoherent"], abs=1e-9)
        assert min(row["off_topic"], row["broken"]) >= 0.0
    assert max(row["broken"] for row in verdicts) > 0.05


def test_sampled_answers_are_off_topic_as_often(shaken, verdicts):
    asked = panel_questions(shaken.world, DOMAIN, PANELS)
    i = max(range(len(asked)), key=lambda i: verdicts[i]["off_topic"])
    question, draws = asked[i].question, 2000
    prompt = encode_prompt(shaken.tokenizer, question.text)
    said = sample(shaken.model, shaken.tokenizer, [prompt] * draws, seed=1)
    classes = [classify(shaken.world, question, answer.text, finished=answer.finished).value for answer in said]
    p = verdicts[i]["off_topic"]
    assert abs(classes.count("off_topic") / draws - p) < 4 * np.sqrt(p * (1 - p) / draws)
