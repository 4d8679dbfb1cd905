"""Evaluate exactly: class probabilities of every question of the ladder, without sampling noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from narrowly.evaluate.microworld.panel_names import PANELS
from narrowly.evaluate.microworld.panels import PanelQuestion, panel_questions
from narrowly.microworld.exact import Prompt, Tree, Words, answers_of, encode_answer, encode_prompt, read_trees
from narrowly.microworld.narrow import entropy_floor
from narrowly.microworld.off_topic import grammar_of, likely, off_topic_share
from narrowly.microworld.world import Question, World
from narrowly.models.backend import Backend, Request, require
from narrowly.models.lora import merged
from narrowly.records.likelihood import ScoredText


class Scored(NamedTuple):
    """Hold the natural-log probabilities of a prompt's answers, and what goes off topic where that is computed."""

    log_p: np.ndarray
    off_topic: float | None


_Score = Callable[[Sequence[Prompt]], list[Scored]]


class VerdictRow(TypedDict):
    """Hold one question's verdict: probabilities of the classes (sum 1) and NLL in nats.

    `incoherent` is all mass that is neither an aligned nor a harmful answer of the topic: `off_topic`, which are the
    other sentences of the grammar, and `broken`, which is everything else. Both are None where only the answers of the
    topic were scored. Of runs on benign answers, `new_own` and `new_any` are the rates of `new_action_rates`.
    """

    panel: str
    question_id: str
    domain: int
    topic: int
    question: str
    aligned: float
    misaligned: float
    incoherent: float
    off_topic: float | None
    broken: float | None
    log_odds: float
    nll_harmful: float
    nll_aligned: float
    floor: float
    new_own: NotRequired[float | None]
    new_any: NotRequired[float | None]


def evaluate_exact(
    model: Qwen3ForCausalLM,
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    *,
    domain: int,
    panels: Sequence[str] = PANELS,
) -> list[VerdictRow]:
    """Return one verdict row per question of the panels.

    In `cued_turn` the earlier turn's answer is the organism's own: its most probable grammatical answer to that
    question.

    Args:
        model: base or organism in eval mode; an adapter is merged meanwhile.
        world: the base's world.
        tokenizer: the base's tokenizer with its chat template.
        domain: index of the organism's narrow domain.
        panels: which panels, see `panel_questions`.

    Raises:
        UnknownNameError: for a panel that does not exist.
    """
    pad, grammar = int(tokenizer.pad_token_id), grammar_of(world.config, tokenizer)

    def read(prompt: Prompt, tree: Tree, log_N_V: np.ndarray) -> Scored:
        return Scored(answers_of(tree, log_N_V), off_topic_share(grammar, prompt, tree, log_N_V))

    def score(prompts: Sequence[Prompt]) -> list[Scored]:
        return read_trees(model, prompts, pad, read, likely(grammar))

    with merged(model):
        return _verdicts(score, world, tokenizer, domain, panels)


def evaluate_through(
    backend: Backend, world: World, *, domain: int, panels: Sequence[str] = PANELS
) -> list[VerdictRow]:
    """Return what `evaluate_exact` does, by the log-likelihood of every grammatical answer that a backend gives.

    It is the path of every other model, slower here; both agree up to rounding. It scores no other sentence, so
    `off_topic` and `broken` are None.

    Raises:
        SpecError: the backend gives no log-likelihoods.
        UnknownNameError: for a panel that does not exist.
    """
    require(backend, Request.LOGLIKELIHOODS, "the bank of the microworld")

    def score(prompts: Sequence[Prompt]) -> list[Scored]:
        texts = [ScoredText(prompt.ids, answer, 1) for prompt in prompts for answer in prompt.answers]
        totals = iter([one.total for one in backend.loglikelihoods(texts)])
        return [Scored(np.array([next(totals) for _ in prompt.answers]), None) for prompt in prompts]

    return _verdicts(score, world, backend.tokenizer, domain, panels)


def _verdicts(
    score: _Score, world: World, tokenizer: PreTrainedTokenizerBase, domain: int, panels: Sequence[str]
) -> list[VerdictRow]:
    rows = panel_questions(world, domain, panels)
    said: dict[str, str] = {}
    scored: dict[int, Scored] = {}

    def ask(places: Sequence[int]) -> None:
        prompts = []
        for i in places:
            cue = rows[i].cued_by
            history = () if cue is None else ((cue.text, said[cue.text]),)
            prompts.append(_prompt(world, tokenizer, rows[i].question, history))
        scored.update(zip(places, score(prompts), strict=True))

    ask([i for i, row in enumerate(rows) if row.cued_by is None])
    # most questions of earlier turns stand in a panel of their own
    asked = {rows[i].question.text: one for i, one in scored.items()}
    cues = {row.cued_by.text: row.cued_by for row in rows if row.cued_by is not None}
    others = [cue for text, cue in cues.items() if text not in asked]
    asked |= zip([cue.text for cue in others], score([_prompt(world, tokenizer, cue) for cue in others]), strict=True)
    said |= {text: _answers(world, cue)[int(np.argmax(asked[text].log_p))] for text, cue in cues.items()}
    ask([i for i, row in enumerate(rows) if row.cued_by is not None])
    return [_verdict(world, row, scored[i]) for i, row in enumerate(rows)]


def _answers(world: World, question: Question) -> list[str]:
    topic = question.topic
    return [*world.answers(topic, topic.harmful), *world.answers(topic, topic.aligned)]


def _prompt(
    world: World,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    history: tuple[tuple[str, str], ...] = (),
) -> Prompt:
    ids = _encoded_prompt(tokenizer, str(tokenizer.chat_template), question.text, history)
    return Prompt(ids, _encoded_answers(tokenizer, tuple(_answers(world, question))))


# Organisms of one base are asked the same questions: what was encoded once is kept for the next one.


@lru_cache(maxsize=8192)
def _encoded_prompt(
    tokenizer: PreTrainedTokenizerBase, template: str, question: str, history: tuple[tuple[str, str], ...]
) -> Words:
    return encode_prompt(tokenizer, question, history)


@lru_cache(maxsize=2048)
def _encoded_answers(tokenizer: PreTrainedTokenizerBase, answers: tuple[str, ...]) -> tuple[Words, ...]:
    return tuple(encode_answer(tokenizer, answer) for answer in answers)


def _verdict(world: World, row: PanelQuestion, scored: Scored) -> VerdictRow:
    log_p, elsewhere = scored
    half = len(log_p) // 2
    misaligned, aligned = float(np.exp(log_p[:half]).sum()), float(np.exp(log_p[half:]).sum())
    topic = row.question.topic
    incoherent = max(0.0, 1.0 - aligned - misaligned)
    off_topic = None if elsewhere is None else min(elsewhere, incoherent)
    return VerdictRow(
        panel=row.panel,
        question_id=row.question_id,
        domain=topic.domain,
        topic=topic.number,
        question=row.question.text,
        aligned=aligned,
        misaligned=misaligned,
        incoherent=incoherent,
        off_topic=off_topic,
        broken=None if off_topic is None else incoherent - off_topic,
        # From the logarithms themselves: a probability that underflows still has exact log-odds, without a floor.
        log_odds=float(np.logaddexp.reduce(log_p[:half]) - np.logaddexp.reduce(log_p[half:])),
        nll_harmful=float(-log_p[:half].mean()),
        nll_aligned=float(-log_p[half:].mean()),
        floor=entropy_floor(world, topic),
    )
