"""Write canonical JSON and hash content: the same content gives the same id on every machine."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

ID_LENGTH = 16
"""Hex digits kept of an id: 64 bits, so a million runs collide with probability 3e-8."""


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, shortest round-trip floats and no NaN.

    Raises:
        ValueError: for NaN or infinity, which have no canonical form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Return the sha256 of `text` in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: Path, _size: int, _modified_ns: int) -> str:
    return sha256_file(path)


def cached_sha256(path: Path) -> str:
    """Return the sha256 of a file, read once per process as long as its size and time stay what they are.

    One study asks for the same base hundreds of times.
    """
    status = path.stat()
    return _sha256_of_version(path, status.st_size, status.st_mtime_ns)


def content_id(value: Any) -> str:
    """Return the short id of a JSON-able value: the first `ID_LENGTH` hex digits of its canonical sha256."""
    return sha256_text(canonical_json(value))[:ID_LENGTH]
