"""What reaches the terminal: consoles, harmless text, tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrowly.records.errors import MissingExtraError
from narrowly.records.install import install_hint, missing_requirements

LONGEST = 400
"""Characters of one text from a model or a file that are printed."""

PIPE_WIDTH = 200
"""Columns where standard output is a pipe or a file, so that no table is folded."""


def console() -> Console:
    """Return a console on standard output; it follows a redirected stdout."""
    found = Console(highlight=False, soft_wrap=False)
    if not found.is_terminal:
        found.width = PIPE_WIDTH
    return found


def error_console() -> Console:
    """Return a console on standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def safe(text: object, longest: int = LONGEST) -> str:
    """Return text without anything that can act on a terminal.

    Control, format, surrogate, private and unassigned characters (escape sequences, direction overrides, zero-width
    characters) become U+FFFD; white space becomes single spaces; what is longer than `longest` is cut.
    """
    plain = " ".join(_without_controls(str(text)).split())
    return plain if len(plain) <= longest else f"{plain[:longest]} ... ({len(plain) - longest} more characters)"


def _without_controls(text: str) -> str:
    characters = []
    for character in text:
        if character.isspace():
            characters.append(" ")
        elif unicodedata.category(character)[0] == "C":
            characters.append("\ufffd")
        else:
            characters.append(character)
    return "".join(characters)


def say(text: object, style: str = "") -> None:
    """Print one line on standard output; neither markup nor control characters in it act on the terminal."""
    console().print(Text(_without_controls(str(text)), style=style), soft_wrap=True)


def complain(text: str) -> None:
    """Print one line on standard error, as `say` does."""
    error_console().print(Text(_without_controls(text)))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """Return a table of plain texts; numbers are set right, None is a dash, floats have four digits."""
    listed = [list(row) for row in rows]
    built = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[index], int | float | None) for row in listed)
        built.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        built.add_row(*(Text(_shown(value)) for value in row))
    return built


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else safe(value)


def duration(seconds: float) -> str:
    """Return seconds as `42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def need_extra(extra: str, what: str) -> None:
    """Refuse a command that needs more than what is installed.

    Raises:
        MissingExtraError: names what is missing and the command that adds it.
    """
    missing = missing_requirements(extra)
    if missing:
        raise MissingExtraError(f"{what} needs {', '.join(missing)}; add them with: {install_hint(extra)}")
