"""Page kit: build a page from typed parts and write it as one HTML file that needs no network and no script.

A page is a value: a Page holds Sections, and these hold Paragraphs, Notes, Tables, Figures, Folds and other parts.
write_page renders it and puts the drawings and data of its figures beside it. The kit knows no study, no optimiser and
no number: other modules of this room, and no room below, call it.

All text is escaped and made visible. The page's script only adds (sorting, filters, hover boxes, a switch for dark
mode): without it every row, caption and title is there.

- `parts`: what pages are made of
- `markup`: the only way to put markup into text
- `numbers`: numbers, percentages and intervals, as text and as cells
- `svg`: what points of a drawing show on hover
- `write`: HTML, and the files beside it
"""

from narrowly.report.kit.markup import Words, code, named, passage, strong, to_section, words
from narrowly.report.kit.numbers import Measured, measured, number, percent, plain, span
from narrowly.report.kit.parts import (
    Cell,
    Chip,
    Column,
    Definitions,
    Figure,
    Fold,
    Heading,
    Listing,
    Note,
    Page,
    Paragraph,
    Part,
    Preformatted,
    Section,
    Strip,
    Table,
)
from narrowly.report.kit.write import page_html, write_page

__all__ = [
    "Cell", "Chip", "Column", "Definitions", "Figure", "Fold", "Heading", "Listing", "Measured", "Note", "Page",
    "Paragraph", "Part", "Preformatted", "Section", "Strip", "Table", "Words", "code", "measured", "named", "number",
    "page_html", "passage", "percent", "plain", "span", "strong", "to_section", "words", "write_page",
]  # fmt: skip
