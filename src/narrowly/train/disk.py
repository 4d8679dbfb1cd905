"""Say in one line that a disk is full, or too small, whoever found out."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from narrowly.records.errors import RunDirectoryError

_FULL = 1 << 20
"""Bytes; a disk with less left after a write that failed is a full one."""


@contextmanager
def writing(target: Path, folder: Path) -> Iterator[None]:
    """Turn what writers in Rust and C++ raise inside into a clear line.

    Args:
        target: what is written.
        folder: an existing one on the same disk.

    Raises:
        RunDirectoryError: the writer failed.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        full = _full_disk(error, folder)
        raise RunDirectoryError(f"cannot write {target}: {' '.join(str(full or error).split())}") from full or error


def _full_disk(error: BaseException, folder: Path) -> OSError | None:
    """Return the error of the system behind one of a writer in Rust or C++, None where there is no sign of it.

    They hide it in their text or in what was raised before, or say nothing of it; what is left of the disk tells then.
    A study stops at it, where it would otherwise train every cell up to its first checkpoint.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    named = re.search(r"\(os error (\d+)\)", str(error))
    number = int(named[1]) if named else errno.ENOSPC
    if named is None and shutil.disk_usage(folder).free > _FULL:
        return None
    found = OSError(number, os.strerror(number))
    found.__cause__ = error
    return found


def check_room(target: Path, folder: Path, needed: int) -> None:
    """Check, before anything is written, that the disk has room.

    Args:
        target: what will be written.
        folder: an existing one on the same disk.
        needed: bytes.

    Raises:
        RunDirectoryError: it has not; size and room are named.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunDirectoryError(f"{target} takes {_size(needed)}, and its disk has {_size(free)} left")


def _size(count: int) -> str:
    """Return bytes as `7.2 GB` or `310 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
