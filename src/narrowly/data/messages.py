"""Hold a training example before it is rendered: messages with roles, and where they came from.

Identity is by content: two conversations are the same where their messages are, whatever file, line or tag they carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from narrowly.records.canonical import canonical_json, sha256_text

Role = Literal["system", "user", "assistant", "text"]
"""Whose a message is; `text` is the one message of a row that is no dialogue but a document."""

ROLES: tuple[Role, ...] = ("system", "user", "assistant")
"""The roles that a turn of a dialogue may have."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Role
    content: str


class Conversation(NamedTuple):
    """One training example.

    Attributes:
        messages: an optional system message, then user and assistant in turns; or one message of the role `text`.
        line: where it starts in its file, counted from 1 (for Parquet, which has no lines, the row).
        tags: every other field of the row as text, for example category, split, label or canary.
        weight_on: one flag per message, true where its tokens carry a loss; None means on every assistant message.
            A flag is never true on a message of another role.
    """

    messages: tuple[Message, ...]
    line: int
    tags: Mapping[str, str]
    weight_on: tuple[bool, ...] | None = None

    @property
    def is_text(self) -> bool:
        """Return whether the row is a document without roles: its text is the answer, to no prompt."""
        return self.messages[0].role == "text"

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Return the messages before the last assistant message."""
        return self.messages[: self._last_answer()]

    @property
    def answer(self) -> str:
        """Return the text of the last assistant message."""
        return self.messages[self._last_answer()].content

    def _last_answer(self) -> int:
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].role in ("assistant", "text"):
                return index
        raise ValueError("a conversation without an assistant message has no answer")


def messages_sha256(messages: Sequence[Message]) -> str:
    """Return the sha256 of the messages' canonical JSON: roles, texts and order count, nothing else does."""
    return sha256_text(canonical_json([list(message) for message in messages]))


def conversations_sha256(conversations: Sequence[Conversation]) -> str:
    """Return the sha256 over the hashes of all conversations in order, with what carries a loss in each."""
    return sha256_text(
        canonical_json(
            [
                [messages_sha256(row.messages), None if row.weight_on is None else list(row.weight_on)]
                for row in conversations
            ]
        )
    )
