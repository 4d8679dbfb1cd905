"""Ask git which commit first held a file as it is, and whether one commit is an ancestor of another.

Where there is no git, no repository or no such commit the answer is None: nothing here fails a study.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

TIMEOUT = 30
"""Seconds after which git counts as not there."""


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints in a folder, or None where it cannot say it."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip() if done.returncode == 0 else None


def first_commit(file: Path, holds: Callable[[str], bool]) -> str | None:
    """Return the earliest commit of the current branch whose version of a file passes a test, 40 hex digits.

    Args:
        file: in a work tree.
        holds: told the text of each version of the file, from the oldest on.
    """
    folder = file.resolve().parent
    commits = _git(folder, "log", "--format=%H", "--reverse", "--", file.name)
    for commit in (commits or "").split():
        text = _git(folder, "show", f"{commit}:./{file.name}")
        if text is not None and holds(text):
            return commit
    return None


def texts_with(folder: Path, commit: str, word: str, endings: tuple[str, ...]) -> list[str]:
    """Return the texts of a commit's files that hold a word, of some endings; none where git cannot say it."""
    patterns = [f":(top,glob)**/*{ending}" for ending in endings]
    names = _git(folder, "grep", "--full-name", "-l", "-z", "-F", "-e", word, commit, "--", *patterns)
    found = [_git(folder, "show", name) for name in (names or "").split("\0") if name]
    return [text for text in found if text is not None]


def is_whole(folder: Path) -> bool:
    """Return whether a folder is in a repository with all its history: neither a shallow clone nor none at all."""
    return _git(folder, "rev-parse", "--is-shallow-repository") == "false"


def added_in(path: Path) -> str | None:
    """Return the commit of the current branch that first added a file, or None where it is in none."""
    found = _git(path.resolve().parent, "log", "--diff-filter=A", "--format=%H", "--reverse", "--", path.name)
    return found.split()[0] if found else None


def commit_time(folder: Path, commit: str) -> float | None:
    """Return when a commit was made, in seconds since 1970."""
    found = _git(folder, "show", "--no-patch", "--format=%ct", commit)
    return float(found) if found else None


def is_ancestor(folder: Path, earlier: str, later: str) -> bool:
    """Return whether one commit is another's ancestor; no commit is its own."""
    return earlier != later and _git(folder, "merge-base", "--is-ancestor", earlier, later) is not None
