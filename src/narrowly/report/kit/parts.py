"""Declare what a page is made of: sections, and the parts that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import polars as pl

from narrowly.report.kit.markup import Words

MOST_SEEN_AT_ONCE = 12
"""Rows up to which a table needs no filter, and is kept on one page of paper."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    part: ClassVar = "heading"
    text: Words


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    part: ClassVar = "paragraph"
    text: Words


@dataclass(frozen=True, slots=True)
class Listing:
    """Sentences or items, one below the other."""

    part: ClassVar = "listing"
    items: Sequence[Words]


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph that stands out: a notice about the whole, or a warning about what is next to it."""

    part: ClassVar = "note"
    text: Words
    kind: Literal["notice", "warning"] = "notice"


@dataclass(frozen=True, slots=True)
class Preformatted:
    """Text of a file or commands, with its line feeds."""

    part: ClassVar = "preformatted"
    text: str


@dataclass(frozen=True, slots=True)
class Definitions:
    """Words and what they mean."""

    part: ClassVar = "definitions"
    pairs: Sequence[tuple[Words, Words]]


@dataclass(frozen=True, slots=True)
class Fold:
    """Parts behind a line that opens them."""

    part: ClassVar = "fold"
    summary: Words
    parts: Sequence[Part]
    open: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: what its cells are.
        unit: of its numbers, shown small.
        kind: numbers stand right; prose wraps anywhere; words keep together.
        choices: whether a long table can be narrowed to one of its values, chosen from a list.
    """

    heading: Words
    unit: str = ""
    kind: Literal["word", "number", "prose"] = "word"
    choices: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        below: smaller lines below it: an interval, a learning rate.
        sort: what the column is sorted by, where that is not its text.
        colour: of a swatch before the text, `#rrggbb`.
        columns: how many columns it takes; a row may end early with one wide cell.
    """

    text: Words
    below: Sequence[Words] = ()
    sort: float | None = None
    colour: str | None = None
    columns: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its caption; the first cell of each row names the row.

    Attributes:
        caption: what the rows are and what the numbers mean.
        columns: from left to right.
        rows: cells, or bare text for cells without more.
        title: a name for the table, where no heading is above it.
        groups: headings over several columns, from left to right: heading and how many columns it is over.
        empty: what is said where there are no rows.
        stacked: show each row as a block of "heading: text" on narrow screens; for cells of long text.
    """

    part: ClassVar = "table"
    caption: Words
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | Words]]
    title: Words = ""
    groups: Sequence[tuple[Words, int]] = ()
    empty: Words = "None."
    stacked: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """Return all rows as cells."""
        return [[one if isinstance(one, Cell) else Cell(one) for one in row] for row in self.rows]

    @property
    def filtered(self) -> bool:
        """Say whether the table is long enough for a filter."""
        return len(self.rows) > MOST_SEEN_AT_ONCE

    @property
    def short(self) -> bool:
        """Say whether the table keeps together on paper."""
        return not self.filtered and not self.stacked


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its caption, or the reason why it is not there.

    Attributes:
        name: names its files and anchor; letters, digits and underscores.
        title: its heading, also read out by screen readers.
        caption: what is shown, and of how many.
        method: what stays the same from report to report (intervals, marks, limits); folded.
        svg: of `style.svg_text`; None where there is a reason not to draw.
        reason: why it is not drawn.
        data: what is drawn, as a table; written as CSV beside the page.
    """

    part: ClassVar = "figure"
    name: str
    title: str
    caption: Words
    method: Words = ""
    svg: str | None = None
    reason: str | None = None
    data: pl.DataFrame | None = field(default=None, compare=False)

    @property
    def svg_file(self) -> str | None:
        """Return the path of its drawing beside the page."""
        return f"figures/{self.name}.svg" if self.svg is not None else None

    @property
    def data_file(self) -> str | None:
        """Return the path of its data beside the page."""
        return f"figures/{self.name}.csv" if self.svg is not None and self.data is not None else None


@dataclass(frozen=True, slots=True)
class Chip:
    """A short name in a strip.

    Attributes:
        text: what is shown.
        told: the whole of it, as its tooltip.
        section: the section of the page that it leads to.
    """

    text: Words
    told: Words
    section: str


@dataclass(frozen=True, slots=True)
class Strip:
    """Chips grouped by a verdict, each group with a symbol and a colour of its own.

    Attributes:
        title: what the chips are.
        groups: verdict (a key of `symbols`) and its chips; a group without chips is shown with its count of 0.
    """

    part: ClassVar = "strip"
    symbols: ClassVar = {"agrees": "✓", "disagrees": "✗", "cannot tell": "?", "not tested": "–"}
    title: Words
    groups: Sequence[tuple[str, Sequence[Chip]]]


Part = Heading | Paragraph | Listing | Note | Preformatted | Definitions | Fold | Table | Figure | Strip


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page with an anchor and a line in the contents.

    Attributes:
        name: its anchor; unique on the page.
        title: its heading.
        parts: from top to bottom.
        short: its line in the contents; the title where it is empty.
    """

    name: str
    title: Words
    parts: Sequence[Part]
    short: Words = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        title: its first heading and the title of its window.
        kicker: a small line above the title: what made it, of what.
        notices: what must be read before all else.
        sections: in order.
        footer: its last line.
    """

    title: str
    kicker: Words
    sections: Sequence[Section]
    notices: Sequence[Note] = ()
    footer: Words = ""

    def figures(self) -> list[Figure]:
        """Return every figure of the page, in order, those in folds too."""
        return [figure for section in self.sections for figure in _figures(section.parts)]


def _figures(parts: Sequence[Part]) -> list[Figure]:
    found = []
    for part in parts:
        if isinstance(part, Figure):
            found.append(part)
        elif isinstance(part, Fold):
            found += _figures(part.parts)
    return found
