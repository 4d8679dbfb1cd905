"""Put markup into text without trusting the text: every argument is made visible and escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

from narrowly.report.visible import preformatted, visible

Words = str | Markup
"""Text of a page: a plain string is escaped where it is shown; markup comes from the functions of this module."""


def words(template: str, /, *values: object, **named_values: object) -> Markup:
    """Fill a template of our own with values from anywhere.

    Args:
        template: trusted HTML with `{}` or `{name}` as `str.format` has them; never text from a file or a model.
        values: strings are made visible and escaped, markup stays as it is, numbers are formatted.
        named_values: the same, by name.
    """
    safe = {name: _safe(value) for name, value in named_values.items()}
    return Markup(template).format(*map(_safe, values), **safe)


def _safe(value: object) -> object:
    return escape(visible(value)) if type(value) is str else value


def strong(text: Words) -> Markup:
    """Return text that matters."""
    return words("<strong>{}</strong>", text)


def passage(text: str) -> Markup:
    """Return text of a model or a user with its line feeds; a long one scrolls inside a box of its own."""
    return words('<span class="passage" dir="auto">{}</span>', preformatted(text))


def code(text: str) -> Markup:
    """Return a file name, a command or a field as such."""
    return words("<code>{}</code>", text)


def to_section(section: str, text: Words) -> Markup:
    """Return a link to a section of the same page."""
    return words('<a href="#{}">{}</a>', section, text)


def named(label: Words, name: str) -> Words:
    """Return a label with the name that files and commands use as its tooltip; plain text where the two are equal."""
    return label if label == name else words('<span class="named" title="{}">{}</span>', name, label)
