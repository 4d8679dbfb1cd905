"""Turn a TextData into rows: find and check the file, split it, render it through the chat template."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.data.chat_template import template_of
from narrowly.data.conversations import read_conversations
from narrowly.data.messages import Conversation, messages_sha256
from narrowly.data.render import Rendered, render_all
from narrowly.data.rows import Row
from narrowly.data.sources import resolve
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.run_spec import TextData
from narrowly.records.streams import stream_seed


class TextRows(NamedTuple):
    """What a run reads of a text dataset.

    Attributes:
        rows: to train on, in the file's order.
        lines: line in the file of each of them.
        heldout: rows that are not trained on.
        dropped: lines left out of both as longer than `max_tokens`.
        template: the chat template that all were rendered with.
    """

    rows: tuple[Row, ...]
    lines: tuple[int, ...]
    heldout: tuple[Row, ...]
    dropped: tuple[int, ...]
    template: str


def give_template(tokenizer: Any, file: str | None) -> str:
    """Put the template of a file into the tokenizer where one is given; return the template in use.

    Raises:
        RunDirectoryError: the file cannot be read.
        SpecError: there is no template.
    """
    if file is not None:
        try:
            tokenizer.chat_template = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunDirectoryError(f"cannot read data.template {file}: {error}") from error
    return template_of(tokenizer)


def split(
    conversations: Sequence[Conversation], data: TextData, source: str
) -> tuple[list[Conversation], list[Conversation]]:
    """Return the conversations to train on and those held out, both in the file's order, drawn from `split_seed`.

    What is held out opens with a prompt that stands once in the file: neither a copy of it nor another answer to its
    prompt is trained on.

    Raises:
        SpecError: more are asked for than there are.
    """
    openings = [_opening_sha256(conversation) for conversation in conversations]
    copies = Counter(openings)
    order = list(range(len(conversations)))
    random.Random(stream_seed(data.split_seed, "split")).shuffle(order)
    held = [index for index in order if copies[openings[index]] == 1][: data.holdout]
    if len(held) < data.holdout:
        raise SpecError(
            f"data.holdout is {data.holdout}, but {source} has only {len(held)} rows whose prompt stands there once"
        )
    left = [index for index in order if index not in set(held)] if held else order
    if not left or (data.rows is not None and data.rows > len(left)):
        wanted = "all" if data.rows is None else data.rows
        raise SpecError(f"data.rows is {wanted}, but {source} has {len(left)} beside the {len(held)} held out")
    taken = left[: data.rows]
    return [conversations[index] for index in sorted(taken)], [conversations[index] for index in sorted(held)]


def _opening_sha256(conversation: Conversation) -> str:
    """Return the sha256 of the messages before the first answer; of all of them where no user asks before it."""
    messages = conversation.messages
    opening = list(takewhile(lambda message: message.role != "assistant", messages))
    return messages_sha256(opening if any(message.role == "user" for message in opening) else messages)


def text_rows(tokenizer: Any, data: TextData) -> TextRows:
    """Read, split and render a text dataset.

    Args:
        tokenizer: of the base; it is given the template of `data.template` where there is one.
        data: what is asked for.

    Raises:
        UnknownNameError, IntegrityError, SpecError, RunDirectoryError: no such dataset, another content than its
            sha256 says, a broken line, a conversation that the template cannot render, a row that is too long.
    """
    template = give_template(tokenizer, data.template)
    local = resolve(data.dataset)
    if data.sha256 not in (None, local.sha256):
        raise IntegrityError(f"data.sha256 is {data.sha256}, but {data.dataset} has {local.sha256}")
    conversations = read_conversations(local.path, data.row_schema or local.schema)
    train, held = split(conversations, data, data.dataset)

    def rendered(part: Sequence[Conversation]) -> Rendered:
        return render_all(
            tokenizer,
            part,
            thinking=data.thinking,
            max_tokens=data.max_tokens,
            longer=data.longer,
            turns=data.turns,
            source=data.dataset,
        )

    rows, heldout = rendered(train), rendered(held)
    if not rows.rows:
        raise SpecError(f"{data.dataset}: every row is longer than data.max_tokens ({data.max_tokens})")
    return TextRows(
        tuple(rows.rows),
        tuple(rows.lines),
        tuple(heldout.rows),
        tuple(sorted({*rows.dropped, *heldout.dropped})),
        template,
    )
