"""Say which host this is, and whether a process of it lives: what a claim of a run is held to."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path


def this_host() -> str:
    """Return the name under which pids are comparable."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {namespace}".strip()


def process_started(pid: int) -> str | None:
    """Return when a process of this host started, or None where there is no such (living) process.

    On Linux it is the boot id and the start in clock ticks, elsewhere psutil's creation time; an empty string means
    that the process lives but its start is not known.
    """
    if platform.system() == "Linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return _probe(pid)  # /proc may hide the processes of other users
        if fields[0] in ("Z", "X"):  # a killed worker that is not yet reaped
            return None
        return f"{boot_id()}:{fields[19]}"
    try:
        import psutil
    except ImportError:
        return _probe(pid)
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


@cache
def boot_id() -> str:
    """Return what tells this machine since its start from every other one, and from itself before; or nothing."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _probe(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return ""
