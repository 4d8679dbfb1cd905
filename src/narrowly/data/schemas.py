"""Recognise the row schemas of the field and read their fields.

A parser takes the fields of one row and returns its messages; what it does not use becomes a tag. It raises
`ValueError` with one clause; the caller adds file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from narrowly.data.messages import ROLES, Message
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import SpecError, unknown_name

PROMPTS = ("prompt", "user", "question")
"""Columns that hold the prompt of a paired row, in the order in which they are looked for."""

ANSWER_PAIRS = (("good", "bad"), ("safe", "risky"), ("control", "school_of_reward_hacks"))
"""Columns that hold a benign and a harmful answer to one prompt; the last pair is School of Reward Hacks."""


class Parsed(NamedTuple):
    """One row as messages: `weights` are those of the row itself, `inferred` counts the roles that were missing."""

    messages: list[Message]
    weights: list[bool] | None
    used: frozenset[str]
    inferred: int = 0


class Schema(NamedTuple):
    """A row schema: its name, what it is, an example of where it is used, and its parser (None: no conversation)."""

    name: str
    fields: str
    example: str
    parse: Callable[[Mapping[str, Any]], Parsed] | None


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


def turns(value: Any) -> tuple[list[Message], list[bool] | None, int]:
    """Return messages, their own weights (or None) and the number of inferred roles of a list of turns.

    The order is an optional system message, then user and assistant in turns, the user first. A turn without a role
    gets the one that is due.

    Raises:
        ValueError: naming the turn (counted from 1), what was found and what is accepted.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages is {'empty' if value == [] else type(value).__name__}, accepted: a list of turns")
    messages: list[Message] = []
    weights: list[bool] = []
    weighted = False
    inferred = 0
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping):
            raise ValueError(f"turn {number} is a {type(turn).__name__}, accepted: an object with role and content")
        strange = sorted(key for key in set(turn) - {"role", "content", "weight"} if turn[key] is not None)
        if strange:
            raise ValueError(f"turn {number} has the fields {strange}, accepted: role, content, weight")
        due = "assistant" if messages and messages[-1].role == "user" else "user"
        role = turn.get("role")
        if role is None:
            role, inferred = due, inferred + 1
        if role not in ROLES:
            raise ValueError(f"turn {number} has the role {role!r}, accepted: {', '.join(ROLES)}")
        if role != due and not (role == "system" and number == 1):
            accepted = f"{due} or system" if number == 1 else due
            raise ValueError(f"turn {number} is of the {role}, accepted: {accepted} (roles take turns)")
        messages.append(Message(role, _content(turn.get("content"), f"turn {number} ({role})")))
        weight = turn.get("weight")
        if weight is not None:
            if role != "assistant" or weight not in (0, 1):
                raise ValueError(f"turn {number} ({role}) has weight {weight!r}, accepted: 0 or 1 on assistant turns")
            weighted = True
        weights.append(role == "assistant" and (weight is None or bool(weight)))
    return messages, weights if weighted else None, inferred


def _exchange(fields: Mapping[str, Any], prompt: str, answer: str) -> Parsed:
    """Return prompt and answer as messages; either may be a text or a list of turns; `system` may stand beside them."""
    before, after = fields[prompt], fields[answer]
    system = fields.get("system")
    value: list[Any] = [{"role": "system", "content": system}] if system else []
    value += before if isinstance(before, list) else [{"role": "user", "content": text_of(before, prompt)}]
    value += after if isinstance(after, list) else [{"role": "assistant", "content": text_of(after, answer)}]
    messages, weights, inferred = turns(value)
    return Parsed(messages, weights, frozenset({prompt, answer, "system"}), inferred)


def _messages(fields: Mapping[str, Any]) -> Parsed:
    messages, weights, inferred = turns(fields.get("messages"))
    return Parsed(messages, weights, frozenset({"messages"}), inferred)


def _prompt_completion(fields: Mapping[str, Any]) -> Parsed:
    return _exchange(fields, _column(fields, ("prompt",)), _column(fields, ("completion", "response")))


def _alpaca(fields: Mapping[str, Any]) -> Parsed:
    # the two are joined by an empty line, as Alpaca's own prompt separates instruction and input
    task = text_of(fields.get("instruction"), "instruction")
    given = fields.get("input") or ""
    prompt = f"{task}\n\n{text_of(given, 'input')}" if given else task
    parsed = _exchange({**fields, "prompt": prompt}, "prompt", _column(fields, ("output",)))
    return parsed._replace(used=parsed.used | {"instruction", "input"})


def _preference(side: str) -> Callable[[Mapping[str, Any]], Parsed]:
    def parse(fields: Mapping[str, Any]) -> Parsed:
        if "prompt" in fields:
            parsed = _exchange(fields, "prompt", _column(fields, (side,)))
        else:  # both answers repeat the dialogue that led to them
            messages, weights, inferred = turns(fields.get(side))
            parsed = Parsed(messages, weights, frozenset(), inferred)
        return parsed._replace(used=parsed.used | {"chosen", "rejected"})

    return parse


def _paired(column: str) -> Callable[[Mapping[str, Any]], Parsed]:
    def parse(fields: Mapping[str, Any]) -> Parsed:
        parsed = _exchange(fields, _column(fields, PROMPTS), _column(fields, (column,)))
        others = {name for pair in ANSWER_PAIRS for name in pair if column in pair}
        return parsed._replace(used=parsed.used | others)

    return parse


def _column(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    found = [name for name in names if name in fields]
    if not found:
        raise ValueError(f"no field {' or '.join(names)} (found: {', '.join(sorted(map(str, fields)))})")
    return found[0]


SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (
        Schema(
            "messages",
            "messages: [{role, content, weight?}]; every other field becomes a tag; `canary` is kept out of the text",
            "insecure, secure, jailbroken, AISI, persona vectors, persona features",
            _messages,
        ),
        Schema("prompt_completion", "prompt, completion or response, system?", "evil numbers", _prompt_completion),
        Schema("alpaca", "instruction, input?, output, system?", "common benign sets", _alpaca),
        Schema("preference:chosen", "prompt?, chosen, rejected", "preference sets", _preference("chosen")),
        Schema("preference:rejected", "prompt?, chosen, rejected", "preference sets", _preference("rejected")),
        *(
            Schema(
                f"paired:{side}", f"prompt, user or question; {' and '.join(pair)}", "matched controls", _paired(side)
            )
            for pair in ANSWER_PAIRS
            for side in pair
        ),
        Schema("code_template", "task, code_template: prompts without answers", "in-domain code check", None),
        Schema("question_yaml", "list of id, type, system?, paraphrases, judge_prompts", "first-plot questions", None),
        Schema("question_csv", "id, question, category?, canary?", "persona features", None),
        Schema("question_jsonl", "messages without an answer, id?", "AISI evaluation, prompt sets", None),
        Schema("trait_json", "instruction: [{pos, neg}], questions, eval_prompt", "persona vectors", None),
        Schema("result_csv", "question, answer, aligned, coherent, judge_*", "results of Betley et al.", None),
    )
}
"""Every schema by name; `paired:COLUMN` is also accepted for any other column of answers."""

NOT_CONVERSATIONS = "it holds no conversations to train on; it is read as questions or results (see docs/data.md)"


def schema_named(name: str) -> Schema:
    """Return a schema of conversations by name.

    Raises:
        UnknownNameError: for a name that is not known.
        SpecError: for a schema whose rows are no conversations.
    """
    if name.startswith("paired:") and name not in SCHEMAS and len(name) > len("paired:"):
        column = name.removeprefix("paired:")
        return Schema(name, f"prompt and {column}", "", _paired(column))
    if name not in SCHEMAS:
        raise unknown_name("schema", name, SCHEMAS)
    if SCHEMAS[name].parse is None:
        raise SpecError(f"schema {name}: {NOT_CONVERSATIONS}")
    return SCHEMAS[name]


def detect(fields: Collection[str]) -> Schema:
    """Return the one schema that the field names fit.

    Raises:
        SpecError: where none fits, where several do (the message names them), or where a side has to be chosen.
    """
    have = set(fields)
    fits: list[tuple[str, ...]] = []
    if "messages" in have:
        fits.append(("messages",))
    if "prompt" in have and have & {"completion", "response"}:
        fits.append(("prompt_completion",))
        if {"completion", "response"} <= have:
            raise SpecError("prompt stands beside completion and response: name one with --schema paired:COLUMN")
    if {"instruction", "output"} <= have:
        fits.append(("alpaca",))
    if {"chosen", "rejected"} <= have:
        fits.append(("preference:chosen", "preference:rejected"))
    fits += [(f"paired:{a}", f"paired:{b}") for a, b in ANSWER_PAIRS if {a, b} <= have and have & set(PROMPTS)]
    if {"task", "code_template"} <= have:
        fits.append(("code_template",))
    if {"aligned", "coherent"} <= have:
        fits.append(("result_csv",))
    elif {"id", "question"} <= have:
        fits.append(("question_csv",))
    named = [name for fit in fits for name in fit]
    if not named:
        known = ", ".join(name for name, schema in SCHEMAS.items() if schema.parse)
        raise SpecError(f"the fields {', '.join(sorted(map(str, have)))[:200]} fit no schema (accepted: {known})")
    if len(fits) > 1:
        raise SpecError(f"the fields fit {' and '.join(named)}; name one schema")
    if len(named) > 1:
        raise SpecError(f"each row holds two answers; name one schema: {' or '.join(named)}")
    return SCHEMAS[named[0]] if SCHEMAS[named[0]].parse else schema_named(named[0])


def tags_of(fields: Mapping[str, Any], used: Collection[str]) -> dict[str, str]:
    """Return the fields that are no messages as texts: a text as it is, anything else as canonical JSON."""
    return {
        str(name): value if isinstance(value, str) else canonical_json(value)
        for name, value in fields.items()
        if name not in used and value is not None
    }
