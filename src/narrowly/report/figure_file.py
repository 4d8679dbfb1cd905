"""Write a figure into a file that a user names."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from narrowly.records.errors import SpecError
from narrowly.records.files import write_text
from narrowly.report.adapter_figure import save_figure
from narrowly.report.style import svg_text

ENDINGS = (".svg", ".png", ".pdf")


def check_ending(path: Path) -> None:
    """Refuse a file whose ending names no format, before anything is drawn.

    Raises:
        SpecError: naming the ending.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(f"--figure {path}: found the ending {path.suffix!r}; accepted: .svg, .png or .pdf")


def write_figure(figure: Figure, path: Path, name: str, title: str) -> None:
    """Write a figure in the format of the file's ending.

    Args:
        figure: that was drawn inside `styled`.
        path: with one of `ENDINGS`.
        name: short name, for ids in SVG.
        title: read out by screen readers.

    Raises:
        SpecError: another ending.
    """
    check_ending(path)
    if path.suffix.lower() == ".svg":
        write_text(path, svg_text(figure, name, title))
    else:
        save_figure(figure, path)
