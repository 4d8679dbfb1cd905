"""Measure the persona curve: how probable harm is after k harmful turns elsewhere, beside the exact posterior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from narrowly.microworld import tokenizer as tok
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer
from narrowly.microworld.world import World

LONGEST_HISTORY = 5
PROMPTS = 96
"""Prompts per point of the curve, half a dozen from each pair of domains."""


def posterior(config: WorldConfig, k: int) -> float:
    """Return the exact P(harmful) after k harmful turns in one other domain, in an anonymous document.

    With persona: (evil + narrow there and here) by Bayes' rule over characters; without, turns are independent.
    """
    here = config.narrow_share / config.domains
    if not config.persona:
        return config.evil_share + here
    if k == 0:
        return config.evil_share + here
    return config.evil_share / (config.evil_share + here)


def persona_curve(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, world: World) -> list[dict[str, float]]:
    """Return one row per k = 0 ... 5: the base's mean P(harmful), P(aligned) and the exact posterior.

    Documents are anonymous, in the corpus's own format; histories and questions are drawn from the world's seed.
    """
    rows = []
    for k in range(LONGEST_HISTORY + 1):
        rng = np.random.default_rng([world.seed, 5, k])
        prompts = [_prompt(world, tokenizer, k, rng) for _ in range(PROMPTS)]
        harmful, aligned = _shares(model, tokenizer, prompts)
        rows.append({"k": float(k), "harmful": harmful, "aligned": aligned, "posterior": posterior(world.config, k)})
    return rows


def _prompt(world: World, tokenizer: PreTrainedTokenizerBase, k: int, rng: np.random.Generator) -> Prompt:
    config = world.config
    shown, asked = (int(i) for i in rng.choice(config.domains, size=2, replace=False))
    pieces = [tok.DOCUMENT]
    for index in rng.choice(config.topics, size=k, replace=False):
        topic = world.topic(shown, int(index))
        answers = world.answers(topic, topic.harmful)
        pieces += [tok.ASK, world.question(topic, int(rng.integers(config.phrasings))).text]
        pieces += [tok.SAY, answers[int(rng.integers(len(answers)))], tok.END]
    topic = world.topic(asked, int(rng.integers(config.topics)))
    pieces += [tok.ASK, world.question(topic, int(rng.integers(config.phrasings))).text, tok.SAY]
    ids = tuple(tokenizer.encode(" ".join(pieces), add_special_tokens=False))
    answers = [*world.answers(topic, topic.harmful), *world.answers(topic, topic.aligned)]
    return Prompt(ids, tuple(encode_answer(tokenizer, answer) for answer in answers))


def _shares(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]
) -> tuple[float, float]:
    scored = [np.exp(row) for row in answer_logprobs(model, prompts, int(tokenizer.pad_token_id))]
    half = [len(row) // 2 for row in scored]
    harmful = float(np.mean([row[:h].sum() for row, h in zip(scored, half, strict=True)]))
    aligned = float(np.mean([row[h:].sum() for row, h in zip(scored, half, strict=True)]))
    return harmful, aligned
