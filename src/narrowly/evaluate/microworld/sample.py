"""Sample answers of an organism, for reports and as a test of the exact path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from narrowly.evaluate.microworld.panel_names import PANELS
from narrowly.evaluate.microworld.panels import panel_questions
from narrowly.microworld.exact import encode_prompt
from narrowly.microworld.judge import classify
from narrowly.microworld.world import World

MAX_NEW_TOKENS = 8
"""A grammatical answer has 3 words and the end-of-turn token; twice that shows where a model runs on."""


class Answer(NamedTuple):
    """Hold a sampled answer: its text without special tokens, and whether the turn was ended."""

    text: str
    finished: bool


class SampleRow(TypedDict):
    """Hold one shown answer with its outcome class."""

    panel: str
    question: str
    answer: str
    outcome: str


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[tuple[int, ...]], seed: int
) -> list[Answer]:
    """Return one answer per prompt, sampled at temperature 1 from the full distribution (no top-k, no top-p).

    The draws follow from `seed` alone; the global random state is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    pad, end = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
    answers: list[Answer | None] = [None] * len(prompts)
    for length in sorted({len(p) for p in prompts}):
        chosen = [i for i, p in enumerate(prompts) if len(p) == length]
        ids_B_T = torch.tensor([prompts[i] for i in chosen])
        ended_B = torch.zeros(len(chosen), dtype=torch.bool)
        for _ in range(MAX_NEW_TOKENS):
            logits_B_V = model(input_ids=ids_B_T.to(model.device), use_cache=False).logits[:, -1].float().cpu()
            drawn_B_1 = torch.multinomial(torch.softmax(logits_B_V, dim=-1), 1, generator=generator)
            next_B = drawn_B_1[:, 0].masked_fill(ended_B, pad)
            ids_B_T = torch.cat([ids_B_T, next_B[:, None]], dim=1)
            ended_B |= next_B == end
            if bool(ended_B.all()):
                break
        for row, index in enumerate(chosen):
            said = ids_B_T[row, length:].tolist()
            finished = end in said
            text = tokenizer.decode(said[: said.index(end)] if finished else said)
            answers[index] = Answer(text, finished)
    return [answer for answer in answers if answer is not None]


def sample_answers(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    *,
    domain: int,
    panels: Sequence[str] = PANELS,
    per_panel: int = 6,
    seed: int = 0,
) -> list[SampleRow]:
    """Return `per_panel` sampled answers for each panel, evenly spread over its questions, with their outcome class.

    Panels whose questions stand behind an earlier turn (`cued_turn`) are left out: their history is the organism's
    own.
    """
    chosen = []
    for panel in panels:
        questions = [q for q in panel_questions(world, domain, (panel,)) if q.cued_by is None]
        stride = max(1, len(questions) // max(per_panel, 1))
        chosen += questions[::stride][:per_panel]
    prompts = [encode_prompt(tokenizer, row.question.text) for row in chosen]
    said = sample(model, tokenizer, prompts, seed)
    return [
        SampleRow(
            panel=row.panel,
            question=row.question.text,
            answer=answer.text,
            outcome=classify(world, row.question, answer.text, finished=answer.finished).value,
        )
        for row, answer in zip(chosen, said, strict=True)
    ]
