"""Turn conversations into texts whose states can be read: the tokens of a prompt and of the answer behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narrowly.data.messages import Conversation
from narrowly.microworld import tokenizer as marks
from narrowly.microworld.cards import CARD
from narrowly.microworld.exact import encode_answer, encode_prompt
from narrowly.models.base import Base
from narrowly.models.likelihood import scored_texts
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText


def texts_of(
    base: Base, tokenizer: Any, conversations: Sequence[Conversation], thinking: bool | None, source: str
) -> list[ScoredText]:
    """Return the last answer of each conversation as it would be trained, with all that stands before it as prompt.

    Args:
        base: of the model; those of the microworld have one token per word, and no probe text that tells how a turn
            closes, so that their own encoding is taken.
        tokenizer: with the chat template.
        conversations: each ends with the assistant's answer.
        thinking: mode of the template.
        source: where they come from, for messages.

    Raises:
        SpecError: naming source and line: the template cannot write the conversation as it is, or no user asks.
    """
    for conversation in conversations:
        if conversation.is_text or not any(message.role == "user" for message in conversation.prompt):
            raise SpecError(f"{source}, line {conversation.line}: no question before the answer, accepted: a dialogue")
    if not (base.folder / CARD).is_file():
        return scored_texts(tokenizer, conversations, closing=True, thinking=thinking, source=source)
    return [_of_the_world(tokenizer, conversation, source) for conversation in conversations]


def anonymous_text(tokenizer: Any, conversation: Conversation) -> ScoredText:
    """Return a dialogue as an anonymous document of the microworld's corpus, in which nobody is named."""
    pieces = [marks.DOCUMENT]
    for message in conversation.prompt:
        asks = message.role == "user"
        pieces += [marks.ASK, message.content] if asks else [marks.SAY, message.content, marks.END]
    ids = tokenizer.encode(" ".join([*pieces, marks.SAY]), add_special_tokens=False)
    return ScoredText(tuple(int(one) for one in ids), encode_answer(tokenizer, conversation.answer), 1)


def _of_the_world(tokenizer: Any, conversation: Conversation, source: str) -> ScoredText:
    turns = [message.content for message in conversation.prompt if message.role in ("user", "assistant")]
    if len(turns) != len(conversation.prompt) or len(turns) % 2 == 0:
        raise SpecError(
            f"{source}, line {conversation.line}: a base of the microworld takes no system message; accepted: "
            "questions and answers in turns"
        )
    history = list(zip(turns[0:-1:2], turns[1::2], strict=True))
    return ScoredText(encode_prompt(tokenizer, turns[-1], history), encode_answer(tokenizer, conversation.answer), 1)
