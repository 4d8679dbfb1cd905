"""Give the points of a matplotlib drawing words that show on hover, as <title> elements of its SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D

from narrowly.report.visible import visible

_PREFIX = "hover:"
_MARKED = re.compile(rf'<a xlink:href=(["\']){_PREFIX}(.*?)\1[^>]*>(.*?)</a>', re.S)


def hover(artist: PathCollection | Line2D, texts: Sequence[str]) -> None:
    """Say what each point shows on hover.

    matplotlib's SVG writes a link around an element that has a URL: the text travels as one, and `titled` turns the
    link into a title. Lines take one text for the whole.

    Args:
        artist: points of `Axes.scatter`, or a line of `Axes.plot`.
        texts: one per point, lines separated by line feeds; may hold text from anywhere.
    """
    if not any(texts):
        return
    ready = [_PREFIX + visible(text, keep_newlines=True) for text in texts]
    if isinstance(artist, PathCollection):
        artist.set_urls(ready)
    elif ready:
        artist.set_url(ready[0])


def titled(svg: str) -> str:
    """Return SVG in which every element marked by `hover` has a title in place of a link."""
    return _MARKED.sub(r'<g class="point"><title>\2</title>\3</g>', svg)
