"""Print a rendered row with the tokens that carry a loss marked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.text import Text

from narrowly.cli.terminal import console, say

OPEN, CLOSE = "[[", "]]"
"""Around supervised tokens where there are no colours."""


def say_pieces(pieces: Sequence[tuple[str, bool]]) -> None:
    """Print a rendered row: supervised tokens in reverse green on a terminal, between [[ and ]] where there is none."""
    target = console()
    colours = target.is_terminal and not target.no_color
    text = Text()
    for supervised, group in itertools.groupby(pieces, key=lambda piece: piece[1]):
        listed = list(group)
        text.append("" if colours or not supervised else OPEN)
        for index, (piece, _) in enumerate(listed):
            style = ("black on green" if index % 2 else "black on bright_green") if supervised else "dim"
            text.append(_visible(piece), style=style if colours else "")
        text.append("" if colours or not supervised else CLOSE)
    target.print(text, soft_wrap=True)
    count = sum(supervised for _, supervised in pieces)
    mark = "green" if colours else "between [[ and ]]"
    say(f"{len(pieces)} tokens shown, {count} with a loss ({mark})", style="dim")


def _visible(piece: str) -> str:
    """Return a token with its line breaks shown and kept, and every other control character replaced."""
    lines = (
        "".join(c if c.isprintable() or c == " " else " " if c == "\t" else "\ufffd" for c in line)
        for line in piece.split("\n")
    )
    return "\u23ce\n".join(lines)
