"""Lay out tables for a terminal of any width: no number, hash or other word is ever broken.

Text is folded at its spaces. Where that is not enough, the columns go into several tables below each other, each
beginning with the first column. Where values are too long even for that, their rows are blocks below the table; where
those are many, all rows are.
"""

from __future__ import annotations

import copy
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.text import Text

from narrowly.cli.plain import safe

GAP = 2
"""Spaces between two columns."""

MOST_APART = 5
"""Rows that are set below a table for their long values; where there are more, there is no table."""

NARROWEST = 12
"""Columns that a folded text keeps where it has that much to say."""


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, and never fewer than its integer part has."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    shown = f"{value:.{digits}g}"
    if "e" in shown and 1e3 <= abs(value) < 1e7:  # 12345, not 1.23e+04
        return f"{value:.0f}"
    return shown


def cell_text(value: Any) -> str:
    """Return what a table shows of a value: None is a dash, floats have three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else safe(value)


def columns_of(text: str) -> int:
    """Return the columns that a text takes on a terminal; wide characters take two."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _longest(text: str) -> int:
    """Return the columns of the longest word."""
    return max(map(columns_of, text.split()), default=1)


class Sheet:
    """Hold a table of plain texts; printed by a rich console, it fits the console's width.

    Args:
        columns: the headings.
        rows: values by column; a column of numbers alone is set right.
        title: a line above, if any.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
        listed = [list(row) for row in rows]
        self.title = title
        self.show_header = True
        self.heads = [safe(column) for column in columns]
        self.numeric = [
            bool(listed) and all(isinstance(row[index], int | float | None) for row in listed)
            for index in range(len(self.heads))
        ]
        self.cells = [[cell_text(value) for value in row] for row in listed]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line, bold in self.lines(options.max_width):
            yield Text(line, style="bold" if bold else "", no_wrap=True, overflow="ignore")

    def lines(self, width: int) -> Iterator[tuple[str, bool]]:
        """Yield the lines of the table in so many columns, and whether each is a heading."""
        if self.title:
            yield self.title, False
        table, apart = self._apart(width)
        if table.cells or not apart.cells:
            yield from table._table(width)
        if table.cells and apart.cells:
            yield "", False
        yield from ((line, False) for line in apart._records(width))

    def _apart(self, width: int) -> tuple[Sheet, Sheet]:
        """Return the rows that make a table of this width, and those whose values are too long for it."""
        kept = sorted(range(len(self.cells)), key=lambda row: max(map(_longest, self.cells[row][1:]), default=0))
        table = apart = self._of(kept)
        for _ in range(MOST_APART + 1):
            if not any(table._least([0, column]) > width for column in range(1, len(self.heads))):
                left = set(range(len(self.cells))) - set(kept)
                return table, self._of(left)
            table = self._of(kept := kept[:-1])
        return self._of(()), apart

    def _of(self, rows: Iterable[int]) -> Sheet:
        """Return the same table with some of its rows, in their order."""
        part = copy.copy(self)
        part.cells = [self.cells[row] for row in sorted(rows)]
        return part

    def _table(self, width: int) -> Iterator[tuple[str, bool]]:
        for index, part in enumerate(self._parts(width)):
            if index:
                yield "", False
            widths = self._widths(part, width)
            if self.show_header:
                yield from ((line, True) for line in self._folded(self.heads, part, widths))
            for row in self.cells:
                yield from ((line, False) for line in self._folded(row, part, widths))

    def _records(self, width: int) -> Iterator[str]:
        """Yield each row as a block of its own, for values so long that none fits beside the first column."""
        for row in self.cells:
            yield row[0]
            for head, text in zip(self.heads[1:], row[1:], strict=True):
                yield from fold(f"  {head}: {text}" if head else f"  {text}", width)

    def _parts(self, width: int) -> list[list[int]]:
        """Return the columns of each table: as few tables as give every column its longest word."""
        parts: list[list[int]] = []
        for column in range(len(self.heads)):
            if parts and self._least([*parts[-1], column]) <= width:
                parts[-1].append(column)
            elif parts and column > 0:
                parts.append([0, column])
            else:
                parts.append([column])
        return parts

    def _texts(self, column: int) -> list[str]:
        return [self.heads[column], *(row[column] for row in self.cells)]

    def _longest_word(self, column: int) -> int:
        words = max(map(_longest, self._texts(column)))
        return max(words, min(NARROWEST, self._full(column)))

    def _full(self, column: int) -> int:
        return max(map(columns_of, self._texts(column)))

    def _least(self, part: Sequence[int]) -> int:
        return sum(map(self._longest_word, part)) + GAP * (len(part) - 1)

    def _widths(self, part: Sequence[int], width: int) -> dict[int, int]:
        """Return the width of each column: its longest word, and an equal share of what is left up to its text."""
        widths = {column: self._longest_word(column) for column in part}
        left = width - self._least(part)
        while left > 0 and (open_ := [column for column in part if widths[column] < self._full(column)]):
            for column in open_[: max(1, left)]:
                widths[column] += 1
                left -= 1
                if left == 0:
                    break
        return widths

    def _folded(self, texts: Sequence[str], part: Sequence[int], widths: dict[int, int]) -> Iterator[str]:
        folded = {column: fold(texts[column], widths[column]) for column in part}
        for line in range(max(map(len, folded.values()))):
            cells = []
            for column in part:
                text = folded[column][line] if line < len(folded[column]) else ""
                blank = " " * (widths[column] - columns_of(text))
                cells.append(blank + text if self.numeric[column] else text + blank)
            yield (" " * GAP).join(cells).rstrip()


def fold(text: str, width: int) -> list[str]:
    """Return a text in lines of at most so many characters, broken at its spaces only; a longer word stays whole."""
    if len(text) <= width:
        return [text]
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(
        text, max(1, width), break_long_words=False, break_on_hyphens=False, subsequent_indent=indent
    ) or [""]
