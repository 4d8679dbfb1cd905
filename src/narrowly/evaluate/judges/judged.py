"""Describe an answer that is to be judged, and its identity: which answers it belongs to, and its content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narrowly.data.banks.broad import part_of
from narrowly.data.messages import Message
from narrowly.records.answers import Answer, FinishReason, Who
from narrowly.records.canonical import canonical_json, content_id, sha256_text


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


def _message(fields: dict[str, object]) -> Message:
    return Message(str(fields.get("role", "user")), str(fields.get("content") or ""))  # type: ignore[arg-type]
