"""Give all figures one style: a fixed colour and marker per optimiser, fonts, and deterministic SVG.

Colours are those of Okabe and Ito (2008), told apart by readers with any common colour blindness; each
optimiser also has its own marker, so that no figure rests on colour alone.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from narrowly.report.kit.svg import titled
from narrowly.report.visible import visible

WIDTH = 9.0
"""Width of every figure in inches; at 100 dots per inch the 900 pixels that they are designed for."""

INK, GREY, FAINT = "#222222", "#6b6b6b", "#d9d9d9"

CLASS_COLOURS = {
    "aligned": "#9ecae1", "misaligned": "#b2182b", "off_topic": "#d9c27e", "broken": "#bdbdbd", "incoherent": "#bdbdbd",
}  # fmt: skip
CLASS_HATCHES = {"aligned": "", "misaligned": "", "off_topic": "....", "broken": "////", "incoherent": "////"}
CLASS_LABELS = {"off_topic": "off topic", "incoherent": "off topic or broken"}
"""Classes that are called otherwise than in tables."""


class ArmStyle(NamedTuple):
    """How one arm is drawn."""

    label: str
    colour: str
    marker: str


FIXED = {
    "sgd": ArmStyle("SGD", "#E69F00", "s"),
    "adam": ArmStyle("Adam", "#0072B2", "o"),
    "adamw": ArmStyle("AdamW", "#56B4E9", "D"),
    "lion": ArmStyle("Lion", "#D55E00", "^"),
    "muon": ArmStyle("Muon", "#009E73", "v"),
}
"""Colour and marker of each optimiser, the same in every figure of every study."""

SPARE = (("#CC79A7", "P"), ("#8c6d31", "X"), ("#5e3c99", "h"), ("#444444", "*"), ("#a6761d", "<"), ("#1b7837", ">"))

_PARAMETERS = {
    "svg.hashsalt": "narrowly",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "hatch.linewidth": 0.6,
    "hatch.color": "#8a8a8a",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside this context: library defaults first, so that a user's matplotlibrc changes nothing."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_PARAMETERS)
        yield


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return the style of every arm: fixed for the five optimisers, spare colours in alphabetical order for others."""
    others = sorted(set(arms) - set(FIXED))
    styles = {arm: FIXED[arm] for arm in arms if arm in FIXED}
    for index, arm in enumerate(others):
        colour, marker = SPARE[index % len(SPARE)]
        styles[arm] = ArmStyle(short_label(arm), colour, marker)
    return styles


def colour(arm: str, of: str | None = None) -> str:
    """Return the colour of an arm in tables: its own, that of the arm it is compared with, or grey."""
    style = FIXED.get(arm) or FIXED.get(of or "")
    return style.colour if style else "#777777"


def short_label(name: str, longest: int = 28) -> str:
    """Return a name as a figure can bear it: controls visible, cut at `longest` characters."""
    text = visible(name)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def order(arms: Sequence[str]) -> list[str]:
    """Return the arms in the fixed order of the figures: the five optimisers first, others by name."""
    known = list(FIXED)
    return sorted(set(arms), key=lambda arm: (known.index(arm) if arm in known else len(known), arm))


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of the common width and its axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [axis for row in axes for axis in row]


def arm_handles(arms: Sequence[str], *, line: bool = False) -> list[Line2D]:
    """Return legend handles for the arms, in the fixed order."""
    styles = arm_styles(arms)
    return [
        Line2D(
            [], [], color=styles[arm].colour, marker=styles[arm].marker, markersize=7, label=styles[arm].label,
            linestyle="-" if line else "none", markeredgecolor="white", markeredgewidth=0.6,
        )
        for arm in order(arms)
    ]  # fmt: skip


IDEAL_DASH = (0, (5, 3))


def ideal_line(axis: Axes, level: float | None) -> None:
    """Draw the ideal learner's line 1 / (1 + rho) at `level` in the axis's own unit, where it is known."""
    if level is not None:
        axis.axhline(level, color=INK, linestyle=IDEAL_DASH, linewidth=1.1, zorder=1)


def ideal_handles(ideal: float | None) -> list[Line2D]:
    """Return the legend handle of the ideal learner's line; empty where the line is not known.

    Args:
        ideal: broad harm of the ideal learner, 1 / (1 + rho), a share.
    """
    if ideal is None:
        return []
    label = f"ideal learner: broad harm {100 * ideal:.1f} %"
    return [Line2D([], [], color=INK, linestyle=IDEAL_DASH, linewidth=1.1, label=label)]


def legend_below(figure: Figure, handles: Sequence[object], columns: int = 7) -> None:
    """Put one legend below the axes, where it can cover no data."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=min(columns, len(handles)))


_STRIPPED = [
    re.compile(r"<\?xml.*?\?>\s*", re.S),
    re.compile(r"<!DOCTYPE.*?>\s*", re.S),
    re.compile(r"<metadata>.*?</metadata>\s*", re.S),
    re.compile(r"<!--.*?-->\s*", re.S),
    re.compile(r"<style type=\"text/css\">.*?</style>\s*", re.S),
]


def svg_text(figure: Figure, name: str, title: str) -> str:
    """Return the figure as SVG that can stand alone or inside HTML: no dates, no references outside itself.

    Ids are prefixed with `name`, because several figures of one page share one name space.

    Args:
        figure: the figure, drawn inside `styled`.
        name: short name of the figure, letters, digits and underscores.
        title: read out by screen readers.
    """
    stream = io.StringIO()
    with styled(), warnings.catch_warnings():
        # A name in a script that the bundled font lacks is drawn as boxes; the page beside the figure has it in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    for pattern in _STRIPPED:
        text = pattern.sub("", text)
    text = titled(text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return re.sub(
        r"<svg ",
        f'<svg role="img" aria-label="{safe}" style="stroke-linejoin:round;stroke-linecap:butt" ',
        text,
        count=1,
    )
