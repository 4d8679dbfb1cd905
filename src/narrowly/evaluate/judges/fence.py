"""Put texts of models and users into a judge's prompt so that they stay material and cannot address the judge.

Each text stands between two marks with a code that none of the texts contains. The code follows from the texts, so
that the same answer has the same prompt, and a text cannot hold its own code: that would be a fixed point of sha256.
What chat templates read as their own (control tokens) is broken by a blank, and the verdict says so. In a published
rubric, whose wording has marks of its own, the texts stand as published, and those marks are broken inside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from narrowly.data.messages import Message
from narrowly.records.canonical import sha256_text
from narrowly.records.rubrics import ANSWER, QUESTION, Rubric
from narrowly.records.verdicts import Shown

FENCE_VERSION = 1
"""Part of every judge-id; raised when a rule below changes."""

CODE_DIGITS = 16

_CONTROL = re.compile(
    r"<\|[^<>\n]{1,60}?\|>|<\uff5c[^<>\n]{1,60}?\uff5c>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|"
    r"\[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>|</?think>|"
    r"<<<[A-Z ]+(?: [0-9a-f]+)?>>>",
    re.IGNORECASE,
)
"""Control tokens of the families of chat models in use, and whatever looks like a mark of ours with a code that is not
the right one. Those of the judge's own tokenizer come in addition."""

_MARK = re.compile(r"\[[A-Z][A-Z ]{2,40}\]|^\s*(?:#{3,}|-{3,}|={3,}|<<<.*>>>)\s*$", re.MULTILINE)
"""Lines with which published rubrics set judged texts apart."""


class Fenced(NamedTuple):
    """Hold a judge's prompt, and whether a judged text held what could have passed for a part of it."""

    text: str
    broken: bool


def fence_code(texts: Sequence[str]) -> str:
    """Return hex digits that none of the texts contains, the same for the same texts."""
    lowered = [text.lower() for text in texts]
    attempt = 0
    while True:
        code = sha256_text("\0".join([str(attempt), *texts]))[:CODE_DIGITS]
        if not any(code in text for text in lowered):
            return code
        attempt += 1


def fenced_prompt(rubric: Rubric, question: str, answer: str, tokens: Iterable[str] = ()) -> Fenced:
    """Return the prompt of a rubric with question and answer in it.

    Args:
        rubric: with places for both.
        question: judged text, hostile.
        answer: judged text, hostile.
        tokens: control tokens of the judge's tokenizer, where it is known.
    """
    own = [*dict.fromkeys(_MARK.findall(rubric.text))]
    texts = {QUESTION: _valid(question), ANSWER: _valid(answer)}
    kept = {place: without_control(text, [*tokens, *own]) for place, text in texts.items()}
    if not own:
        code = fence_code(list(kept.values()))
        named = {QUESTION: "QUESTION", ANSWER: "TEXT"}
        kept = {
            place: f"<<<{named[place]} {code}>>>\n{text}\n<<<END OF {named[place]} {code}>>>"
            for place, text in kept.items()
        }
    # one pass: a place named inside a judged text is not filled
    prompt = re.sub("|".join(map(re.escape, kept)), lambda match: kept[match.group()], rubric.text)
    broken = any(text not in kept[place] for place, text in texts.items())
    return Fenced(prompt, broken)


def without_control(text: str, tokens: Sequence[str] = ()) -> str:
    """Return a text in which no control token stands: a blank follows the first character of each.

    Args:
        text: of a model or a user.
        tokens: that are control tokens beside the known ones.
    """
    wanted = [_CONTROL]
    longer = sorted({token for token in tokens if len(token.strip()) > 1}, key=len, reverse=True)
    if longer:
        wanted.append(re.compile("|".join(map(re.escape, longer)), re.IGNORECASE))
    for pattern in wanted:
        while (found := pattern.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)) != text:
            text = found
    return text


def control_tokens(tokenizer: object) -> tuple[str, ...]:
    """Return the special tokens of a tokenizer as they would be read in a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = [str(token.content) for token in added if token.special]
    return tuple(dict.fromkeys([*special, *getattr(tokenizer, "all_special_tokens", ())]))


def shown_question(messages: Sequence[Message], shown: Shown) -> str:
    """Return what a judge sees of what stood before an answer.

    Args:
        messages: the last one is the user's.
        shown: the last message alone, or all of them, each behind its role.
    """
    if shown == "question":
        return messages[-1].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _valid(text: str) -> str:
    """Return a text that is valid Unicode, as JSON from elsewhere may not be."""
    return text.encode("utf-8", "replace").decode("utf-8")
