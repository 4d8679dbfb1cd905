"""The one style sheet and the one script that a page may hold."""

from importlib.resources import files

KIT = files("narrowly.report.kit")
STYLE, SCRIPT = (KIT.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
