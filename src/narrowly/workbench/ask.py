"""Ask an organism and its base one question: exactly where the world knows it, by samples otherwise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from narrowly.records.errors import SpecError

LONGEST_QUESTION = 64
"""Tokens of a question; the bases were trained on documents not much longer."""


class Likely(NamedTuple):
    """Hold one answer with its exact probability (0 to 1) and its outcome class."""

    answer: str
    probability: float
    outcome: str


class Said(NamedTuple):
    """Hold what one model answers.

    Attributes:
        who: `organism` or `base`.
        probabilities: exact probability of each class; None where the world does not know the question.
        likely: the most probable grammatical answers, most probable first.
        sampled: (answer, outcome class) of sampled answers; the class is None where nothing can be judged.
    """

    who: str
    probabilities: dict[str, float] | None
    likely: tuple[Likely, ...]
    sampled: tuple[tuple[str, str | None], ...]


class Reply(NamedTuple):
    """Hold the organism's and the base's answers to one question.

    Attributes:
        run_directory: of the organism.
        base: name of the base.
        known: whether the question is one of the world's.
        unknown_words: words of the question that the base never saw.
    """

    run_directory: Path
    base: str
    known: bool
    unknown_words: tuple[str, ...]
    said: tuple[Said, ...]


def ask(
    run_directory: str | Path,
    question: str,
    *,
    step: int | Literal["final"] = "final",
    edit: str | None = None,
    samples: int = 5,
    seed: int = 0,
) -> Reply:
    """Ask an organism and its base the same question.

    Args:
        run_directory: of the organism.
        question: any text; a question of the world gets exact probabilities.
        step: a checkpoint step or "final".
        edit: an edit-id or None.
        samples: sampled answers per model.
        seed: of the samples.

    Raises:
        SpecError: an empty or far too long question.
        NarrowlyError: no such organism, or a base without a world.
    """
    from narrowly.evaluate.microworld.sample import sample
    from narrowly.microworld.cards import load_card
    from narrowly.microworld.exact import encode_prompt
    from narrowly.microworld.judge import classify
    from narrowly.microworld.world import World
    from narrowly.models.organism import base_of_run, load_organism

    run_directory = Path(run_directory)
    if not question.strip():
        raise SpecError("the question is empty; accepted: some words, in quotation marks")
    card = load_card(base_of_run(run_directory).folder)  # before a large model is read for nothing
    organism = load_organism(run_directory, step, edit)
    world, tokenizer = World(card.config, card.world_seed), organism.tokenizer
    known = world.find(question)
    text = known.text if known is not None else question
    content = tokenizer.encode(text, add_special_tokens=False)
    if len(content) > LONGEST_QUESTION:
        raise SpecError(f"the question has {len(content)} words, accepted: at most {LONGEST_QUESTION}")
    if set(content) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}):
        raise SpecError(
            "the question holds control tokens of the chat format, which would change who speaks; leave them out"
        )
    words = text.lower().split()
    unknown = tuple(
        word for word in words if tokenizer.unk_token_id in tokenizer.encode(word, add_special_tokens=False)
    )
    prompt = encode_prompt(tokenizer, text)

    def said(who: str, model: Any) -> Said:
        answers = sample(model, tokenizer, [prompt] * samples, seed)
        judged = tuple(
            (one.text, classify(world, known, one.text, finished=one.finished).value if known is not None else None)
            for one in answers
        )
        exact = _exact(model, world, tokenizer, known, prompt) if known is not None else (None, ())
        return Said(who, exact[0], exact[1], judged)

    replies = [said("organism", organism.model)]
    with organism.base_model() as base:
        replies.append(said("base", base))
    return Reply(run_directory, card.name, known is not None, unknown, tuple(replies))


def _exact(
    model: Any, world: Any, tokenizer: Any, question: Any, prompt: tuple[int, ...]
) -> tuple[dict[str, float], tuple[Likely, ...]]:
    from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer

    topic = question.topic
    answers = [(text, "misaligned") for text in world.answers(topic, topic.harmful)]
    answers += [(text, "aligned") for text in world.answers(topic, topic.aligned)]
    encoded = tuple(encode_answer(tokenizer, text) for text, _ in answers)
    (logs,) = answer_logprobs(model, [Prompt(prompt, encoded)], int(tokenizer.pad_token_id))
    likely = [Likely(text, math.exp(log), outcome) for (text, outcome), log in zip(answers, logs.tolist(), strict=True)]
    shares = {
        name: math.fsum(one.probability for one in likely if one.outcome == name) for name in ("aligned", "misaligned")
    }
    shares["incoherent"] = max(0.0, 1.0 - sum(shares.values()))
    return shares, tuple(sorted(likely, key=lambda one: -one.probability)[:4])
