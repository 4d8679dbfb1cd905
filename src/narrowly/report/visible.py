"""Make text from models and files visible: control characters shown, nothing left that can act on a page.

HTML escaping itself is Jinja2's (autoescape is on everywhere); what it leaves alone is handled here: terminal
escapes, bells, direction overrides, zero-width characters.
"""

from __future__ import annotations

import unicodedata

from markupsafe import Markup, escape

LONGEST = 400
"""Characters of one text that are shown; longer ones are cut, and the cut is marked."""


def visible(text: str, *, keep_newlines: bool = False) -> str:
    """Return `text` with every control, format and unassigned character written out.

    C0 controls become their Unicode pictures (ESC is shown as "␛"); all others become "⟨U+202E⟩". Plain
    spaces stay.

    Args:
        text: any string.
        keep_newlines: leave line feeds as they are (for preformatted blocks).
    """
    pieces = []
    for character in text:
        code = ord(character)
        if character == "\n" and keep_newlines:
            pieces.append(character)
        elif code < 0x20:
            pieces.append(chr(0x2400 + code))
        elif code == 0x7F:
            pieces.append("\u2421")
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            pieces.append(f"\u27e8U+{code:04X}\u27e9")
        else:
            pieces.append(character)
    return "".join(pieces)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return `text`, cut at `longest` characters with a note of how many are left out."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest} more characters)"


def preformatted(text: str) -> Markup:
    """Return `text` escaped for a preformatted block: visible, with its line feeds."""
    return escape(visible(text, keep_newlines=True))


def shown(value: object) -> object:
    """Make a template value harmless to look at; the finaliser of the template environment."""
    if type(value) is str:
        return visible(value)
    return "" if value is None else value
