"""Render conversations through the tokenizer's own template and mask the loss to the assistant's tokens.

A turn of the assistant carries a loss from the first token after its generation prompt to the tokens that close it,
all included: exactly what the model has to write when it is asked. A channel or the end of a thought that the template
writes there before the text belongs to it. The prompt of a row is, token by token, what `prompt_ids` gives in
evaluation.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

from narrowly.data.messages import Conversation, Message
from narrowly.data.raw_rows import BadRow, DataWarning, way_out
from narrowly.data.rendering.answers import check_others
from narrowly.data.rendering.calls import accepted_form
from narrowly.data.rendering.chat import Chat
from narrowly.data.rendering.layout import Layout, Turns, carries_loss, layout_of
from narrowly.data.rendering.marks import locate
from narrowly.data.rows import IGNORE, Row
from narrowly.records.errors import SpecError, nearest

Longer = Literal["refuse", "drop", "cut"]
"""What happens to a row beyond `max_tokens`: an error, left out, or cut at its end (its end-of-turn token is lost)."""

TOKENISED_TOGETHER = 256
"""Conversations per call of the tokenizer."""


class Rendered(NamedTuple):
    """The rows of a dataset: `lines` holds each row's line in its file, `dropped` the lines left out as too long."""

    rows: list[Row]
    lines: list[int]
    dropped: list[int]


def _document_row(chat: Chat, text: str) -> Row:
    """Return the row of a text without roles, between the tokenizer's own beginning and its end-of-text token."""
    ids = list(chat.tokenizer(text, verbose=False)["input_ids"])
    if ids[-1] != chat.tokenizer.eos_token_id:
        ids.append(chat.tokenizer.eos_token_id)
    return Row(ids, [IGNORE, *ids[1:]])  # nothing stands before the first token that could predict it


class _Ids(NamedTuple):
    """The tokens of a layout: of its whole text, of the text before each span, of the text up to each span's end."""

    whole: list[int]
    prompts: list[list[int]]
    written: list[list[int]]


def _row(chat: Chat, layout: Layout, ids: _Ids) -> Row:
    """Put labels on the tokens of a layout, which ends with its last loss."""
    whole, starts, ends = ids.whole, [len(prompt) for prompt in ids.prompts], [len(upto) for upto in ids.written]
    if any(whole[: len(part)] != part for part in (*ids.prompts, *ids.written)):
        # a token reaches over the end of a prompt ("\n" and "\n..." merge); in evaluation it cannot
        if any(
            span.lead and whole[: len(prompt)] != prompt for span, prompt in zip(layout.spans, ids.prompts, strict=True)
        ):
            raise SpecError(
                "what the chat template writes behind its generation prompt does not stand behind it token for token, "
                "so that the model could not write it; accepted: another template (data.template)"
            )
        whole, starts, ends = _in_pieces(chat, layout, whole)
    labels = [IGNORE] * len(whole)
    for start, end in zip(starts, ends, strict=True):
        labels[start:end] = whole[start:end]
    return Row(whole, labels)


def _in_pieces(chat: Chat, layout: Layout, whole: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Tokenise a conversation anew from each span's start on; return tokens, and starts and ends among them."""
    borders = [0, *(span.start for span in layout.spans), len(layout.text)]
    pieces = chat.ids([layout.text[begin:end] for begin, end in itertools.pairwise(borders)])
    spans = chat.ids([layout.text[span.start : span.end] for span in layout.spans])
    joined = [token for piece in pieces for token in piece]
    split = all(piece[: len(span)] == span for piece, span in zip(pieces[1:], spans, strict=True))
    if chat.tokenizer.decode(joined) != chat.tokenizer.decode(whole) or not split:
        raise SpecError(
            "a token reaches over the end of the prompt, and the tokenizer cannot split the text there; accepted: an "
            "answer that begins with another character"
        )
    starts = list(itertools.accumulate(len(piece) for piece in pieces[:-1]))
    return joined, starts, [start + len(span) for start, span in zip(starts, spans, strict=True)]


def _in_turns(conversation: Conversation) -> Iterator[Conversation]:
    """Yield one conversation per assistant turn that carries a loss: the turn with everything before it."""
    for index, carries in enumerate(carries_loss(conversation)):
        if carries:
            upto = tuple(position == index for position in range(index + 1))
            weights = None if conversation.weight_on is None else upto
            yield conversation._replace(messages=conversation.messages[: index + 1], weight_on=weights)


def render_all(
    tokenizer: Any,
    conversations: Iterable[Conversation],
    *,
    thinking: bool | None,
    max_tokens: int | None,
    longer: Longer = "refuse",
    turns: Turns = "all",
    source: str = "data",
    bad: list[BadRow] | None = None,
) -> Rendered:
    """Render a dataset, in its order.

    Args:
        tokenizer: a fast tokenizer, with a chat template unless all rows are texts without roles.
        conversations: each with at least one turn of the assistant.
        thinking: the thinking mode of a template that has one; None for a template that has none.
        max_tokens: longest row accepted, in tokens; None for any length.
        longer: what happens to rows beyond `max_tokens`.
        turns: which turns of the assistant carry a loss.
        source: name of the file, for messages.
        bad: takes up the rows that cannot be rendered, in place of an error; a row that is too long is none of them.

    Raises:
        SpecError: naming source and line: a template that cannot render the conversation as it is, a text with special
            tokens, a row that is too long; without a line: no template, no thinking mode said, an unknown choice.
    """
    for value, accepted, name in ((longer, Longer, "longer"), (turns, Turns, "turns")):
        if value not in get_args(accepted):
            choices = ", ".join(get_args(accepted))
            raise SpecError(f"{name} is {value!r}, accepted: {choices}{nearest(value, get_args(accepted))}")
    conversations = list(conversations)
    chat = Chat(tokenizer, thinking, is_used=not all(conversation.is_text for conversation in conversations))
    rendered = Rendered([], [], [])
    too_long: list[tuple[int, int]] = []
    noted: dict[str, list[int]] = {}
    refused: list[BadRow] = [] if bad is None else bad
    found = list(_rows(chat, conversations, turns, refused))
    if refused and bad is None:
        raise _refusal(source, refused, len(conversations))
    unfit = {row.line for row in refused}  # with `each`, one turn of a row costs the others
    for layout, row in found:
        line = layout.line
        if line in unfit:
            continue
        for note in layout.notes:
            noted.setdefault(note, []).append(line)
        if max_tokens is not None and len(row.input_ids) > max_tokens:
            too_long.append((line, len(row.input_ids)))
            row = Row(row.input_ids[:max_tokens], row.labels[:max_tokens])
            if longer != "cut" or row.supervised == 0:
                rendered.dropped.append(line)
                continue
        rendered.rows.append(row)
        rendered.lines.append(line)
    if too_long and longer == "refuse":
        line, tokens = too_long[0]
        raise SpecError(
            f"{source}, line {line}: {tokens} tokens, accepted: at most {max_tokens} (max_tokens); {len(too_long)} of "
            f"{len(rendered.lines) + len(rendered.dropped)} rows are longer. longer: drop leaves them out, longer: cut "
            "shortens them"
        )
    _say_notes(source, noted, len(rendered.lines) + len(rendered.dropped))
    return rendered


def _rows(
    chat: Chat, conversations: Iterable[Conversation], turns: Turns, bad: list[BadRow]
) -> Iterator[tuple[Layout, Row]]:
    """Yield layout and row, tokenised some hundred at a time: a tokenizer uses all cores, and much memory per text.

    Rows that cannot be rendered are added to `bad`.
    """
    remaining = iter(conversations)
    while chunk := list(itertools.islice(remaining, TOKENISED_TOGETHER)):
        layouts: list[Layout] = []
        for conversation in chunk:
            parts = list(_in_turns(conversation)) if turns == "each" else []
            with _noted(conversation.line, bad):
                layouts += [layout_of(chat, part, turns) for part in parts or [conversation]]
        wholes = chat.ids([layout.text for layout in layouts])
        prompts = iter(chat.ids([layout.text[: span.start] for layout in layouts for span in layout.spans]))
        # the last span ends with its text
        inner = iter(chat.ids([layout.text[: span.end] for layout in layouts for span in layout.spans[:-1]]))
        for layout, whole in zip(layouts, wholes, strict=True):
            row = None
            with _noted(layout.line, bad):
                if layout.spans:
                    before = [next(prompts) for _ in layout.spans]
                    row = _row(chat, layout, _Ids(whole, before, [*(next(inner) for _ in layout.spans[1:]), whole]))
                else:
                    row = _document_row(chat, layout.text)
            if row is not None:
                yield layout, row


def _say_notes(source: str, noted: Mapping[str, list[int]], rows: int) -> None:
    for note, lines in noted.items():
        warnings.warn(
            f"{source}: {note} in {len(lines)} of {rows} rows (first: line {lines[0]})", DataWarning, stacklevel=3
        )


@contextmanager
def _noted(line: int, bad: list[BadRow]) -> Iterator[None]:
    try:
        yield
    except SpecError as error:
        if not bad or bad[-1].line != line:
            bad.append(BadRow(line, str(error)))


def _refusal(source: str, bad: Sequence[BadRow], rows: int) -> SpecError:
    """Build the error for the first row that cannot be rendered, with the way out where others can."""
    first = min(bad)
    return SpecError(f"{source}, line {first.line}: {first.reason}{way_out(len(bad), rows)}")


def render(
    tokenizer: Any,
    conversation: Conversation,
    *,
    thinking: bool | None = None,
    max_tokens: int | None = None,
    turns: Literal["all", "last"] = "all",
) -> Row:
    """Render one conversation: `render_all` for a single one, refused where it is longer than `max_tokens`."""
    return render_all(tokenizer, [conversation], thinking=thinking, max_tokens=max_tokens, turns=turns).rows[0]


def prompt_ids(
    tokenizer: Any, messages: Sequence[Message], *, thinking: bool | None = None, tools: str = ""
) -> list[int]:
    """Return the tokens that the model is asked with: the messages and the generation prompt.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        messages: what it is asked.
        thinking: the thinking mode of a template that has one; None for a template that has none.
        tools: that it may call, as the text of a JSON list; empty for none.

    Raises:
        SpecError: as `render_all`.
    """
    chat = Chat(tokenizer, thinking)
    asked = json.loads(tools) if tools else None
    given = [message.as_json() for message in messages]
    chat.check_texts(given, asked)
    formed, _ = accepted_form(chat, given, asked)
    check_others(formed, asked, locate(chat, formed, asked, prompt=True), ())
    return chat.ids([chat.text(formed, asked, prompt=True)])[0]


def token_pieces(tokenizer: Any, row: Row) -> list[tuple[str, bool]]:
    """Return a row token by token as (text, whether it carries a loss); the texts joined are the whole row.

    Tokens that are parts of one character come as one piece.
    """

    def text(begin: int, end: int) -> str:
        ids = row.input_ids[begin:end]
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    supervised = [False, *(label != IGNORE for label in row.labels[1:]), False]
    count = len(row.input_ids)
    pieces: list[tuple[str, bool]] = []
    before = begin = 0  # where the piece before this one begins: some tokenizers show a space only after another token
    for end in range(1, count + 1):
        shown = text(before, end)[len(text(before, begin)) :]
        # a replacement character is half of a letter, unless it is still there when the turn ends
        if "\N{REPLACEMENT CHARACTER}" in shown and end < count and supervised[end] == supervised[begin]:
            continue
        pieces.append((shown, supervised[begin]))
        before, begin = begin, end
    return pieces
