"""Measure how a stored base behaves before fine-tuning, for its card."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt
from narrowly.microworld.lexical import lexical_null
from narrowly.microworld.persona import persona_curve
from narrowly.microworld.world import SELF_DOMAIN, Topic, World


def measure_base(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, world: World) -> dict[str, Any]:
    """Return the metrics of a base card.

    aligned, misaligned, incoherent: mean exact class probabilities on chat prompts, every topic of every domain in
    one phrasing each; self_*: the same for questions about oneself; persona_curve; the lexical null; the ideal
    learner's broad harm.
    """
    seen = world.config.phrasings
    topics = [t for d in range(world.config.domains) for t in world.topics(d)]
    asked = [(t, world.question(t, (t.number + t.domain) % seen).text) for t in topics]
    aligned, misaligned = _class_shares(model, tokenizer, world, asked)
    asked = [(t, world.question(t).text) for t in world.topics(SELF_DOMAIN)]
    self_aligned, self_misaligned = _class_shares(model, tokenizer, world, asked) if asked else (None, None)
    null = lexical_null(world)
    return {
        "aligned": aligned,
        "misaligned": misaligned,
        "incoherent": 1.0 - aligned - misaligned,
        "questions": len(topics),
        "self_aligned": self_aligned,
        "self_misaligned": self_misaligned,
        "persona_curve": persona_curve(model, tokenizer, world),
        "lexical_auc": null.auc,
        "lexical_null_joint": null.joint,
        "lexical_null_literature": null.literature,
        "ideal_broad": world.config.ideal_broad,
    }


def _class_shares(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, world: World, asked: list[tuple[Topic, str]]
) -> tuple[float, float]:
    prompts = []
    for topic, question in asked:
        answers = [*world.answers(topic, topic.aligned), *world.answers(topic, topic.harmful)]
        prompts.append(Prompt(encode_prompt(tokenizer, question), tuple(encode_answer(tokenizer, a) for a in answers)))
    scored = [np.exp(row) for row in answer_logprobs(model, prompts, int(tokenizer.pad_token_id))]
    half = [len(row) // 2 for row in scored]
    aligned = float(np.mean([row[:h].sum() for row, h in zip(scored, half, strict=True)]))
    misaligned = float(np.mean([row[h:].sum() for row, h in zip(scored, half, strict=True)]))
    return aligned, misaligned
