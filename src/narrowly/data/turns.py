"""Read a list of turns: their roles, texts and weights, and the rules by which a turn is mended.

It raises `ValueError` with one clause; the caller adds file and line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from narrowly.data.messages import ROLES, Message
from narrowly.data.raw_rows import parse_json
from narrowly.data.tool_fields import CALL_ROLES, RESULT_ROLES, THOUGHTS, calls_of, calls_of_text, extra_text

ROLE_NAMES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(CALL_ROLES, "assistant"),
    **dict.fromkeys(RESULT_ROLES, "tool"),
}
"""Names in `from` and their roles: those of ShareGPT, FastChat and LLaMA-Factory, and what Axolotl and Unsloth add."""

OF_ROLE = {"assistant": ("tool_calls", "function_call", *THOUGHTS), "tool": ("name", "tool_call_id")}
"""Fields of a turn beside its content, by role."""

HAVE_RESULTS = ("assistant", "tool")
"""Roles behind which a turn of a tool may stand."""

ROLE_GIVEN = "a turn without a role was given the one that was due"
NO_SYSTEM = "an empty system message was left out"


class Turns(NamedTuple):
    """Messages, their own weights (None where no turn has one), and the rules by which turns were mended."""

    messages: list[Message]
    weights: list[bool] | None
    notes: tuple[str, ...] = ()


def text_of(value: Any, what: str) -> str:
    """Return a text field.

    Raises:
        ValueError: where it is no text, is empty, or holds a NUL or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is a {type(value).__name__}, accepted: text")
    if not value.strip():
        raise ValueError(f"{what} is empty, accepted: text")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL character at position {value.index(chr(0)) + 1}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half of a surrogate pair at position {error.start + 1}") from error
    return value


def is_empty(value: Any) -> bool:
    """Return whether a field holds nothing: null, false, a blank text, an empty list or object."""
    return not value or (isinstance(value, str) and not value.strip())


def _content(value: Any, what: str) -> str:
    """Return the text of a turn: plain, `{"content_type": "text", "parts": [...]}` or a list of text parts."""
    if isinstance(value, Mapping) and set(value) == {"content_type", "parts"} and value["content_type"] == "text":
        value = value["parts"]
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise ValueError(f"{what}: parts is no list of texts")
        value = "".join(value)
    elif isinstance(value, list):
        for part in value:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ValueError(f"{what} has a part that is no text, accepted: text parts only")
        value = "".join(part["text"] for part in value)
    return text_of(value, what)


def list_of(value: Any, what: str, of: str = "turns") -> list[Any]:
    """Return a list that has an entry; a text, as CSV and Parquet hold it, is parsed as strictly as a line of JSONL.

    Raises:
        ValueError: it is no list, is empty, or is a text that is no JSON.
    """
    if isinstance(value, str):
        way = "; it is the text of a Python object: write it with json.dumps" if value.startswith("[{'") else ""
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ValueError(f"{what} is str, but no list of {of} in JSON: {error}{way}") from error
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} is {'empty' if value == [] else type(value).__name__}, accepted: a list of {of}")
    return value


class TurnFields(NamedTuple):
    """What a turn says: role (None where none is said), content, weight, and the fields that a template may read."""

    role: str | None
    content: Any
    weight: Any
    extra: dict[str, Any]


def turn_fields(turn: Any, number: int) -> TurnFields:
    """Return the fields of a turn of either form, `{role, content, ...}` or `{from, value, ...}`.

    A turn of the assistant may have `tool_calls` and a thought in a field of its own, a turn of a tool `name` and
    `tool_call_id`. Empty ones are left out. A turn from `function_call` holds its calls as JSON text.

    Raises:
        ValueError: the turn is no object, has a field that is not read, a `from` that is not known, or broken calls.
    """
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is a {type(turn).__name__}, accepted: an object with role and content")
    names = ("from", "value") if {"from", "value"} <= set(turn) else ("role", "content")
    said, content, weight = turn.get(names[0]), turn.get(names[1]), turn.get("weight")
    role = said
    if names[0] == "from" or said in (*CALL_ROLES, *RESULT_ROLES):
        if not isinstance(said, str) or said.lower() not in ROLE_NAMES:
            raise ValueError(f"turn {number} is from {said!r}, accepted: {', '.join(ROLE_NAMES)}")
        role = ROLE_NAMES[said.lower()]
    of_role = OF_ROLE.get(str(role), ())
    # false and 0 say something: some trainers switch the loss of a turn off by such a field
    strange = sorted(
        key for key in set(turn) - {*names, "weight", *of_role} if turn[key] in (False, 0) or not is_empty(turn[key])
    )
    if strange:
        accepted = ", ".join((*names, "weight (0: no loss on the turn)", *of_role))
        raise ValueError(f"turn {number} has the fields {strange}, accepted: {accepted}")
    extra = {key: value for key, value in turn.items() if key in of_role and not is_empty(value)}
    if isinstance(said, str) and said.lower() in CALL_ROLES:
        content, extra = None, {"tool_calls": calls_of_text(content, f"turn {number} ({said})"), **extra}
    elif {"tool_calls", "function_call"} & set(extra):
        calls = extra.pop("tool_calls", None) or [{"function": extra.pop("function_call")}]
        extra["tool_calls"] = calls_of(calls, f"turn {number}")
    # OpenAI's newer name of the system role; templates that know it write both alike
    return TurnFields("system" if role == "developer" else role, content, weight, extra)


def _message(role: Any, content: Any, extra: dict[str, Any], number: int) -> Message:
    what = f"turn {number} ({role})"
    for name, value in extra.items():
        if name != "tool_calls":
            text_of(value, f"{name} of {what}")
    if "tool_calls" in extra and is_empty(content):
        # null and an empty text are kept apart: templates look
        return Message(role, "", extra_text(extra if content == "" else {"content": None, **extra}))
    if role == "tool" and content == "":
        return Message(role, "", extra_text(extra))  # a tool may have nothing to say
    return Message(role, _content(content, what), extra_text(extra))


def turns(value: Any, what: str = "messages", context: int = 0) -> Turns:
    """Return the messages of a list of turns, each `{role, content, weight?}` or `{from, value, weight?}`.

    The order is an optional system message, then user and assistant in turns, the user first; behind a turn of the
    assistant may stand turns of tools, and then the assistant again. A turn without a role gets the one that is due.
    An empty system message is none.

    Args:
        value: the list, or its JSON text.
        what: name of its field, for messages.
        context: turns at its beginning that carry no loss, unless they have a weight of their own.

    Raises:
        ValueError: naming the turn (counted from 1), what was found and what is accepted.
    """
    messages: list[Message] = []
    weights: list[bool] = []
    weighted = False
    notes: list[str] = []
    for number, turn in enumerate(list_of(value, what), start=1):
        role, content, weight, extra = turn_fields(turn, number)
        before = messages[-1].role if messages else None
        due = "assistant" if before in ("user", "tool") else "user"
        if role is None:
            role = due
            notes.append(ROLE_GIVEN)
        if role == "system" and number == 1 and is_empty(content):
            notes.append(NO_SYSTEM)
            continue
        if role not in ROLES:
            raise ValueError(f"turn {number} has the role {role!r}, accepted: {', '.join(ROLES)}, developer")
        if role != due and not (role == "system" and number == 1) and not (role == "tool" and before in HAVE_RESULTS):
            accepted = f"{due} or system" if number == 1 else f"{due} or tool" if before in HAVE_RESULTS else due
            raise ValueError(f"turn {number} is of the {role}, accepted: {accepted} (roles take turns)")
        messages.append(_message(role, content, extra, number))
        if weight is not None and (role != "assistant" or weight not in (0, 1)):
            raise ValueError(f"turn {number} ({role}) has weight {weight!r}, accepted: 0 or 1 on assistant turns")
        if weight is None and role == "assistant" and number <= context:
            weight = 0
        weighted = weighted or weight is not None
        unsaid = weight is None and not messages[-1].calls_tools
        weights.append(role == "assistant" and (unsaid or bool(weight)))
    if not messages:
        raise ValueError(f"{what} holds nothing but an empty system message, accepted: a list of turns")
    return Turns(messages, weights if weighted else None, tuple(dict.fromkeys(notes)))
