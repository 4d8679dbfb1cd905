"""Give tool calls to a template in the form that it takes: arguments as an object, or as JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from narrowly.data.rendering.chat import Chat, Turn
from narrowly.records.errors import SpecError

OTHER_FORM = "the arguments of tool calls were given to the chat template in the form that it takes"


def accepted_form(chat: Chat, turns: Sequence[Turn], tools: list[Any] | None) -> tuple[list[Turn], bool]:
    """Return the messages in a form that the template renders, and whether it is another one than the row's.

    Some templates write arguments down as they are and need JSON text (DeepSeek V3), some go through an object
    (Qwen3.5, GLM-4.5), some take both. A form is wrong where the template fails on it, quotes the text once more, or
    writes an object as Python does. A content that is null becomes an empty text where the template needs one.

    Raises:
        SpecError: the template takes no form; the reason is that for the row's own, or for its null contents as empty
            texts.
    """
    if not any("tool_calls" in turn for turn in turns):
        return list(turns), False
    reasons: list[SpecError] = []
    for number, form in enumerate(_forms(turns)):
        try:
            text = chat.text(form, tools)
        except SpecError as error:
            reasons.append(error)
            continue
        if not any(_is_garbled(arguments, text) for arguments in _arguments(form)):
            return form, number > 0
        reasons.append(
            SpecError(
                "the chat template writes the arguments of a tool call as no JSON; accepted: another template "
                "(data.template)"
            )
        )
    # transformers leaves out what is null, and a template that looks for it says nothing of use
    null = any(turn["content"] is None for turn in turns if "tool_calls" in turn)
    raise reasons[len(reasons) // 2 if null else 0]


def _forms(turns: Sequence[Turn]) -> Iterator[list[Turn]]:
    """Yield the messages as they are, then with their arguments or null contents in the other form."""
    for null_as_text in (False, True):
        for change in (None, _as_objects, _as_text):
            yield [_formed(turn, change, null_as_text) if "tool_calls" in turn else turn for turn in turns]


def _formed(turn: Turn, change: Any, null_as_text: bool) -> Turn:
    formed = {**turn, "content": ""} if null_as_text and turn["content"] is None else dict(turn)
    if change is not None:
        formed["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": change(call["function"]["arguments"])}}
            for call in turn["tool_calls"]
        ]
    return formed


def _as_objects(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _arguments(turns: Sequence[Turn]) -> Iterator[Any]:
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            yield call["function"]["arguments"]


def _is_garbled(arguments: Any, text: str) -> bool:
    if isinstance(arguments, str):
        return any(json.dumps(arguments, ensure_ascii=ascii) in text for ascii in (False, True))
    return bool(arguments) and str(arguments) in text and json.dumps(arguments, ensure_ascii=False) not in text
