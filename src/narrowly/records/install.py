"""Say what the package is called, what its extras need and how to add them: every install hint is made here."""

from __future__ import annotations

import importlib.metadata
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
    """Return the names of the package's extras that add something for users, in alphabetical order.

    Empty where the package is used from a folder without being installed: nothing is known of extras then.
    """
    try:
        named = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return sorted(name for name in named if name != "dev")


def requirements(extra: str | None = None) -> list[str]:
    """Return the distributions that an extra needs beyond the core, or those of the core, as pyproject.toml lists them.

    Args:
        extra: name of the extra; None for what is always installed.

    Empty where the package is used from a folder without being installed.
    """
    try:
        listed = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for line in listed:
        marked = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if (marked[1] if marked else None) == extra:
            found.append(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
    return found


def missing_requirements(extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed."""
    return [name for name in requirements(extra) if not _is_installed(name)]


def extra_with(module: str) -> str | None:
    """Return the smallest extra that would bring a module which is not installed, or None where none would."""
    name = _plain(module.partition(".")[0])
    bringing = [extra for extra in extras() if name in map(_plain, missing_requirements(extra))]
    return min(bringing, key=lambda extra: len(requirements(extra)), default=None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
