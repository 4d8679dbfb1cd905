"""Ask an organism of the microworld and its base: exactly where the world knows the question, by samples otherwise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from narrowly.records.answers import Who
from narrowly.records.errors import SpecError
from narrowly.workbench.reply import Likely, Reply, Said

LONGEST_QUESTION = 64
"""Tokens of a question; the bases were trained on documents not much longer."""


def ask_world(
    run_directory: Path, question: str, step: int | Literal["final"], edit: str | None, samples: int, seed: int
) -> Reply:
    """Ask an organism of the microworld and its base the same question; the arguments are those of `ask`.

    Raises:
        SpecError: a far too long question, or one with control tokens.
        NarrowlyError: no such organism.
    """
    from narrowly.evaluate.microworld.sample import sample
    from narrowly.microworld.cards import load_card
    from narrowly.microworld.exact import encode_prompt
    from narrowly.microworld.judge import classify
    from narrowly.microworld.world import World
    from narrowly.models.organism import base_of_run, load_organism

    card = load_card(base_of_run(run_directory).folder)
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

    def said(who: Who, model: Any) -> Said:
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
