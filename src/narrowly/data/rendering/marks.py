"""Find each text of a conversation in its rendering, by marks: nothing is looked for by its words.

The conversation is rendered a second time with a mark in the middle of every text. Without the marks that rendering is
the first one, and each mark says where its text stands: a text that stands twice, or in another text, or not at all, is
told apart. Beginning and end of a text stay as they are, so that a template which looks at them sees the same.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from narrowly.data.rendering.chat import Chat, Turn
from narrowly.data.tool_fields import THOUGHTS
from narrowly.records.errors import SpecError

TAGS = re.compile(r"</?think>")
"""The tags of a thought inside a content."""

Kind = Literal["content", "thought", "tool"]
"""What a piece is of: the content of a message, the thought in its own field, or a tool call or a tool's name."""


class Piece(NamedTuple):
    """One text without the blanks at its edges, and where it belongs.

    Attributes:
        message: index of its message; -1 for a tool of the row.
        kind: what it is of.
        text: the text itself.
        half: characters before its mark.
        before: tags and blanks between it and the piece before in the same content.
        after: those behind the last piece of a content, else empty.
        in_thought: whether it stands before a closing tag of its content.
    """

    message: int
    kind: Kind
    text: str
    half: int
    before: str = ""
    after: str = ""
    in_thought: bool = False


class Located(NamedTuple):
    """A rendered conversation, its pieces, and where each piece begins (an empty tuple: it stands nowhere)."""

    text: str
    pieces: tuple[Piece, ...]
    starts: tuple[tuple[int, ...], ...]

    def of(self, message: int) -> list[tuple[Piece, tuple[int, ...]]]:
        """Return the pieces of a message, each with the places where it stands."""
        return [pair for pair in zip(self.pieces, self.starts, strict=True) if pair[0].message == message]


class _Marks:
    """Puts marks into texts and remembers the pieces."""

    def __init__(self, unlike: str) -> None:
        stem = "qZ"
        while stem.lower() in unlike.lower():
            stem += "qZ"
        self.stem, self.pieces = stem, list[Piece]()
        self.pattern = re.compile(re.escape(stem) + r"(\d+)z", re.IGNORECASE)

    def put(self, message: int, kind: Kind, text: str, **more: Any) -> str:
        """Return the text with a mark in its middle; blanks at the edges are no part of the piece."""
        core = text.strip()
        if not core:
            return text
        half = (len(core) + 1) // 2
        at = len(text) - len(text.lstrip()) + half
        self.pieces.append(Piece(message, kind, core, half, **more))
        return f"{text[:at]}{self.stem}{len(self.pieces) - 1}z{text[at:]}"


def locate(chat: Chat, turns: Sequence[Turn], tools: list[Any] | None, *, prompt: bool = False) -> Located:
    """Render a conversation, with `prompt` up to where the assistant begins to write, and find its pieces.

    Raises:
        SpecError: the template refuses the conversation, or writes it in another way once a text differs.
    """
    text = chat.text(turns, tools, prompt=prompt)
    marks = _Marks(text + json.dumps([list(turns), tools], ensure_ascii=False))
    marked_tools = [_mark_tool(marks, tool) for tool in tools] if tools else tools
    marked = chat.text(
        [_mark_turn(marks, index, turn) for index, turn in enumerate(turns)], marked_tools, prompt=prompt
    )
    starts: list[list[int]] = [[] for _ in marks.pieces]
    removed = 0
    for found in marks.pattern.finditer(marked):
        number = int(found[1])
        starts[number].append(found.start() - removed - marks.pieces[number].half)
        removed += len(found.group())
    if marks.pattern.sub("", marked) != text:
        raise SpecError(
            "the chat template writes the conversation in another way when its texts differ, so that it is not known "
            "which part is whose; accepted: a template that shows each text as it is"
        )
    return Located(text, tuple(marks.pieces), tuple(map(tuple, starts)))


def _mark_turn(marks: _Marks, index: int, turn: Turn) -> Turn:
    marked = dict(turn)
    if isinstance(turn.get("content"), str):
        marked["content"] = _mark_content(marks, index, turn)
    for name in THOUGHTS:
        if isinstance(turn.get(name), str):
            marked[name] = marks.put(index, "thought", turn[name])
    if "tool_calls" in turn:
        marked["tool_calls"] = copy.deepcopy(turn["tool_calls"])
        for call in marked["tool_calls"]:
            _mark_call(marks, index, call["function"])
    return marked


def _mark_content(marks: _Marks, index: int, turn: Turn) -> str:
    """Mark a content; that of the assistant is cut at the tags of a thought, each text of it is a piece."""
    content: str = turn["content"]
    found = list(_spans(content, [tag.span() for tag in TAGS.finditer(content)] if turn["role"] == "assistant" else []))
    closing = content.find("</think>")
    marked, end = "", 0
    for number, (start, stop) in enumerate(found):
        marked += content[end:start] + marks.put(
            index,
            "content",
            content[start:stop],
            before=content[end:start],
            after=content[stop:] if number == len(found) - 1 else "",
            in_thought=start < closing,
        )
        end = stop
    return marked + content[end:]


def _spans(content: str, tags: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each text between tags, without the blanks at its edges."""
    begins, ends = [0, *(end for _, end in tags)], [*(begin for begin, _ in tags), len(content)]
    for begin, end in zip(begins, ends, strict=True):
        text = content[begin:end]
        if text.strip():
            yield begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())


def _mark_call(marks: _Marks, index: int, function: dict[str, Any]) -> None:
    function["name"] = marks.put(index, "tool", function["name"])
    arguments = function["arguments"]
    if isinstance(arguments, str):
        # an object without entries has no middle to put a mark into
        if json.loads(arguments):
            function["arguments"] = marks.put(index, "tool", arguments)
    elif arguments:
        function["arguments"] = _mark_leaves(marks, index, arguments)


def _mark_leaves(marks: _Marks, index: int, value: Any) -> Any:
    if isinstance(value, str):
        return marks.put(index, "tool", value)
    if isinstance(value, dict):
        return {key: _mark_leaves(marks, index, part) for key, part in value.items()}
    if isinstance(value, list):
        return [_mark_leaves(marks, index, part) for part in value]
    return value


def _mark_tool(marks: _Marks, tool: Any) -> Any:
    marked = copy.deepcopy(tool)
    function = marked["function"] if isinstance(marked.get("function"), dict) else marked
    if isinstance(function.get("name"), str):
        function["name"] = marks.put(-1, "tool", function["name"])
    return marked


def missing(located: Located, piece: Piece, places: Sequence[int], *, escaped: bool = False) -> str | None:
    """Return the part of a piece that its rendering lacks, up to 60 characters, or None where it stands whole.

    With `escaped` it may stand there as JSON writes it, as the results of tools do in some templates.
    """
    if not places:
        return piece.text[:60]
    faults = [_first_difference(located.text, piece, start) for start in places]
    if None in faults:
        return None
    ways = (json.dumps(piece.text, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
    return None if escaped and any(way in located.text for way in ways) else faults[0]


def _first_difference(text: str, piece: Piece, start: int) -> str | None:
    if start >= 0 and text.startswith(piece.text, start):
        return None
    middle = start + piece.half
    same_before = _shared(reversed(piece.text[: piece.half]), reversed(text[: max(middle, 0)]))
    if same_before < piece.half:
        return piece.text[: piece.half - same_before][-60:]
    same_after = _shared(iter(piece.text[piece.half :]), iter(text[middle : middle + len(piece.text)]))
    return piece.text[piece.half + same_after :][:60]


def _shared(a: Iterator[str], b: Iterator[str]) -> int:
    """Return how many characters two texts have in common at their beginning."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count
