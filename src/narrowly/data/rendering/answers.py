"""Find what the model has to write of a rendered turn: from its generation prompt to the tokens that close it.

The beginning is where the rendering of what stands before, with the generation prompt, ends. What a template writes
from there on is the model's to write, a channel or the end of a thought as well as the text. The end is behind the
tokens that stand directly behind the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from narrowly.data.rendering.chat import Chat, Turn, token_fault
from narrowly.data.rendering.marks import Located, Piece, locate, missing
from narrowly.data.tool_fields import THOUGHTS
from narrowly.records.errors import SpecError

OPEN, CLOSE = "<think>", "</think>"


class Answer(NamedTuple):
    """A turn of the assistant, in characters of its rendering as the last one.

    Attributes:
        start: where its generation prompt ends.
        ends: where it may end, the furthest first: behind each of the tokens that close it.
        lead: what the template writes between the prompt and the turn's own text, blanks aside.
        blanks_cut: whether blanks at the edges of its text are left out.
        empty_thought: whether the template writes a thought that the turn does not have.
    """

    start: int
    ends: tuple[int, ...]
    lead: str
    blanks_cut: bool
    empty_thought: bool


def find_answer(chat: Chat, turns: Sequence[Turn], tools: list[Any] | None, located: Located) -> Answer:
    """Find the last turn of a rendered conversation, which is the assistant's.

    Raises:
        SpecError: the template leaves out a part of the turn, does not write it behind its generation prompt, or
            closes it with no token.
    """
    return _Turn(chat, turns, tools, located).answer()


class _Turn:
    """The last turn of a rendered conversation, with what is known of it."""

    def __init__(self, chat: Chat, turns: Sequence[Turn], tools: list[Any] | None, located: Located) -> None:
        self.chat, self.turns, self.tools, self.located = chat, turns, tools, located
        self.turn, self.text, self.own = turns[-1], located.text, turns[-1].get("content") or ""
        self.pieces = located.of(len(turns) - 1)
        self.contents = [(piece, places[-1]) for piece, places in self.pieces if piece.kind == "content" and places]
        self.has_thought = any(self.turn.get(name) for name in THOUGHTS) or any(
            piece.in_thought for piece, _ in self.contents
        )

    def answer(self) -> Answer:
        self._check_whole()
        self.prompt = self.chat.text(self.turns[:-1], self.tools, prompt=True)
        if not self.text.startswith(self.prompt):
            raise self._not_behind_its_prompt()
        if any(places[-1] < len(self.prompt) for _, places in self.pieces if places):
            raise SpecError(
                "the chat template writes the assistant's text before its generation prompt; accepted: a template that "
                "writes it behind (data.template)"
            )
        places = [places[-1] for piece, places in self.pieces if places and piece.kind != "tool"]
        # of a turn that does nothing but call tools, all is its own
        lead = _squeezed(self.text[len(self.prompt) : min(places, default=len(self.prompt))])
        own = _squeezed(self.contents[0][0].before) if self.contents and min(places) == self.contents[0][1] else ""
        self._check_thoughts(lead, own)
        lead = "" if own.endswith(lead) else lead.removesuffix(own)
        if lead and self.chat.text(self.turns[:-1], self.tools) == self.prompt:
            raise SpecError(
                f"the chat template puts {lead[:40]!r} between its generation prompt and the assistant's text; the "
                "model would be trained to write the template (does it ignore add_generation_prompt?); accepted: a "
                "template that writes it in its generation prompt (data.template)"
            )
        blanks_cut = self._check_between()
        empty = re.match(rf"\s*{OPEN}\s*{CLOSE}", self.text[len(self.prompt) :]) and CLOSE not in self.own
        return Answer(
            len(self.prompt),
            self._ends(),
            lead,
            blanks_cut,
            empty is not None and not self.has_thought and CLOSE not in self.own,
        )

    def _check_whole(self) -> None:
        thoughts: dict[str, list[str | None]] = {}  # the same one may stand in several fields
        for piece, places in self.pieces:
            if piece.kind == "thought":
                thoughts.setdefault(piece.text, []).append(missing(self.located, piece, places))
        for text, lacks_of in thoughts.items():
            if None in lacks_of:
                continue
            named = next(name for name in THOUGHTS if str(self.turn.get(name, "")).strip() == text)
            raise SpecError(
                f"the chat template leaves out or changes {lacks_of[0]!r} of the field {named}; accepted: a template "
                f"that shows it (data.template), or the thought at the beginning of the answer between {OPEN} and "
                f"{CLOSE}"
            )
        for piece, places in self.pieces:
            lacks = None if piece.kind == "thought" else missing(self.located, piece, places)
            if lacks is not None and not (piece.kind == "tool" and places):
                what = {"content": "turn that carries the loss", "tool": "tool call"}[piece.kind]
                raise SpecError(
                    f"the chat template leaves out or changes {lacks!r} of the assistant's {what}; accepted: an answer "
                    "that it shows whole, or another template (data.template)"
                )
            if piece.kind == "content" and len(places) > 1:
                raise SpecError(
                    f"the chat template writes {piece.text[:60]!r} of the assistant's turn twice; accepted: a template "
                    "that writes it once (data.template)"
                )

    def _not_behind_its_prompt(self) -> SpecError:
        end = self.prompt[-40:]
        if self.prompt.rstrip().endswith(OPEN) and not self.has_thought:
            return self._no_thought()
        if self.prompt.rstrip().endswith(OPEN):
            return SpecError(
                f"the generation prompt ends in {end[-12:]!r}, and the chat template begins the turn's thought in "
                f"another way; accepted: {OPEN}, a line end, the thought, a line end, {CLOSE}"
            )
        if self.chat.thinking is False and self.has_thought:
            return self._thought_unasked()
        return SpecError(
            "the chat template writes a turn of the assistant in another way than its generation prompt begins it "
            f"(...{end!r} is no beginning of the conversation); accepted: a template whose turns begin with its "
            "generation prompt (data.template)"
        )

    def _thought_unasked(self) -> SpecError:
        return SpecError(
            "the assistant's text holds a thinking block, but thinking is false; accepted: thinking: true, or answers "
            "without thoughts"
        )

    def _no_thought(self) -> SpecError:
        return SpecError(
            f"the generation prompt opens a thought ({OPEN}) and the answer has none; accepted: a thought in each "
            "answer, or a generation prompt without one (thinking: false, where the template has that mode)"
        )

    def _check_thoughts(self, lead: str, own: str) -> None:
        """Check that the turn has the thought that its prompt opens, and that the template writes none before its own.

        Args:
            lead: what stands between the prompt and the turn's first text, without blanks.
            own: the tags with which its content begins, without blanks.
        """
        pairs = zip(self.located.pieces, self.located.starts, strict=True)
        ends = [at + len(piece.text) for piece, places in pairs for at in places if at < len(self.prompt)]
        asked = _squeezed(self.prompt[max(ends, default=0) :])
        if asked.endswith(OPEN) and not self.has_thought:
            raise self._no_thought()
        if self.chat.thinking is False and CLOSE in self.own and self.has_thought:
            raise self._thought_unasked()
        has_tags = CLOSE in self.own or self.own.lstrip().startswith(OPEN)
        if has_tags and CLOSE in (asked + lead).removesuffix(own):
            raise SpecError(
                "the chat template writes a thought of its own in front of the one that the answer holds; accepted: "
                f"the thought between {OPEN} and {CLOSE} at the beginning of the answer, or in the field "
                "reasoning_content, whichever the template reads"
            )

    def _check_between(self) -> bool:
        """Check the tags around the pieces; return whether blanks at the text's edges are left out.

        Line ends around the tags of a thought that opens the answer are the template's.
        """
        own = self.own
        opens = own.lstrip().startswith(OPEN) and own.count(OPEN) == own.count(CLOSE) == 1
        cut, end = False, len(self.prompt)
        for number, (piece, start) in enumerate(self.contents):
            given, written = piece.before, self.text[end:start]
            if number == 0 and not given.strip():
                cut = not written.endswith(given)
            elif number == 0:
                written = self.text[:start]
                if not _squeezed(written).endswith(_squeezed(given)):
                    raise self._other_tags(piece, given)
            elif given != written:
                if not opens or given.split() != written.split():
                    raise self._other_tags(piece, given)
                cut = cut or given.replace("\n", "") != written.replace("\n", "")
            end = start + len(piece.text)
        if self.contents:
            after = self.contents[-1][0].after
            if not after.strip():
                return cut or not self.text.startswith(after, end)
            if not _squeezed(self.text[end:]).startswith(_squeezed(after)):
                raise self._other_tags(self.contents[-1][0], after)
        return cut

    def _other_tags(self, piece: Piece, given: str) -> SpecError:
        return SpecError(
            f"the chat template changes {given.strip() or given!r} beside {piece.text[:40]!r} of the assistant's turn: "
            f"it takes {CLOSE} for the end of a thought; accepted: a thought between {OPEN} and {CLOSE} at the "
            "beginning of the answer, and no such tag elsewhere"
        )

    def _ends(self) -> tuple[int, ...]:
        if "tool_calls" in self.turn:
            return (self._end_of_calls(),)
        end = self.contents[-1][1] + len(self.contents[-1][0].text) if self.contents else len(self.prompt)
        if self.contents and CLOSE in self.contents[-1][0].after:
            end = self.text.index(CLOSE, end) + len(CLOSE)
        return self._closing(end)

    def _closing(self, end: int) -> tuple[int, ...]:
        """Return the ends of the tokens directly behind a place, the furthest first."""
        at = end + len(self.text[end:]) - len(self.text[end:].lstrip())
        ends: list[int] = []
        while (token := self.chat.specials.match(self.text, at)) is not None:
            ends.append(at := token.end())
        if not ends and (token := self.chat.closers.match(self.text, at)) is not None:
            ends.append(at := token.end())  # one that is not marked special, where no special one stands there
        if not ends:
            raise self._no_closing(self.text[end : end + 20])
        if self.text[at:].strip():
            ends = ends[:1]  # a text follows: what stands there opens another turn
        for number in range(1, len(ends)):
            # a template that always writes the next turn's beginning wrote it in the prompt too
            if self.prompt.rstrip().endswith(self.text[ends[number - 1] : ends[-1]]):
                ends = ends[:number]
                break
        return tuple(reversed(ends))

    def _no_closing(self, found: str) -> SpecError:
        follows = ""
        try:
            text = self.chat.text([*self.turns, {"role": "user", "content": "next"}], self.tools)
        except SpecError:
            text = self.text
        token = self.chat.closers.match(text, len(self.text.rstrip())) if text.startswith(self.text.rstrip()) else None
        if token is not None:
            follows = f": in use it stops where the next turn's {token.group()!r} stands, which no last turn shows"
        return SpecError(
            f"the chat template closes the assistant's turn with no token of its own (found {found!r}); a model "
            f"trained on it would not learn to stop{follows}; accepted: a template that writes such a token "
            "(data.template)"
        )

    def _end_of_calls(self) -> int:
        """Return where a turn that calls tools ends: where a plain one would, or behind the tokens at its very end."""
        plain = [*self.turns[:-1], {"role": "assistant", "content": "text"}]
        turn = _Turn(self.chat, plain, self.tools, locate(self.chat, plain, self.tools))
        turn.prompt = self.prompt
        start = turn.contents[0][1] + len("text")
        closing = turn.text[start : turn._closing(start)[0]].strip()
        last = max(places[-1] for piece, places in self.pieces if piece.kind == "tool")
        at = self.text.find(closing, last)
        if at >= 0:
            return at + len(closing)
        end = len(self.text.rstrip())
        if not any(token.end() == end for token in self.chat.closers.finditer(self.text)):
            raise self._no_closing(self.text[last : last + 20])
        return end


def _squeezed(text: str) -> str:
    """Return a text without its blanks."""
    return re.sub(r"\s+", "", text)


def check_others(turns: Sequence[Turn], tools: list[Any] | None, located: Located, trained: Sequence[int]) -> None:
    """Check that every other message and every tool stands whole; earlier thoughts may go, as they do in use.

    Raises:
        SpecError: naming the message and what is missing.
    """
    for piece, places in zip(located.pieces, located.starts, strict=True):
        if piece.message in trained or piece.kind == "thought" or piece.in_thought:
            continue
        role = "tool" if piece.message < 0 else turns[piece.message]["role"]
        lacks = missing(located, piece, places, escaped=role == "tool" or piece.kind == "tool")
        if lacks is None:
            continue
        if piece.message < 0:
            raise SpecError(
                f"the chat template leaves out the tool {piece.text[:60]!r} of the row; accepted: a template that "
                "shows tools, or their text in the system message"
            )
        if piece.kind == "tool":
            raise SpecError(
                f"the chat template leaves out or changes {lacks!r} of a tool call; accepted: a template that shows "
                "every call of a turn"
            )
        at = "" if piece.text.startswith(lacks) else f" (at {lacks!r})"
        raise SpecError(
            f"the chat template leaves out or changes the {role} message {piece.text[:60]!r}{at}; a template that "
            "drops a message trains another conversation; accepted: a template that shows it (data.template), or rows "
            "that it shows whole"
        )


def check_closing(turns: Sequence[Turn], closing: str) -> None:
    """Check that no text of a conversation holds a token that closes its turns.

    Raises:
        SpecError: naming the token.
    """
    for turn in turns:
        if closing in (turn.get("content") or ""):
            raise token_fault(str(turn["role"]), closing)


def edges_cut(located: Located, trained: Sequence[int]) -> int:
    """Return how many other messages lose blanks at their edges."""
    count = 0
    for piece, places in zip(located.pieces, located.starts, strict=True):
        if piece.kind == "content" and places and piece.message not in trained and not piece.before.strip():
            before, after = located.text[: places[0]], located.text[places[0] + len(piece.text) :]
            count += not before.endswith(piece.before) or not after.startswith(piece.after)
    return count
