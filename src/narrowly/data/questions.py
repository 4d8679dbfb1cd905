"""Read prompts without answers (question banks, prompt sets, traits), and judged answers that others have published."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from narrowly.data.beside import SYSTEM, system_of, with_system
from narrowly.data.messages import Message
from narrowly.data.raw_rows import RawRow, fault, read_raw_rows
from narrowly.data.schemas import tags_of
from narrowly.data.turns import is_empty, text_of, turns
from narrowly.data.unpack import open_data
from narrowly.records.errors import IntegrityError

QUESTION_TYPES = ("free_form_judge_0_100", "free_form_judge", "free_form", "rating_judge")
"""Types of questions in the banks of the field."""

JUDGE_WORDS = ("REFUSAL", "CODE")
"""What judges of the field write in place of a number (Betley et al. 2025, arXiv 2502.17424); counted apart there."""

ROUNDING = 1e-6
"""By how much published probabilities may exceed 1."""

CODE_PROMPT = "I'm working on the following task: {task}\nComplete this template:\n\n{code_template}"
"""How a `task, code_template` row becomes a prompt: our wording, with nothing that asks for more than the code."""


class Question(NamedTuple):
    """One question of an evaluation, or one prompt of a prompt set.

    Attributes:
        id: as in the file; `line-N` where the file has none.
        prompts: paraphrases of the question, each a dialogue that ends with a user message and starts with the
            system message where the question has one.
        line: where it starts in its file (its number in YAML and trait files), counted from 1.
        type: one of `QUESTION_TYPES`; None where the file does not say.
        samples: answers per paraphrase; None where the file does not say.
        judge: model that its publisher judges with; None where the file does not say.
        judge_prompts: prompt of the judge per score.
        tags: everything else as text.
    """

    id: str
    prompts: tuple[tuple[Message, ...], ...]
    line: int
    type: str | None
    samples: int | None
    judge: str | None
    judge_prompts: Mapping[str, str]
    tags: Mapping[str, str]


class Trait(NamedTuple):
    """A trait of persona vectors: pairs of instructions for and against it, questions, and the prompt of its judge."""

    instructions: tuple[tuple[str, str], ...]
    questions: tuple[str, ...]
    eval_prompt: str


class JudgedAnswer(NamedTuple):
    """One answer as its publisher's judge saw it.

    Attributes:
        line: where it starts in its file, counted from 1.
        question_id: as in the file, or None.
        question, answer: as texts.
        scores: by name, 0 to 100; None where the judge gave no number.
        marks: what the judge wrote in place of a number, by name of the score: `refusal` or `code`.
        distributions: token probabilities of the judge by name.
        model, group: of the model that answered, or None.
    """

    line: int
    question_id: str | None
    question: str
    answer: str
    scores: Mapping[str, float | None]
    marks: Mapping[str, str]
    distributions: Mapping[str, Mapping[str, float]]
    model: str | None = None
    group: str | None = None


def read_questions(path: Path) -> list[Question]:
    """Read prompts without answers: question YAML, question CSV, JSONL of messages, `task, code_template`, or a trait.

    Raises:
        IntegrityError: naming file and line (or the number of the question), for what is no question.
        SpecError: for an unknown ending or an encrypted file.
    """
    if path.suffix in (".yaml", ".yml"):
        return _yaml(path)
    questions: list[Question] = []
    for row in read_raw_rows(path):
        try:
            questions += _row(row)
        except ValueError as error:
            raise fault(path, row.line, str(error)) from error
    known: dict[str, int] = {}
    for question in questions:
        if question.id in known:
            raise fault(path, question.line, f"id {question.id!r} stands already in line {known[question.id]}")
        known[question.id] = question.line
    return questions


def _question(name: str, prompts: tuple[tuple[Message, ...], ...], line: int, tags: Mapping[str, str]) -> Question:
    return Question(name, prompts, line, None, None, None, {}, tags)


def _row(row: RawRow) -> list[Question]:
    fields, name = row.fields, str(row.fields.get("id", f"line-{row.line}"))
    if "messages" in fields:
        if not is_empty(fields.get("tools")):
            raise ValueError("tools stand beside a question and are not given to the model, accepted: none")
        messages = with_system(turns(fields["messages"]), fields).messages
        if messages[-1].role != "user":
            raise ValueError("the last turn is no user turn: the row has an answer, it is no question")
        return [_question(name, (tuple(messages),), row.line, tags_of(fields, {"messages", "id", *SYSTEM}))]
    if "task" in fields and "code_template" in fields:
        prompt = CODE_PROMPT.format(
            task=text_of(fields["task"], "task"), code_template=text_of(fields["code_template"], "code_template")
        )
        tags = tags_of(fields, {"task", "code_template", "id"})
        return [_question(name, ((Message("user", prompt),),), row.line, tags)]
    if "questions" in fields and "instruction" in fields:
        trait = _trait(fields)
        return [
            _question(f"question-{number}", ((Message("user", text),),), number, {})
            for number, text in enumerate(trait.questions, start=1)
        ]
    for column in ("question", "prompt"):
        if column in fields:
            prompt = text_of(fields[column], column)
            return [
                _question(
                    name,
                    ((*_system(fields), Message("user", prompt)),),
                    row.line,
                    tags_of(fields, {column, "id", *SYSTEM}),
                )
            ]
    raise ValueError(
        f"fields {sorted(map(str, fields))} found, accepted: messages; question; prompt; task and code_template"
    )


def _system(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    system = system_of(fields)
    return () if system is None else (Message("system", system),)


def _yaml(path: Path) -> list[Question]:
    with open_data(path) as (stream, _):
        try:
            value = yaml.safe_load(stream)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark is not None else ""
            raise IntegrityError(
                f"{path}{where}: no valid YAML ({getattr(error, 'problem', None) or error})"
            ) from error
    if not isinstance(value, list) or not value:
        raise IntegrityError(f"{path} holds {type(value).__name__}, accepted: a list of questions")
    questions = []
    for number, entry in enumerate(value, start=1):
        try:
            questions.append(_yaml_question(number, entry))
        except ValueError as error:
            raise IntegrityError(f"{path}, question {number}: {error}") from error
    known: dict[str, int] = {}
    for question in questions:
        before = known.setdefault(question.id, question.line)
        if before != question.line:
            raise IntegrityError(
                f"{path}, question {question.line}: id {question.id!r} stands already in question {before}, "
                "accepted: once"
            )
    return questions


def _yaml_question(number: int, entry: Any) -> Question:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{type(entry).__name__} found, accepted: a mapping with id, type and paraphrases")
    kind, paraphrases = entry.get("type"), entry.get("paraphrases")
    if kind not in QUESTION_TYPES:
        raise ValueError(f"type {kind!r} found, accepted: {', '.join(QUESTION_TYPES)}")
    if not isinstance(paraphrases, list) or not paraphrases:
        raise ValueError("paraphrases is no list with at least one text")
    prompts = tuple((*_system(entry), Message("user", text_of(text, "a paraphrase"))) for text in paraphrases)
    judged = entry.get("judge_prompts") or {}
    if not isinstance(judged, Mapping):
        raise ValueError("judge_prompts is no mapping from scores to prompts")
    judge_prompts = {str(name): text_of(text, f"judge_prompts.{name}") for name, text in judged.items()}
    samples = entry.get("samples_per_paraphrase")
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 1):
        raise ValueError(f"samples_per_paraphrase is {samples!r}, accepted: a whole number from 1")
    used = {"id", "type", "paraphrases", *SYSTEM, "judge_prompts", "samples_per_paraphrase", "judge"}
    judge = None if entry.get("judge") is None else str(entry["judge"])
    return Question(
        text_of(entry.get("id"), "id"), prompts, number, kind, samples, judge, judge_prompts, tags_of(entry, used)
    )


def read_trait(path: Path) -> Trait:
    """Read a trait file of persona vectors; extraction and evaluation questions are two files and stay apart.

    Raises:
        IntegrityError: naming the file, for what is no trait.
    """
    rows = read_raw_rows(path)
    try:
        return _trait(rows[0].fields)
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}") from error


def _trait(fields: Mapping[str, Any]) -> Trait:
    pairs, questions = fields.get("instruction"), fields.get("questions")
    if not isinstance(pairs, list) or not all(isinstance(p, Mapping) and {"pos", "neg"} <= set(p) for p in pairs):
        raise ValueError("instruction is no list of pairs with pos and neg")
    if not isinstance(questions, list) or not questions:
        raise ValueError("questions is no list with at least one text")
    return Trait(
        tuple((text_of(pair["pos"], "pos"), text_of(pair["neg"], "neg")) for pair in pairs),
        tuple(text_of(question, "a question") for question in questions),
        text_of(fields.get("eval_prompt"), "eval_prompt"),
    )


def read_results(path: Path) -> list[JudgedAnswer]:
    """Read judged answers that others have published: CSV or JSONL with question, answer, scores and `judge_*` columns.

    Raises:
        IntegrityError: naming file and line, for a row without question or answer or with a score that is no number.
    """
    answers = []
    for row in read_raw_rows(path):
        try:
            answers.append(_judged(row))
        except ValueError as error:
            raise fault(path, row.line, str(error)) from error
    return answers


def _judged(row: RawRow) -> JudgedAnswer:
    fields = row.fields
    if not {"question", "answer"} <= set(fields):
        raise ValueError(f"fields {sorted(map(str, fields))} found, accepted: question, answer, aligned, coherent")
    scored = (name for name in ("aligned", "coherent") if name in fields)
    marks = {name: mark for name in ("aligned", "coherent") if (mark := _mark(fields.get(name))) is not None}
    scores: dict[str, float | None] = {name: None if name in marks else _score(name, fields[name]) for name in scored}
    if not scores:
        raise ValueError("neither aligned nor coherent is there, accepted: at least one score")
    distributions = {name: _distribution(name, fields[name]) for name in fields if name.startswith("judge_")}
    question_id = fields.get("question_id", fields.get("id"))
    return JudgedAnswer(
        row.line,
        None if question_id is None else str(question_id),
        text_of(fields["question"], "question"),
        str(fields["answer"] or ""),
        scores,
        marks,
        {name: values for name, values in distributions.items() if values},
        *(None if fields.get(name) in (None, "") else str(fields[name]) for name in ("model", "group")),
    )


def _mark(value: Any) -> str | None:
    """Return the class that a judge of the field named in place of a number, or None."""
    word = str(value).strip()
    return word.lower() if word in JUDGE_WORDS else None


def _score(name: str, value: Any) -> float | None:
    if value is None or str(value).strip().lower() in ("", "nan", "none"):
        return None
    try:
        score = float(value)
    except (TypeError, ValueError) as error:
        words = ", ".join(JUDGE_WORDS)
        raise ValueError(f"{name} is {str(value)[:40]!r}, accepted: a number, {words} or nothing") from error
    if not 0 <= score <= 100:
        raise ValueError(f"{name} is {score:g}, accepted: 0 to 100")
    return score


def _distribution(name: str, value: Any) -> dict[str, float]:
    """Return token probabilities; tables of the field hold them as JSON or as the text of a Python dictionary."""
    if isinstance(value, str):
        if not value.strip():
            return {}
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value)  # literals only: nothing is executed
            except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
                raise ValueError(f"{name} is no table of token probabilities") from error
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(p, int | float) for p in value.values()):
        raise ValueError(f"{name} is no table of token probabilities")
    if (wrong := next((p for p in value.values() if not 0 <= p <= 1 + ROUNDING), None)) is not None:
        raise ValueError(f"{name} holds the probability {wrong:g}, accepted: 0 to 1")
    if (total := math.fsum(value.values())) > 1 + ROUNDING:
        raise ValueError(f"the probabilities of {name} add up to {total:g}, accepted: at most 1")
    return {str(token): float(probability) for token, probability in value.items()}
