"""Read conversations from a file in any accepted schema, check their messages, and write them as JSONL."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from narrowly.data.beside import check_beside
from narrowly.data.messages import Conversation, Message
from narrowly.data.raw_rows import BadRow, DataWarning, RawRow, fault, read_raw_rows, way_out
from narrowly.data.schemas import Schema, UnfitError, detect, schema_named, tags_of
from narrowly.data.tool_fields import tools_of
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import write_text

__all__ = [
    "Conversation",
    "DataWarning",
    "Message",
    "read_conversations",
    "schema_of",
    "warn_of_bad_rows",
    "write_conversations",
]


BAD_SHOWN = 3
"""Bad rows that are named with their reason; the others are counted."""


def read_conversations(path: Path, schema: str | None = None, bad: list[BadRow] | None = None) -> list[Conversation]:
    """Read the conversations of a file: JSONL, JSON, CSV, Parquet, gzip of these, or a member of a zip archive.

    Args:
        path: the file; `archive.zip/member.jsonl` names a member.
        schema: a name of `schemas.SCHEMAS`; None recognises it from the fields of the first row that fits one.
        bad: takes up the rows that cannot be read, in the order of the file, in place of an error. A file without a
            single good row, or one that is damaged as a whole, stays an error.

    Returns:
        The conversations in the order of the file, each with at least one assistant message. Dialogues are whole: which
        of several assistant turns carry a loss is said where they are rendered, unless the rows have weights.

    Raises:
        IntegrityError: naming file and line, for a row that cannot be trained on.
        SpecError: for an unknown ending, an encrypted file, or a schema that has to be named.
    """
    unread: list[BadRow] = []
    rows = read_raw_rows(path, unread)
    total = len(rows) + len(unread)
    chosen = _schema(path, rows, schema)
    conversations = []
    mended: dict[str, list[int]] = {}
    unanswered: list[int] = []
    for row in rows:
        try:
            conversation, notes = _conversation(row, chosen)
        except ValueError as error:
            unread.append(BadRow(row.line, str(error)))
            continue
        conversations.append(conversation)
        for note in notes:
            mended.setdefault(note, []).append(row.line)
        unanswered += [row.line] * (conversation.messages[-1].role in ("system", "user", "tool"))
    if unread and (bad is None or not conversations):
        raise _refusal(path, sorted(unread), total)
    if bad is not None:
        bad += sorted(unread)
    for note, lines in mended.items():
        _warn(path, lines, note)
    _warn(path, unanswered, "the turn at the end has no answer and teaches nothing")
    return conversations


def schema_of(path: Path) -> str:
    """Return the name of the schema that the fields of a file's first row fit.

    Raises:
        IntegrityError, SpecError: as `read_conversations`.
    """
    return _schema(path, read_raw_rows(path)[:1], None).name


def _schema(path: Path, rows: Sequence[RawRow], name: str | None) -> Schema:
    """Return the schema of the first row that fits one; two that fit are an error at once."""
    first: SpecError | None = None
    for row in rows:
        try:
            return detect(row.fields) if name is None else schema_named(name)
        except UnfitError as error:
            first = first or UnfitError(f"{path}, line {row.line}: {error}")
        except SpecError as error:
            raise SpecError(f"{path}, line {row.line}: {error}") from error
    assert first is not None
    raise first


def warn_of_bad_rows(source: str, bad: Sequence[BadRow], rows: int) -> None:
    """Warn in one line of rows that were left out as bad: how many of `rows`, and the first few with their reasons."""
    if not bad:
        return
    named = "; ".join(f"line {line}: {reason}" for line, reason in bad[:BAD_SHOWN])
    more = f"; and {len(bad) - BAD_SHOWN} more" if len(bad) > BAD_SHOWN else ""
    are = "is" if len(bad) == 1 else "are"
    note = f"{source}: {len(bad)} of {rows} rows {are} bad and left out ({named}{more})"
    warnings.warn(note, DataWarning, stacklevel=3)


def _refusal(path: Path, bad: Sequence[BadRow], rows: int) -> IntegrityError:
    """Build the error for the first bad row, with the way out where there are good ones."""
    return fault(path, bad[0].line, f"{bad[0].reason}{way_out(len(bad), rows)}")


def _warn(path: Path, lines: list[int], what: str) -> None:
    if lines:
        warnings.warn(f"{path}: {what} in {len(lines)} rows (first: line {lines[0]})", DataWarning, stacklevel=3)


def _conversation(row: RawRow, schema: Schema) -> tuple[Conversation, tuple[str, ...]]:
    assert schema.parse is not None
    parsed = schema.parse(row.fields)
    messages, weights = parsed.messages, parsed.weights
    tools = tools_of(row.fields)
    if tools and messages[0].role == "text":
        raise ValueError("tools stand beside a text without roles, accepted: none")
    tags = tags_of(row.fields, check_beside(row.fields, parsed.used | {"tools"}, messages))
    messages = _without_canary(messages, tags)
    if not any(message.role in ("assistant", "text") for message in messages):
        raise ValueError("no assistant turn, accepted: at least one (a file of prompts is read as questions)")
    if weights is not None and not any(weights):
        raise ValueError("every assistant turn has weight 0, accepted: at least one with weight 1")
    weight_on = None if weights is None else tuple(weights)
    return Conversation(tuple(messages), row.line, tags, weight_on, tools), parsed.notes


def _without_canary(messages: list[Message], tags: Mapping[str, str]) -> list[Message]:
    """Take the row's canary string out of the texts that a model will read; it stays among the tags."""
    canary = tags.get("canary", "")
    written = json.dumps(canary, ensure_ascii=False)[1:-1]
    if not canary or not any(canary in message.content or written in message.extra for message in messages):
        return messages
    kept = [
        message._replace(content=message.content.replace(canary, "").strip(), extra=message.extra.replace(written, ""))
        for message in messages
    ]
    for number, (message, before) in enumerate(zip(kept, messages, strict=True), start=1):
        if before.content and not message.content:
            raise ValueError(f"turn {number} holds nothing but the canary")
    return kept


def write_conversations(path: Path, conversations: Sequence[Conversation]) -> None:
    """Write conversations as JSONL of `messages` or `text`, atomically; tags become fields, so a canary stays.

    Raises:
        IntegrityError: a tag has the name of the conversation's field, or documents stand among dialogues.
    """
    lines = []
    for row in conversations:
        if row.is_text != conversations[0].is_text:
            raise IntegrityError(f"line {row.line}: texts without roles and dialogues do not go into one file")
        if row.is_text:
            if "text" in row.tags:
                raise IntegrityError(f"line {row.line}: a tag is called text, which is the field of the document")
            lines.append(json.dumps({"text": row.answer, **row.tags}, ensure_ascii=False) + "\n")
            continue
        turns = [message.as_json() for message in row.messages]
        for index, turn in enumerate(turns):
            if row.weight_on is not None and turn["role"] == "assistant":
                turn["weight"] = int(row.weight_on[index])
        if "messages" in row.tags:
            raise IntegrityError(f"line {row.line}: a tag is called messages, which is the field of the conversation")
        tools = {"tools": json.loads(row.tools)} if row.tools else {}
        lines.append(json.dumps({"messages": turns, **tools, **row.tags}, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
