"""What reaches the terminal: consoles, harmless text, tables."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from narrowly.cli.plain import safe as safe
from narrowly.cli.plain import without_controls
from narrowly.cli.sheet import Sheet, fold
from narrowly.cli.sheet import number as number
from narrowly.records.errors import MissingExtraError
from narrowly.records.install import install_hint, missing_requirements

PIPE_WIDTH = 100_000
"""Columns where standard output is a pipe or a file and COLUMNS is not set: one line for every row and sentence."""


def console(wide: bool = False) -> Console:
    """Return a console on standard output; it follows a redirected stdout. `wide`: no line is folded."""
    found = Console(highlight=False, soft_wrap=True)  # a line is folded by `fold` and `Sheet`, never cut by rich
    if wide or (not found.is_terminal and not os.environ.get("COLUMNS", "").isdigit()):
        found.width = PIPE_WIDTH
    return found


def error_console() -> Console:
    """Return a console on standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: object, style: str = "") -> None:
    """Print one sentence on standard output, folded at its spaces where the terminal is narrower.

    Neither markup nor control characters in it act on the terminal, and no number, hash or path is broken.
    """
    target = console()
    for line in fold(without_controls(str(text)), target.width):
        target.print(Text(line, style=style), soft_wrap=True)


def complain(text: str) -> None:
    """Print one line on standard error, as `say` does."""
    target, plain = error_console(), without_controls(text)
    for line in fold(plain, target.width) if target.is_terminal else [plain]:
        target.print(Text(line))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Sheet:
    """Return a table of plain texts that fits any width; None is a dash, floats have three significant digits."""
    return Sheet(columns, rows, title)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; NaN and infinity, for which JSON has no number, are null."""
    sys.stdout.write(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short_modules(names: Sequence[str]) -> list[str]:
    """Return module names without what all of them share: `0.q_proj` for `model.layers.0.self_attn.q_proj`.

    The block's number and the last part are kept; where two names would fall together, all stay whole.
    """
    short = []
    for name in names:
        parts = name.split(".")
        blocks = [part for part in parts[:-1] if part.isdecimal()]
        short.append(".".join([*blocks, parts[-1]]))
    return short if len(set(short)) == len(set(names)) else list(names)


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
