"""Render a page to HTML and write it with the drawings and data of its figures beside it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
import polars as pl
from markupsafe import Markup

from narrowly.records.files import write_text
from narrowly.report.kit.parts import Page
from narrowly.report.visible import preformatted, shown, visible


@cache
def _own_text(name: str) -> str:
    return files("narrowly.report.kit").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    """Return the template environment: autoescape on, every string made visible, undefined names are errors."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("narrowly.report.kit", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters.update(preformatted=preformatted)
    return environment


def _sha256(text: str) -> str:
    """Return the source expression of the content security policy that admits exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def page_html(page: Page) -> str:
    """Return the page as HTML: self-contained, no dates, the same bytes for the same parts.

    Its content security policy admits the kit's own style sheet and script by their hashes, and no other; nothing is
    loaded from anywhere.
    """
    names = [section.name for section in page.sections] + [f"figure-{figure.name}" for figure in page.figures()]
    if len(names) != len(set(names)):
        raise ValueError(f"anchors of a page must be unique; found {names}")
    style, script = _own_text("page.css"), _own_text("page.js")
    # "style-src" is for the style attributes inside drawings and swatches; elements need the hash.
    policy = (
        f"default-src 'none'; script-src {_sha256(script)}; style-src 'unsafe-inline'; "
        f"style-src-elem {_sha256(style)}; base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template("page.html.j2").render(
        page=page, style=Markup(style), script=Markup(script), policy=policy
    )  # fmt: skip


def write_page(page: Page, path: Path) -> None:
    """Write the page, and `figures/NAME.svg` and `figures/NAME.csv` of each of its figures beside it.

    Files of a figure that is no longer drawn are removed: they would contradict the page.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    for figure in page.figures():
        drawing, data = (path.parent / "figures" / f"{figure.name}.{kind}" for kind in ("svg", "csv"))
        for target, text in ((drawing, figure.svg), (data, _csv(figure.data) if figure.data_file else None)):
            if text is not None:
                write_text(target, text)
            else:
                target.unlink(missing_ok=True)
    write_text(path, page_html(page))


def _csv(data: pl.DataFrame | None) -> str | None:
    """Return a frame as CSV that a spreadsheet cannot take for formulas; lists as numbers between blanks."""
    if data is None:
        return None
    nested = [name for name, kind in data.schema.items() if kind.is_nested()]
    texts = [name for name, kind in data.schema.items() if kind == pl.String]
    return data.with_columns(
        *[pl.col(name).map_elements(_joined, return_dtype=pl.String) for name in nested],
        *[pl.col(name).map_elements(_harmless, return_dtype=pl.String) for name in texts],
    ).write_csv()


def _joined(values: pl.Series) -> str:
    return " ".join("nan" if value is None else f"{value:.6g}" for value in values)


def _harmless(text: str) -> str:
    """Return text with its controls visible, and quoted where a spreadsheet would compute it (OWASP, CSV injection)."""
    return f"'{visible(text)}" if text[:1] in ("=", "+", "-", "@") else visible(text)
