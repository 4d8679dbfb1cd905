"""The registry of public sources, and how a name or a path becomes a file whose sha256 is known."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from spectralign.records.canonical import sha256_file
from spectralign.records.errors import UnknownNameError


class Source(NamedTuple):
    """One public file (being filled in)."""

    name: str
    sha256: str | None


class LocalData(NamedTuple):
    """A file on this machine and what is known of it."""

    path: Path
    sha256: str
    schema: str | None
    source: Source | None


def resolve(name_or_path: str) -> LocalData:
    """Return the file of a registered name (from the cache) or of a local path."""
    path = Path(name_or_path)
    if not path.is_file():
        raise UnknownNameError(f"no source and no file is called {name_or_path!r}")
    return LocalData(path, sha256_file(path), None, None)
