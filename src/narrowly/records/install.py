"""Say what the package is called, what its extras need and how to add them: every install hint is made here."""

from __future__ import annotations

import re
from collections.abc import Mapping

PACKAGE = "narrowly"

FORMER_NAME = "spectralign"
"""Name until November 2026, which another project holds on PyPI: runs of that time record their version under it."""

_HINT = "pip install '.[{extra}]' in a clone, or pip install 'narrowly[{extra}] @ git+URL' (URL: the clone's origin)"
"""Once the package is on PyPI, this line becomes "pip install 'narrowly[{extra}]'"."""


def with_todays_name(versions: Mapping[str, str]) -> dict[str, str]:
    """Return versions by package, the product's own under today's name, so that a rename is no change of version."""
    return {PACKAGE if name == FORMER_NAME else name: version for name, version in versions.items()}


def install_hint(extra: str) -> str:
    """Return the command that adds an extra, as it works today."""
    return _HINT.format(extra=extra)


def extras() -> list[str]:
    """Return the names of the extras that add something for users, in alphabetical order.

    Empty where the package is used from a folder without being installed: nothing is known of extras then.
    """
    return sorted({extra for extra, _ in _listed() if extra is not None and extra != "dev"})


def requirements(extra: str | None = None) -> list[str]:
    """Return the distributions that an extra needs beyond the core, from the list of pyproject.toml.

    Args:
        extra: name of the extra; None for the core, which is always installed.

    Empty where the package is used from a folder without being installed.
    """
    return [name for of, name in _listed() if of == extra]


def missing_requirements(extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed."""
    return [name for name in requirements(extra) if installed_version(name) is None]


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def extra_with(module: str) -> str | None:
    """Return the smallest extra that brings a top-level module, None where none does."""
    name = module.lower().replace("_", "-")  # as all our requirements name their module
    bringing = [extra for extra in extras() if name in requirements(extra)]
    return min(bringing, key=lambda extra: len(requirements(extra)), default=None)


def _listed() -> list[tuple[str | None, str]]:
    """Return (extra or None, distribution) for each requirement, as the installed package declares them."""
    from importlib import metadata  # 10 ms, which no command pays that needs no extra

    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        marked = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        found.append((marked[1] if marked else None, name.lower().replace("_", "-")))
    return found
