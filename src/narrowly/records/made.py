"""Record what files were made from, so that nobody makes them again while all of that is the same.

A record holds the hash of what the files were made from and the sha256 of each file. Whoever would make them asks
`is_current` first: the answer is no after any change of an input, of the code, of a library, or of a file itself.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from narrowly.records.canonical import canonical_json, sha256_file, sha256_text
from narrowly.records.errors import IntegrityError
from narrowly.records.files import read_record, write_json
from narrowly.records.install import installed_version

PACKAGE_FOLDER = Path(__file__).parents[1]

NOT_CODE = ("__pycache__", "shipped")
"""Folders of the package that are no code: compiled copies, and the weights of shipped bases, which are inputs."""

LIBRARIES = (
    "torch", "transformers", "tokenizers", "peft", "Jinja2", "numpy", "polars", "scipy", "statsmodels", "matplotlib",
    "pydantic", "PyYAML",
)  # fmt: skip
"""Packages that can move a byte of a plan, a table or a report."""


@functools.cache
def code_version() -> str:
    """Return the hash of the package's own files, templates included, and of the versions of its libraries.

    The version number alone would not do: in a clone it stays the same from one edit to the next.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE_FOLDER.rglob("*")):
        place = path.relative_to(PACKAGE_FOLDER)
        if path.is_file() and not set(NOT_CODE) & set(place.parts):
            digest.update(f"{place.as_posix()}\0{sha256_file(path)}\n".encode())
    versions = {name: installed_version(name) for name in LIBRARIES}
    return sha256_text(canonical_json([digest.hexdigest(), platform.python_version(), versions]))


def file_mark(path: Path) -> list[int] | None:
    """Return size, times of change in ns and inode of a file: they are equal only while it was not written to.

    It stands in for a hash where files are large or many. A copy of a file has another mark. None where there is none.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def folder_marks(folder: Path) -> dict[str, list[int] | None]:
    """Return the marks of the files in a folder, and in the folders in it, by their place."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): file_mark(path) for path in paths if path.is_file()}


def origin_of(value: Any) -> str:
    """Return the hash that stands for a JSON-able description of what files are made from."""
    return sha256_text(canonical_json(value))


def write_made(record: Path, origin: str, files: Iterable[Path]) -> None:
    """Record that files beside or below `record` were made from what `origin` stands for."""
    hashes = {path.relative_to(record.parent).as_posix(): sha256_file(path) for path in sorted(files)}
    write_json(record, {"made_from": origin, "sha256": hashes})


def is_current(record: Path, origin: str) -> bool:
    """Return whether the recorded files were made from `origin` and are, byte by byte, what was made.

    A record that is missing or broken says nothing, so the answer is no and the files are made anew.
    """
    if not record.is_file():
        return False
    try:
        found = read_record(record)
    except IntegrityError:
        return False
    hashes = found.get("sha256")
    if found.get("made_from") != origin or not isinstance(hashes, dict) or not hashes:
        return False
    return all(_has(record.parent / name, sha256) for name, sha256 in hashes.items())


def _has(path: Path, sha256: object) -> bool:
    return path.is_file() and sha256_file(path) == sha256
