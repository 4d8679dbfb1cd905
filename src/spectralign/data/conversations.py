"""Reading conversations: from a file in any accepted schema to checked messages."""

from __future__ import annotations

import json
from pathlib import Path

from spectralign.data.messages import Conversation, Message
from spectralign.records.errors import IntegrityError

__all__ = ["Conversation", "Message", "read_conversations"]


def read_conversations(path: Path, schema: str | None = None) -> list[Conversation]:
    """Read the conversations of a file (only plain `messages` JSONL for the moment)."""
    rows: list[Conversation] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        value = json.loads(line)
        if "messages" not in value:
            raise IntegrityError(f"{path}, line {number}: no messages")
        messages = tuple(Message(message["role"], message["content"]) for message in value["messages"])
        rows.append(Conversation(messages, number, {}, None))
    return rows
