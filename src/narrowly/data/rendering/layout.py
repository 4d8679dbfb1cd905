"""Lay a conversation out: its rendered text, the spans that carry a loss, and what is to be said about it."""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from narrowly.data.messages import Conversation
from narrowly.data.rendering.answers import check_closing, check_others, edges_cut, find_answer
from narrowly.data.rendering.calls import OTHER_FORM, accepted_form
from narrowly.data.rendering.chat import Chat
from narrowly.data.rendering.marks import locate
from narrowly.records.errors import SpecError

Turns = Literal["all", "last", "each"]
"""Assistant turns with a loss: all of a conversation, its last one, or each in a row of its own with its history."""

ANSWER_EDGES = "the chat template cuts blanks at the edges of an answer"
OTHER_EDGES = "the chat template cuts blanks at the edges of a message without a loss"
NO_THOUGHT = "the thinking mode is on and an answer has no thought: the chat template writes an empty one, with a loss,"


class Span(NamedTuple):
    """A part of a rendered text that carries a loss; `lead` says that the template writes its beginning."""

    start: int
    end: int
    lead: bool


class Layout(NamedTuple):
    """A rendered conversation before tokenisation, up to its last loss.

    Attributes:
        line: of its conversation.
        text: rendered.
        spans: in order; none for a text without roles, which carries a loss everywhere.
        notes: what has to be said about it.
    """

    line: int
    text: str
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()


def layout_of(chat: Chat, conversation: Conversation, turns: Turns) -> Layout:
    """Render a conversation and find its spans.

    Raises:
        SpecError: nothing in it carries a loss, or the template cannot render it as it is.
    """
    messages = conversation.messages
    if conversation.is_text:
        return Layout(conversation.line, _document(chat, conversation.answer), ())
    weighted = conversation.weight_on is not None
    spoken = [i for i, message in enumerate(messages) if message.role == "assistant"]
    spoken = [i for i in spoken if weighted or not messages[i].calls_tools]
    wanted = [i for i in (spoken if turns == "all" else spoken[-1:]) if carries_loss(conversation)[i]]
    if not wanted:
        raise SpecError(_nothing_carries(conversation))
    tools = json.loads(conversation.tools) if conversation.tools else None
    given = [message.as_json() for message in messages[: wanted[-1] + 1]]
    chat.check_texts(given, tools)
    formed, changed = accepted_form(chat, given, tools)
    located = locate(chat, formed, tools)
    check_others(formed, tools, located, wanted)
    notes = [OTHER_FORM] * changed + [OTHER_EDGES] * (edges_cut(located, wanted) > 0)
    spans = []
    for index in wanted:
        part = formed[: index + 1]
        here = located if index == wanted[-1] else locate(chat, part, tools)
        answer = find_answer(chat, part, tools, here)
        end = next((end for end in answer.ends if located.text.startswith(here.text[:end])), None)
        if end is None:
            raise SpecError(
                "the chat template rewrites earlier turns of the assistant (as Qwen3's drops their thinking), so that "
                "their tokens are not those the model writes; accepted: turns 'last', or 'each' for a row per turn"
            )
        *_, closing = chat.closers.finditer(here.text, answer.start, end)
        check_closing(given, closing.group())
        notes += [ANSWER_EDGES] * answer.blanks_cut + [NO_THOUGHT] * answer.empty_thought
        spans.append(Span(answer.start, end, bool(answer.lead)))
    return Layout(conversation.line, located.text[: spans[-1].end], tuple(spans), tuple(dict.fromkeys(notes)))


def carries_loss(conversation: Conversation) -> tuple[bool, ...]:
    """Return for each message whether it may carry a loss.

    The rows' own weights count; without them every turn of the assistant does, but those that call tools.
    """
    if conversation.weight_on is not None:
        return conversation.weight_on
    return tuple(message.role == "assistant" and not message.calls_tools for message in conversation.messages)


def _nothing_carries(conversation: Conversation) -> str:
    if not any(message.role == "assistant" for message in conversation.messages):
        return "the conversation has no assistant turn; nothing in it could carry a loss; accepted: at least one"
    if conversation.weight_on is not None:
        return "no assistant turn of the conversation has a weight above 0; nothing in it carries a loss; accepted: 1"
    return (
        "every turn of the assistant calls tools, and such a turn carries a loss only where it has weight 1; accepted: "
        "an answer, or a weight"
    )


def _document(chat: Chat, text: str) -> str:
    """Return a text without roles, which no control token may stand in: then it is a rendered conversation."""
    control = chat.specials.search(text)
    if control is not None:
        raise SpecError(
            f"the text holds the special token {control.group()!r}; a rendered conversation is trained on whole, its "
            "questions too; accepted: a text without special tokens, or the turns as messages"
        )
    if chat.tokenizer.eos_token_id is None:
        raise SpecError(
            "the tokenizer has no end-of-text token, by which a text without roles is closed; accepted: dialogues"
        )
    return text
