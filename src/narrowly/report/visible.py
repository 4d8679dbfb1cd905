"""Make text from models and files visible: control characters shown, nothing left that can act on a page.

HTML escaping itself is Jinja2's (autoescape is on everywhere); what it leaves alone is handled here: terminal
escapes, bells, direction overrides, zero-width characters.
"""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

_NOT_PLAIN = re.compile("[^ -~]")
"""All but printable ASCII, which is most of an answer and stays as it is."""

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
    if keep_newlines:
        return "\n".join(visible(line) for line in text.split("\n"))
    return _NOT_PLAIN.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    character = found.group()
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"\u27e8U+{code:04X}\u27e9"
    return character


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
