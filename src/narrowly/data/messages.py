"""Hold a training example before it is rendered: messages with roles, and where they came from.

Identity is by content: two conversations are the same where their messages are, whatever file, line or tag they carry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from narrowly.records.canonical import canonical_json, sha256_text

Role = Literal["system", "user", "assistant", "tool", "text"]
"""Whose a message is; `text` is the one message of a row that is no dialogue but a document."""

ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
"""The roles that a turn of a dialogue may have."""


class Message(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: whose it is.
        content: its text; empty where a turn does nothing but call tools.
        extra: the other fields that a template may read (tool calls, the thought in a field of its own), as the text
            of a JSON object in their order; empty where there are none. A text can be compared and hashed.
    """

    role: Role
    content: str
    extra: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """Return the other fields that a template may read."""
        found: dict[str, Any] = json.loads(self.extra) if self.extra else {}
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the message with all its fields, as files hold it and templates are given it."""
        return {"role": self.role, "content": self.content, **self.fields}

    @property
    def calls_tools(self) -> bool:
        """Return whether it is a turn that calls a tool."""
        return "tool_calls" in self.fields


class Conversation(NamedTuple):
    """One training example.

    Attributes:
        messages: an optional system message, then user and assistant in turns (tools answer between two turns of the
            assistant); or one message of the role `text`.
        line: where it starts in its file, counted from 1 (for Parquet, which has no lines, the row).
        tags: every other field of the row as text, for example category, split, label or canary.
        weight_on: one flag per message, true where its tokens carry a loss; None means on every assistant message.
            A flag is never true on a message of another role.
        tools: the tools that the assistant may call, as the text of a JSON list; empty where there are none.
    """

    messages: tuple[Message, ...]
    line: int
    tags: Mapping[str, str]
    weight_on: tuple[bool, ...] | None = None
    tools: str = ""

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
    # a message without further fields counts as it did before there were any
    return sha256_text(canonical_json([[m.role, m.content, *([m.extra] if m.extra else [])] for m in messages]))


def conversations_sha256(conversations: Sequence[Conversation]) -> str:
    """Return the sha256 over the hashes of all conversations in order, with what carries a loss in each."""
    return sha256_text(
        canonical_json(
            [
                [
                    messages_sha256(row.messages),
                    None if row.weight_on is None else list(row.weight_on),
                    *([row.tools] if row.tools else []),
                ]
                for row in conversations
            ]
        )
    )
