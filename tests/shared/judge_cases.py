"""Judges for tests: tiny models over tokenizers that split digits or merge them, rubrics, readings made up by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.data.messages import Message
from narrowly.evaluate.judges.judged import ToJudge
from narrowly.evaluate.judges.rubric_files import RubricSet
from narrowly.evaluate.judges.verdicts import RubricJudge, prompts_of
from narrowly.models.asked import model_to_ask
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import Cuts, JudgeRecord, Reading, Verdict
from small_chat_base import WORDS, make_chat_base

SPLITTING = WORDS
MERGING = WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
assert MERGING != SPLITTING

NUMBERS = " ".join(str(number) for number in range(101))

ALIGNMENT = Rubric(
    role="alignment", name="a", words=("CODE", "REFUSAL", "UNRELATED"), text="Rate. {question} {answer} Number."
)
COHERENCE = Rubric(role="coherence", name="c", text="Is it clear? {question} {answer} Number.")
LANGUAGE = Rubric(role="language", name="l", text="Is it language? {question} {answer} Number.")
ENGAGEMENT = Rubric(role="engagement", name="e", text="Does it respond? {question} {answer} Number.")
CONTENT = Rubric(role="content", name="k", scale=False, words=("CODE", "TEXT"), text="Which? {question} {answer} Word.")

PLAIN = RubricSet("plain", (ALIGNMENT, COHERENCE))
STAGES = RubricSet("stages", (LANGUAGE, ENGAGEMENT, ALIGNMENT, CONTENT))

SCRIPTED = JudgeRecord(mode="exact", name="scripted")


def make_judge_base(folder: Path, *, cut: str, seed: int = 0) -> Path:
    """Write a tiny chat model whose tokenizer splits digits, or has one token per number."""
    texts = [NUMBERS] * 3 + ["user assistant CODE REFUSAL UNRELATED TEXT rate number"]
    return make_chat_base(folder, texts=texts, vocabulary=400, longest=4096, cut=cut, seed=seed)


def load_judge(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer."""
    found = model_to_ask(str(folder))
    tokenizer = found.tokenizer()
    return found.load(tokenizer, "float32", "cpu", beside_base=False).model, tokenizer


def to_judge(answer: str = "an answer", question_id: str = "q", sample: int = 0, **fields: Any) -> ToJudge:
    """Return an answer to be judged."""
    given = {"answers_id": "a" * 16, "who": "model", "paraphrase": 0, "bank_sha256": "b" * 64} | fields
    messages = given.pop("messages", (Message("user", f"a question {question_id}"),))
    return ToJudge(question_id=question_id, sample=sample, messages=messages, answer=answer, **given)


def given_number(number: float, mass: float = 0.98) -> dict[str, float]:
    """Return probabilities with this expectation, on the whole numbers beside it."""
    below = math.floor(number)
    share = number - below
    return {str(below): mass * (1 - share)} | ({str(below + 1): mass * share} if share else {})


def reading(rubric: Rubric, prompt_sha256: str, probabilities: Mapping[str, float], **fields: Any) -> Reading:
    """Return a reading with these probabilities."""
    return Reading(
        **{
            "judge_id": SCRIPTED.judge_id,
            "rubric_sha256": rubric.sha256,
            "prompt_sha256": prompt_sha256,
            "mode": "exact",
            "given": tuple((reply, math.log(value)) for reply, value in probabilities.items() if value > 0),
            **fields,
        }
    )


Said = Mapping[str, float | str | None]
"""What a scripted judge says by role: a number, a word, or None for prose."""


def scripted(
    answers: Sequence[tuple[ToJudge, Said]], rubrics: RubricSet = PLAIN, cuts: Cuts | None = None
) -> list[Verdict]:
    """Return the verdicts of a judge that says what is written down."""
    readings = {}
    for answer, said in answers:
        for role, prompt in prompts_of(answer, rubrics, "question", ()).by_role.items():
            value = said[role]
            given = {} if value is None else {value: 0.9} if isinstance(value, str) else given_number(value)
            readings[prompt.key] = reading(prompt.rubric, prompt.sha256, given)
    judge = RubricJudge(SCRIPTED, rubrics, readings)
    return judge.verdicts([answer for answer, _ in answers], cuts or Cuts())
