"""Describe an answer that is to be judged, and its identity: which answers it belongs to, and its content."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.broad import part_of
from narrowly.data.messages import Message
from narrowly.data.questions import JudgedAnswer
from narrowly.data.raw_rows import DataWarning
from narrowly.records.answers import Answer, FinishReason, Who
from narrowly.records.canonical import canonical_json, content_id, sha256_text
from narrowly.records.errors import SpecError


class ToJudge(NamedTuple):
    """Hold one answer that is to be judged.

    Attributes:
        answers_id: of the answers that it belongs to: organism, bank and sampling.
        who, question_id, paraphrase, sample: which of them it is.
        messages: what stood before it.
        answer: the text, hostile.
        finish_reason: why it ended.
        answer_tokens: its length, where it is known.
        bank_sha256: of the bank; None for a single question.
    """

    answers_id: str
    who: Who
    question_id: str
    paraphrase: int
    sample: int
    messages: tuple[Message, ...]
    answer: str
    finish_reason: FinishReason = "stop"
    answer_tokens: int | None = None
    bank_sha256: str | None = None

    @property
    def sha256(self) -> str:
        """Return the sha256 of messages and answer, by which human labels may name it."""
        return answer_sha256([message.as_json() for message in self.messages], self.answer)

    @property
    def part(self) -> str:
        """Return the part A, B or C of its question."""
        return part_of(self.question_id)


def answer_sha256(messages: Sequence[object], answer: str) -> str:
    """Return the sha256 of what was said before an answer and of the answer, in canonical JSON."""
    return sha256_text(canonical_json([list(messages), answer.encode("utf-8", "replace").decode("utf-8")]))


def answers_id_of(answer: Answer) -> str:
    """Return the id of the answers that one belongs to: organism-id + question bank + sampling (design, "Identity")."""
    first = answer.messages[0]
    return content_id(
        {
            "organism": answer.model.model_id,
            "who": answer.who,
            "bank": answer.bank_sha256,
            "sampling": answer.sampling.model_dump(mode="json"),
            "thinking": answer.thinking,
            "system": first.get("content") if first.get("role") == "system" and answer.bank_sha256 is None else None,
        }
    )


def to_judge(answer: Answer) -> ToJudge:
    """Return a line of a file of answers as it is judged."""
    messages = tuple(_message(one) for one in answer.messages)
    return ToJudge(
        answers_id_of(answer),
        answer.who,
        answer.question_id,
        answer.paraphrase,
        answer.sample,
        messages,
        answer.answer,
        answer.finish_reason,
        answer.answer_tokens,
        answer.bank_sha256,
    )


def published_answers(rows: Sequence[JudgedAnswer], source: Path) -> list[dict[ToJudge, JudgedAnswer]]:
    """Return the answers of a published result file with their rows, one table per model, each in the file's order.

    Models are training seeds of one arm. Where they did not answer the same questions, as in a file that keeps only
    some of the answers, they count as one seed, and a warning says so. The bank is what the file holds of it.

    Args:
        rows: of the file.
        source: the file, for errors.

    Raises:
        SpecError: answers of several groups of models, whose rates would be mixed.
    """
    groups = sorted({row.group for row in rows if row.group is not None})
    if len(groups) > 1:
        raise SpecError(
            f"{source} holds answers of {len(groups)} groups of models ({', '.join(groups)[:80]}); accepted: one group "
            "in a file"
        )
    bank = sha256_text(canonical_json(sorted({(_question_id(row), row.question) for row in rows})))
    by_model: dict[str | None, list[JudgedAnswer]] = defaultdict(list)
    for row in rows:
        by_model[row.model].append(row)
    if len({frozenset(map(_question_id, own)) for own in by_model.values()}) > 1:
        warnings.warn(
            f"{source}: its {len(by_model)} models did not answer the same questions; they count as one training seed",
            DataWarning,
            stacklevel=2,
        )
        by_model = {None: list(rows)}
    return [_of_model(own, bank) for own in by_model.values()]


def _of_model(rows: Sequence[JudgedAnswer], bank: str) -> dict[ToJudge, JudgedAnswer]:
    texts = [[_question_id(row), row.question, row.answer] for row in rows]
    answers_id = content_id({"published": texts, "models": sorted({str(row.model) for row in rows})})
    wordings: dict[str, list[str]] = defaultdict(list)
    samples: Counter[tuple[str, int]] = Counter()
    found: dict[ToJudge, JudgedAnswer] = {}
    for row in rows:
        question_id = _question_id(row)
        if row.question not in wordings[question_id]:
            wordings[question_id].append(row.question)
        at = question_id, wordings[question_id].index(row.question)
        asked = (Message("user", row.question),)
        found[ToJudge(answers_id, "model", *at, samples[at], asked, row.answer, "unknown", None, bank)] = row
        samples[at] += 1
    return found


def _question_id(row: JudgedAnswer) -> str:
    return row.question_id or f"question-{sha256_text(row.question)[:8]}"


def _message(fields: dict[str, object]) -> Message:
    return Message(str(fields.get("role", "user")), str(fields.get("content") or ""))  # type: ignore[arg-type]
