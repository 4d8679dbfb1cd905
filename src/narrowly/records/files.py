"""Read records, and write files and folders that appear whole: a reader sees the old content or the new one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from narrowly.records.errors import IntegrityError, NarrowlyError, RunDirectoryError

_UMASK = os.umask(0o022)
os.umask(_UMASK)

UNFINISHED = ".unfinished-"
"""How the name of a folder begins that `whole_folder` has not finished."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Raises:
        RunDirectoryError: where the disk is full or the folder cannot be written.
    """
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, handle = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(descriptor)
        temporary = Path(handle)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
        handle = None
    except NarrowlyError:
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if handle is not None:
            Path(handle).unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`; on success it becomes `target`, on failure it is removed.

    A process that is killed leaves a folder `.unfinished-...` and no target. The caller checks that the target does not
    exist and says what to do where it does; a folder that has files is never replaced.

    Raises:
        RunDirectoryError: where the disk is full or the folder cannot be written.
    """
    unfinished = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=UNFINISHED))
        yield unfinished
        unfinished.chmod(0o777 & ~_UMASK)  # mkdtemp makes folders that only their owner can enter
        unfinished.rename(target)
    except NarrowlyError:
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON with sorted keys; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON written by `write_json`.

    Raises:
        IntegrityError: where the file is not valid JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not valid JSON ({error}); it is corrupt or not ours") from error


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object that must be there.

    Raises:
        IntegrityError: where the file is missing, not valid JSON or no object; the message names the file.
    """
    try:
        value = read_json(path)
    except OSError as error:
        raise IntegrityError(f"cannot read {path}: {error.strerror or error}; the folder is corrupt") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path} holds a {type(value).__name__}, expected a JSON object; corrupt or not ours")
    return value


def append_jsonl(path: Path, *rows: Any) -> None:
    """Append JSON rows as one write, so that a kill leaves at most one torn last line."""
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(lines)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error


def read_jsonl(path: Path) -> list[Any]:
    """Read JSON rows; a torn last line (a killed writer) is left out, any other broken line is an error.

    Raises:
        IntegrityError: where the file is missing or a line is no JSON in UTF-8; the message names file and line.
    """
    rows: list[Any] = []
    try:
        # newlines only: str.splitlines also breaks at characters that JSON allows inside strings
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise IntegrityError(f"cannot read {path}: {error.strerror or error}; the folder is corrupt") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            if number == len(lines):
                break
            raise IntegrityError(f"{path}, line {number}: not valid JSON ({error})") from error
    return rows
