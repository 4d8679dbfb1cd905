"""Programs that are started to be stopped by Ctrl-C, whatever started the tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heard_ctrl_c() -> Iterator[None]:
    """Start a process in here that takes SIGINT for Ctrl-C, as one that a terminal starts does.

    A script that runs its tests in the background (`make test &`, cron, some CI runners) has SIGINT ignored, and every
    process below inherits that: Python then never raises KeyboardInterrupt, and a test of Ctrl-C waits for ever.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    masked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        signal.signal(signal.SIGINT, before)
