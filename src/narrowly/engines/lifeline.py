"""End processes with the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WATCH_SECONDS = 1.0


def die_with_parent(parent: int, lifeline: Connection) -> None:
    """Make sure that this process ends when its parent does.

    On Linux the kernel sends SIGKILL; everywhere a thread waits for the parent's end of `lifeline` to close and
    looks at the parent's pid once a second. (The kernel's signal comes when the thread that started us ends: start
    processes from a thread that lives as long as they are needed.)

    Args:
        parent: the parent's pid.
        lifeline: a pipe that closes when the parent dies.
    """
    if platform.system() == "Linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            try:
                if lifeline.poll(_WATCH_SECONDS):
                    lifeline.recv_bytes()
            except (EOFError, OSError):
                break
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
    if os.getppid() != parent:  # it died before we could ask the kernel
        os._exit(1)


def how_it_died(code: int | None) -> str:
    """Return how a process ended, from the exit code of `multiprocessing`: negative for a signal."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}" + ("; perhaps it ran out of memory" if name == "SIGKILL" else "")
