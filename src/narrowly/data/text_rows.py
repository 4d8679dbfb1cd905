"""Read the rows of a run from a text dataset: find and check its file, split it, render the chat template."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from narrowly.data.conversations import read_conversations, warn_of_bad_rows
from narrowly.data.messages import Conversation, messages_sha256
from narrowly.data.raw_rows import BadRow
from narrowly.data.render import Rendered, render_all
from narrowly.data.rendering.template import template_of
from narrowly.data.run_rows import RowsBase, RunRows
from narrowly.data.sources import resolve
from narrowly.records.canonical import cached_sha256
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.run_spec import TextData
from narrowly.records.streams import stream_seed


def give_template(tokenizer: Any, file: str | None, is_used: bool = True) -> str:
    """Put the template of a file into the tokenizer where one is given; return the template in use.

    Where none is used (all rows are texts without roles) and there is none, it is the empty text.

    Raises:
        RunDirectoryError: the file cannot be read.
        SpecError: there is no template.
    """
    if file is not None:
        try:
            tokenizer.chat_template = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunDirectoryError(f"cannot read data.template {file}: {error}") from error
    return template_of(tokenizer) if is_used or tokenizer.chat_template else ""


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


def fitted(data: TextData, base: RowsBase) -> TextData:
    """Return text data whose default `max_tokens` is at most the positions of the base.

    Raises:
        SpecError: another `max_tokens` is more than that.
    """
    if data.max_tokens == TextData.model_fields["max_tokens"].default:  # which never refuses what nobody typed
        data = data.model_copy(update={"max_tokens": min(data.max_tokens, base.positions or data.max_tokens)})
    if base.positions is not None and data.max_tokens > base.positions:
        raise SpecError(
            f"data.max_tokens is {data.max_tokens}, accepted: at most {base.positions}, the positions of base "
            f"{base.name}"
        )
    return data


def text_rows(data: TextData, base: RowsBase, seed: int) -> RunRows:
    """Read, split and render a text dataset with the tokenizer of a base; the run seed plays no part.

    Raises:
        UnknownNameError, IntegrityError, SpecError, RunDirectoryError: no such dataset, another content than its
            sha256 says, a broken line, a conversation that the template cannot render, a row that is too long.
    """
    data = fitted(data, base)
    files = [resolve(data.dataset).path, *base.folder.glob("*token*.json"), *base.folder.glob("*.jinja")]
    if data.template is not None:
        files.append(Path(data.template).expanduser())
    return _rendered(base, data, tuple(cached_sha256(file) for file in files if file.is_file()))


@functools.lru_cache(maxsize=4)
def _rendered(base: RowsBase, data: TextData, version: tuple[str, ...]) -> RunRows:
    # version, the sha256 of everything that is read, is in the key only: a study asks for the same rows again and again
    tokenizer = base.tokenizer()
    local = resolve(data.dataset)
    if data.sha256 not in (None, local.sha256):
        raise IntegrityError(f"data.sha256 is {data.sha256}, but {data.dataset} has {local.sha256}")
    bad: list[BadRow] | None = [] if data.bad_rows == "drop" else None
    conversations = read_conversations(local.path, data.row_schema or local.schema, bad)
    total = len(conversations) + len(bad or ())
    template = give_template(tokenizer, data.template, is_used=not all(row.is_text for row in conversations))

    def rendered(part: Sequence[Conversation]) -> Rendered:
        return render_all(
            tokenizer,
            part,
            thinking=data.thinking,
            max_tokens=data.max_tokens,
            longer=data.longer,
            turns=data.turns,
            source=data.dataset,
            bad=bad,
        )

    train, heldout = map(rendered, split(conversations, data, data.dataset))
    left_out = sorted(bad or ())
    for part, what in ((train, "row"), *([(heldout, "row held out")] if data.holdout else [])):
        if not part.rows:
            first = f" or bad (line {left_out[0].line}: {left_out[0].reason})" if left_out else ""
            raise SpecError(f"{data.dataset}: every {what} is longer than data.max_tokens ({data.max_tokens}){first}")
    warn_of_bad_rows(data.dataset, left_out, total)
    return RunRows(
        data.dataset,
        tuple(train.rows),
        tuple(train.lines),
        tuple(heldout.rows),
        dropped=tuple(sorted({*train.dropped, *heldout.dropped})),
        bad=tuple(left_out),
        template=template,
    )
