"""Make texts from models and files harmless before a terminal shows them."""

from __future__ import annotations

import unicodedata

LONGEST = 400
"""Characters of one text from a model or a file that are printed."""


def safe(text: object, longest: int = LONGEST) -> str:
    """Return text without anything that can act on a terminal.

    Control, format, surrogate, private and unassigned characters (escape sequences, direction overrides, zero-width
    characters) become U+FFFD; white space becomes single spaces; what is longer than `longest` is cut.
    """
    plain = " ".join(without_controls(str(text)).split())
    return plain if len(plain) <= longest else f"{plain[:longest]} ... ({len(plain) - longest} more characters)"


def without_controls(text: str) -> str:
    """Return a text whose control characters are U+FFFD and whose white space is blanks, none of them merged."""
    characters = []
    for character in text:
        if character.isspace():
            characters.append(" ")
        elif unicodedata.category(character)[0] == "C":
            characters.append("\ufffd")
        else:
            characters.append(character)
    return "".join(characters)
