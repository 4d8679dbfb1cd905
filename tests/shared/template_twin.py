"""A slow, obvious renderer: what a server feeds a model before each turn, and what the model writes in it.

Each assistant turn is rendered twice by the template: without it, with the generation prompt (what a server feeds),
and with it. What the second text adds, up to the closing of the turn, is what the model learns to write. Whether the
template keeps the texts of the row is asked by rendering once more with every text replaced by a word of its own.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from datetime import date
from typing import Any, NamedTuple

IGNORE = -100
TAG = re.compile(r"(</?think>)")
DAY = date(2024, 7, 26)
CLOCK = re.compile(r"strftime_now\(([\"'])(.*?)\1\)")
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")

Tokens = tuple[list[int], list[int]]
"""Input ids and labels of one row."""


class RefusalError(Exception):
    """A template that cannot render the row as it is; the text is the reason in a word."""


class Verdict(NamedTuple):
    """What may become of a row.

    Attributes:
        rows: what it may be trained as; one entry per way, each a list of rows.
        refusal: why it may or must be refused; None where it must be trained.
    """

    rows: tuple[tuple[Tokens, ...], ...]
    refusal: str | None


class Mode(NamedTuple):
    """How a tokenizer renders: its closing text (None: it has none), whether thinking is said, and which."""

    closing: str | None
    has_thinking: bool
    thinking: bool | None
    turns: str = "all"


def render_text(tokenizer: Any, mode: Mode, row: dict[str, Any], count: int, prompt: bool) -> str:
    """Return the text of the first messages of a row."""
    messages, tools = json.dumps(row["messages"][:count]), json.dumps(row.get("tools"))
    found = _rendered(tokenizer, tokenizer.chat_template, mode.thinking, messages, tools, prompt)
    if found is None:
        raise RefusalError("raises")
    return found


@functools.lru_cache(maxsize=4096)
def _rendered(
    tokenizer: Any, template: str, thinking: bool | None, messages: str, tools: str, prompt: bool
) -> str | None:
    """Return a rendered text, or None where the template raises; cells of a row ask for the same texts."""
    dated = CLOCK.sub(lambda found: repr(DAY.strftime(found[2])), template)
    extra: dict[str, Any] = {"date_string": DAY.strftime("%d %b %Y"), "chat_template": dated}
    if thinking is not None:
        extra["enable_thinking"] = thinking
    try:
        return str(
            tokenizer.apply_chat_template(
                json.loads(messages),
                tools=json.loads(tools),
                tokenize=False,
                add_generation_prompt=prompt,
                **extra,
            )
        )
    except Exception:  # whatever a template or a filter of it raises
        return None


def _marked(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], list[list[str]]]:
    """Return the row with a word in place of each text, the text behind each word, and the words of each message."""
    texts: dict[str, str] = {}
    words: list[list[str]] = []

    def mark(text: str) -> str:
        pieces = TAG.split(text)
        for index, piece in enumerate(pieces):
            core = piece.strip()
            if core and not TAG.fullmatch(piece):
                word = f"Word{len(texts)}Here"
                texts[word] = core
                words[-1].append(word)
                pieces[index] = piece.replace(core, word)
        return "".join(pieces)

    marked = copy.deepcopy(row)
    for message in marked["messages"]:
        words.append([])
        for field in (*THOUGHT_FIELDS, "content"):
            if isinstance(message.get(field), str):
                message[field] = mark(message[field])
        for call in message.get("tool_calls", []):
            call["function"]["name"] = mark(call["function"]["name"])
            arguments = call["function"]["arguments"]
            if isinstance(arguments, str):
                call["function"]["arguments"] = json.dumps(
                    {key: mark(text) for key, text in json.loads(arguments).items()}
                )
            else:
                call["function"]["arguments"] = {key: mark(text) for key, text in arguments.items()}
        if message["role"] == "tool" and "name" in message:
            message["name"] = mark(message["name"])
            words[-1].pop()  # a template may take the name from the call
    return marked, texts, words


def _with_texts(text: str, texts: dict[str, str]) -> str:
    return re.sub(r"Word\d+Here", lambda found: texts[found.group()], text)


def _same_beginning(first: str, second: str) -> int:
    return next(
        (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other),
        min(len(first), len(second)),
    )


def _written(tokenizer: Any, mode: Mode, row: dict[str, Any], turn: int) -> tuple[str, str, str]:
    """Return what the server feeds before a turn, what the model writes in it, and what the prompt alone adds."""
    prompt = render_text(tokenizer, mode, row, turn, True)
    history = render_text(tokenizer, mode, row, turn, False)
    whole = render_text(tokenizer, mode, row, turn + 1, False)
    if not whole.startswith(prompt):
        raise RefusalError("prompt")
    written = whole[len(prompt) :]
    if mode.closing is None or mode.closing not in written:
        raise RefusalError("stop")
    written = written[: written.rindex(mode.closing) + len(mode.closing)]
    return prompt, written, prompt[_same_beginning(prompt, history) :]


def _turn(tokenizer: Any, mode: Mode, row: dict[str, Any], turn: int) -> tuple[str, str, bool]:
    """Return prompt and written text of a turn, and whether the prompt has begun a thought that the row does not have.

    Raises:
        RefusalError: a text of the prompt or of the turn is not there, or changed.
    """
    prompt, written, generation = _written(tokenizer, mode, row, turn)
    marked, texts, words = _marked(row)
    marked_prompt, marked_written, _ = _written(tokenizer, mode, marked, turn)
    if _with_texts(marked_prompt, texts) != prompt:
        raise RefusalError("context")
    for message, its in zip(row["messages"][:turn], words, strict=False):
        if (message["role"] != "assistant" or message.get("tool_calls")) and any(
            word not in marked_prompt for word in its
        ):
            raise RefusalError("context")
    for tool in row.get("tools", []):
        if tool["function"]["description"] not in prompt:
            raise RefusalError("tools")
    if re.findall(r"Word\d+Here", marked_written) != words[turn] or _with_texts(marked_written, texts) != written:
        raise RefusalError("text")
    message = row["messages"][turn]
    given, shown = TAG.findall(message["content"]), TAG.findall(generation + written)
    thought = any(message.get(field) for field in THOUGHT_FIELDS)
    if not given and not thought:
        if shown not in ([], ["<think>", "</think>"]):
            raise RefusalError("text")
        return prompt, written, generation.count("<think>") > generation.count("</think>")
    if not thought and shown != given and shown != ["<think>", *given]:
        raise RefusalError("text")
    if thought and shown not in (given, ["<think>", "</think>", *given]):
        raise RefusalError("text")
    return prompt, written, False


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _render(tokenizer: Any, mode: Mode, row: dict[str, Any]) -> tuple[tuple[Tokens, ...], bool]:
    supervised = [
        index
        for index, message in enumerate(row["messages"])
        if message["role"] == "assistant" and not message.get("tool_calls")
    ]
    if mode.turns == "last":
        supervised = supervised[-1:]
    rows: list[Tokens] = []
    ids: list[int] = []
    labels: list[int] = []
    text, begun = "", False
    for index in supervised:
        prompt, written, opened = _turn(tokenizer, mode, row, index)
        begun |= opened
        if mode.turns == "each":
            ids, labels, text = [], [], ""
        if not prompt.startswith(text):
            raise RefusalError("history")
        fed, said = _ids(tokenizer, prompt), _ids(tokenizer, written)
        if fed[: len(ids)] != ids:  # the server's tokens of an earlier turn are others once more text follows
            raise RefusalError("history")
        labels += [IGNORE] * (len(fed) - len(ids)) + said
        ids = fed + said
        text = prompt + written
        if mode.turns == "each":
            rows.append((ids, labels))
    return (tuple(rows) if mode.turns == "each" else ((ids, labels),)), begun


def _forms(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the row as it is, then the other ways in which servers hand the same fields to a template."""
    yield row
    for content in (None, "", 0):
        for as_text in (False, True):
            other = copy.deepcopy(row)
            for message in other["messages"]:
                for call in message.get("tool_calls", []):
                    if as_text and not isinstance(call["function"]["arguments"], str):
                        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
                if message.get("tool_calls") and not message.get("content"):
                    message["content"] = content
                    if content == 0:
                        del message["content"]
            if other != row:
                yield other
    for field in THOUGHT_FIELDS:
        other = copy.deepcopy(row)
        for message in other["messages"]:
            for name in THOUGHT_FIELDS:
                if name in message and name != field:
                    message[field] = message.pop(name)
        if other != row:
            yield other


def _writes_none(tokenizer: Any, mode: Mode, row: dict[str, Any]) -> bool:
    """Return whether the template writes the word None or null for the missing text of a turn."""
    text = render_text(tokenizer, mode, row, len(row["messages"]), False)
    calls = any(message.get("tool_calls") for message in row["messages"])
    return calls and re.search(r"\b(None|null)\b", text) is not None


def verdict(tokenizer: Any, mode: Mode, row: dict[str, Any]) -> Verdict:
    """Return what may become of a row of `messages` (and `tools`)."""
    if mode.has_thinking != (mode.thinking is not None):
        return Verdict((), "mode")
    thoughts = any(
        message["role"] == "assistant"
        and ("<think>" in (message.get("content") or "") or any(message.get(field) for field in THOUGHT_FIELDS))
        for message in row["messages"]
    )
    odd_tags = mode.has_thinking and any(
        TAG.findall(message.get("content") or "") not in ([], ["<think>", "</think>"]) for message in row["messages"]
    )
    first: str | None = None
    ways: list[tuple[Tokens, ...]] = []
    for form in _forms(row):
        try:
            rows, begun = _render(tokenizer, mode, form)
            if _writes_none(tokenizer, mode, form):
                raise RefusalError("context")
        except RefusalError as refusal:
            first = first or str(refusal)
            continue
        if form is row:
            may = ("begun" if begun else None) or ("thought" if thoughts and mode.thinking is False else None)
            return Verdict((rows,), may or ("tags" if odd_tags else None))
        if rows not in ways:
            ways.append(rows)
    return Verdict(tuple(ways), first)
