"""List the files below a folder in order; no link is followed out of it.

Folders that hold copies of others' files, caches or logs of runs are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from narrowly.audit.files import kind_of
from narrowly.audit.record import Skip

IGNORED_FOLDERS = frozenset(
    ".git .hg .svn .jj node_modules __pycache__ .mypy_cache .ruff_cache .pytest_cache .tox .nox .venv venv "
    ".ipynb_checkpoints .eggs .cache site-packages dist-packages mlruns".split()
)
"""Folders below a PATH that hold copies of others' files or caches; a PATH that is one of them is read."""

_LOGGED = re.compile(r"(?:^|/)wandb/(?:offline-)?run-\d{8}_\d{6}-\w+\Z")
"""Folders in which Weights & Biases keeps a run's log with copies of the code."""

MOST_DEEP = 40
"""Levels of folders."""


def walk(root: Path) -> Iterator[str | Skip]:
    """Yield every regular file below a folder, relative to it, in order; and what cannot be listed, as a Skip.

    Links to folders are not followed, so loops cannot be; links to files are read where they lead to a file below
    the root. Folders of `IGNORED_FOLDERS` and logged runs are left out.
    """
    real_root = os.path.realpath(root)
    waiting = [("", 0)]
    while waiting:
        folder, depth = waiting.pop()
        if depth > MOST_DEEP:
            yield Skip(folder, f"more than {MOST_DEEP} folders deep")
            continue
        try:
            with os.scandir(root / folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Skip(folder or ".", f"cannot be listed: {error.strerror or error}")
            continue
        below: list[tuple[str, int]] = []
        for entry in listed:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not (entry.name in IGNORED_FOLDERS or entry.name.endswith(".dist-info") or _LOGGED.search(relative)):
                    below.append((relative, depth + 1))
            elif entry.is_symlink():
                if kind_of(entry.name) is not None:
                    yield from _linked(entry.path, relative, real_root)
            elif entry.is_file(follow_symlinks=False):
                yield relative
            elif kind_of(entry.name) is not None:
                yield Skip(relative, "not a regular file")
        waiting += below[::-1]


def _linked(path: str, relative: str, real_root: str) -> Iterator[str | Skip]:
    try:
        target = os.path.realpath(path, strict=True)
    except OSError:
        yield Skip(relative, "a link that leads nowhere")
        return
    if Path(target).is_dir():
        return
    if not target.startswith(real_root + os.sep):
        yield Skip(relative, "a link that leads out of the folder")
    elif Path(target).is_file():
        yield relative
