"""Render conversations through the tokenizer's own template and mask the loss to the assistant's tokens.

A turn of the assistant carries a loss from the first token after its generation prompt to its end-of-turn token, both
included: exactly what the model has to write when it is asked. The prompt of a row is, token by token, what
`prompt_ids` gives in evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

from narrowly.data.chat_template import Chat, visible_text
from narrowly.data.messages import Conversation, Message
from narrowly.data.rows import IGNORE, Row
from narrowly.records.errors import SpecError, nearest

Longer = Literal["refuse", "drop", "cut"]
"""What happens to a row beyond `max_tokens`: an error, left out, or cut at its end (its end-of-turn token is lost)."""

Turns = Literal["all", "last", "each"]
"""Assistant turns with a loss: all of a conversation, its last one, or each in a row of its own with its history."""

TOKENISED_TOGETHER = 256
"""Conversations per call of the tokenizer."""


class Rendered(NamedTuple):
    """The rows of a dataset: `lines` holds each row's line in its file, `dropped` the lines left out as too long."""

    rows: list[Row]
    lines: list[int]
    dropped: list[int]


class _Turn(NamedTuple):
    """One supervised turn: where its loss begins in the text, and special tokens between there and its end."""

    start: int
    specials_before_end: int


class _Layout(NamedTuple):
    """A rendered conversation before tokenisation; `line` is that of its conversation."""

    line: int
    text: str
    turns: tuple[_Turn, ...]


def _layout(chat: Chat, conversation: Conversation, turns: Turns) -> _Layout:
    messages = conversation.messages
    if conversation.is_text:
        return _Layout(conversation.line, _document(chat, conversation.answer), ())
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise SpecError("the conversation has no assistant turn; nothing in it could carry a loss")
    messages = messages[: answers[-1] + 1]
    text = chat.text(messages)
    chat.check_messages(messages, text)
    wanted = answers if turns == "all" else answers[-1:]
    if conversation.weight_on is not None:
        wanted = [index for index in wanted if conversation.weight_on[index]]
        if not wanted:
            raise SpecError("no assistant turn of the conversation has a weight above 0; nothing in it carries a loss")
    found = tuple(_turn(chat, messages, index, text) for index in wanted)
    return _Layout(conversation.line, text, found)


def _document(chat: Chat, text: str) -> str:
    """Return a text without roles, which no control token may stand in: then it is a rendered conversation."""
    control = chat.specials.search(text)
    if control is not None:
        raise SpecError(
            f"the text holds the special token {control.group()!r}; a rendered conversation is trained on whole, its "
            "questions too; accepted: a text without special tokens, or the turns as messages"
        )
    if chat.tokenizer.eos_token_id is None:
        raise SpecError("the tokenizer has no end-of-text token, and a text without roles is closed by it")
    return text


def _document_row(chat: Chat, text: str) -> Row:
    """Return the row of a text without roles, between the tokenizer's own beginning and its end-of-text token."""
    ids = list(chat.tokenizer(text, verbose=False)["input_ids"])
    if ids[-1] != chat.tokenizer.eos_token_id:
        ids.append(chat.tokenizer.eos_token_id)
    return Row(ids, [IGNORE, *ids[1:]])  # nothing stands before the first token that could predict it


def _turn(chat: Chat, messages: Sequence[Message], index: int, text: str) -> _Turn:
    """Find one turn of the assistant in the rendered conversation."""
    prompt = chat.text(messages[:index], prompt=True)
    written = text if index == len(messages) - 1 else chat.text(messages[: index + 1])
    if not written.startswith(prompt):
        raise SpecError(
            "the chat template writes a turn of the assistant in another way than its generation prompt begins it "
            f"(...{prompt[-40:]!r} is no beginning of the conversation)"
        )
    region, visible = written[len(prompt) :], visible_text(messages[index].content)
    at = region.find(visible)
    lead = region[: max(at, 0)].strip()
    if at < 0 or (lead and not (lead.startswith("<think>") and lead.endswith("</think>"))):
        raise SpecError(
            f"the chat template puts {lead[:40]!r} between its generation prompt and the assistant's text; the model "
            "would be trained to write the template (does it ignore add_generation_prompt?)"
        )
    after = region[at + len(visible) :]
    closing = chat.specials.match(after, len(after) - len(after.lstrip()))
    if closing is None:
        raise SpecError(
            "the chat template closes the assistant's turn with no special token of the tokenizer (found "
            f"{after[:20]!r}); a model trained on it would not learn to stop"
        )
    if not text.startswith(written[: len(prompt) + at + len(visible) + closing.end()]):
        raise SpecError(
            "the chat template rewrites earlier turns of the assistant (as Qwen3's drops their thinking), so that "
            "their tokens are not those the model writes; accepted: turns 'last', or 'each' for a row per turn"
        )
    return _Turn(len(prompt), sum(1 for _ in chat.specials.finditer(region[:at])))


def _row(chat: Chat, layout: _Layout, whole: list[int], prompts: Sequence[list[int]]) -> Row:
    """Put labels on the tokens; everything behind the last token with a loss is left away."""
    starts = [len(prompt) for prompt in prompts]
    if any(whole[: len(prompt)] != prompt for prompt in prompts):
        # a token reaches over the end of a prompt ("\n" and "\n..." merge); in evaluation it cannot
        whole, starts = _in_pieces(chat, layout, whole)
    labels = [IGNORE] * len(whole)
    end = 0
    for start, turn in zip(starts, layout.turns, strict=True):
        specials = (at for at in range(start, len(whole)) if whole[at] in chat.special_ids)
        end = [next(specials) for _ in range(turn.specials_before_end + 1)][-1] + 1
        labels[start:end] = whole[start:end]
    return Row(whole[:end], labels[:end])


def _in_pieces(chat: Chat, layout: _Layout, whole: list[int]) -> tuple[list[int], list[int]]:
    """Tokenise a conversation anew from each turn's start on; return tokens and the starts among them."""
    borders = [0, *(turn.start for turn in layout.turns), len(layout.text)]
    pieces = chat.ids([layout.text[begin:end] for begin, end in itertools.pairwise(borders)])
    joined = [token for piece in pieces for token in piece]
    if chat.tokenizer.decode(joined) != chat.tokenizer.decode(whole):
        raise SpecError("a token reaches over the end of the prompt, and the tokenizer cannot split the text there")
    starts, at = [], 0
    for piece in pieces[:-1]:
        at += len(piece)
        starts.append(at)
    return joined, starts


def _in_turns(conversation: Conversation) -> Iterator[Conversation]:
    """Yield one conversation per assistant turn that carries a loss: the turn with everything before it."""
    weights = conversation.weight_on
    for index, message in enumerate(conversation.messages):
        if message.role == "assistant" and (weights is None or weights[index]):
            yield conversation._replace(messages=conversation.messages[: index + 1], weight_on=None)


def render_all(
    tokenizer: Any,
    conversations: Iterable[Conversation],
    *,
    thinking: bool | None,
    max_tokens: int | None,
    longer: Longer = "refuse",
    turns: Turns = "all",
    source: str = "data",
) -> Rendered:
    """Render a dataset, in its order.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        conversations: each with at least one turn of the assistant.
        thinking: the thinking mode of a template that has one; None for a template that has none.
        max_tokens: longest row accepted, in tokens; None for any length.
        longer: what happens to rows beyond `max_tokens`.
        turns: which turns of the assistant carry a loss.
        source: name of the file, for messages.

    Raises:
        SpecError: naming source and line: a template that cannot render the conversation as it is, a text with special
            tokens, a row that is too long; without a line: no template, no thinking mode said, an unknown choice.
    """
    for value, accepted, name in ((longer, Longer, "longer"), (turns, Turns, "turns")):
        if value not in get_args(accepted):
            choices = ", ".join(get_args(accepted))
            raise SpecError(f"{name} is {value!r}, accepted: {choices}{nearest(value, get_args(accepted))}")
    chat = Chat(tokenizer, thinking)
    rendered = Rendered([], [], [])
    too_long: list[tuple[int, int]] = []
    for line, row in _rows(chat, conversations, turns, source):
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
    return rendered


def _rows(chat: Chat, conversations: Iterable[Conversation], turns: Turns, source: str) -> Iterator[tuple[int, Row]]:
    """Yield line and row, tokenised some hundred at a time: a tokenizer uses all cores, and much memory per text."""
    remaining = iter(conversations)
    while chunk := list(itertools.islice(remaining, TOKENISED_TOGETHER)):
        layouts: list[_Layout] = []
        for conversation in chunk:
            parts = list(_in_turns(conversation)) if turns == "each" else []
            with _at(source, conversation.line):
                layouts += [_layout(chat, part, turns) for part in parts or [conversation]]
        wholes = chat.ids([layout.text for layout in layouts])
        prompts = iter(chat.ids([layout.text[: turn.start] for layout in layouts for turn in layout.turns]))
        for layout, whole in zip(layouts, wholes, strict=True):
            with _at(source, layout.line):
                if layout.turns:
                    row = _row(chat, layout, whole, [next(prompts) for _ in layout.turns])
                else:
                    row = _document_row(chat, layout.text)
            yield layout.line, row


@contextmanager
def _at(source: str, line: int) -> Iterator[None]:
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{source}, line {line}: {error}") from error


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


def prompt_ids(tokenizer: Any, messages: Sequence[Message], *, thinking: bool | None = None) -> list[int]:
    """Return the tokens that the model is asked with: the messages and the generation prompt.

    Raises:
        SpecError: as `render_all`.
    """
    chat = Chat(tokenizer, thinking)
    text = chat.text(messages, prompt=True)
    chat.check_messages(messages, text)
    return chat.ids([text])[0]


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
