"""Stop the work of a process where nothing is lost: Ctrl-C, SIGTERM, and SIGHUP of a terminal that was closed.

A signal ends what is being done with `Stopped`: at once, or inside `patient` not before the work itself asks with
`check`. Signals are heard between `hear_signals`, which only the main thread can call with effect.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

OnRequest = Callable[[int], None]


class Stopped(BaseException):
    """A signal has ended the work.

    Attributes:
        number: of the signal.
        exit_code: what a shell calls a process that this signal ended: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, number: int, text: str = "stopped") -> None:
        super().__init__(text)
        self.number = number
        self.exit_code = 128 + number


class StoppedByCtrlC(Stopped, KeyboardInterrupt):
    """Ctrl-C has ended the work; a program that expects KeyboardInterrupt sees one."""


class Terminated(Stopped, SystemExit):
    """SIGTERM or SIGHUP has ended the work; a program that does not catch it exits with the code of that signal."""

    def __init__(self, number: int, text: str = "stopped") -> None:
        super().__init__(number, text)
        self.code = self.exit_code


def stopped(number: int, text: str = "stopped") -> Stopped:
    """Return the exception for a signal."""
    return (StoppedByCtrlC if number == signal.SIGINT else Terminated)(number, text)


class _Heard:
    """What was asked of this process. Signals belong to a process, so there is one of it."""

    def __init__(self) -> None:
        self.installed: dict[int, Any] = {}
        self.number: int | None = None
        self.patience = 0
        self.second: Any = signal.default_int_handler
        self.text = ""
        self.listeners: list[OnRequest] = []


_heard = _Heard()


def _hear(number: int, frame: FrameType | None) -> None:
    first = _heard.number is None
    if signal.SIGINT in _heard.installed:  # the next Ctrl-C ends at once
        signal.signal(signal.SIGINT, _heard.second)
    if not first:  # `timeout` and some launchers send SIGTERM twice
        return
    _heard.number = number
    for listener in _heard.listeners:
        listener(number)
    if not _heard.patience:
        raise stopped(number, _heard.text)


@contextmanager
def hear_signals(*, text: str = "stopped", second_kills: bool = False) -> Iterator[bool]:
    """Hear signals inside; yield whether they were not heard before (and are, which only the main thread can bring).

    A signal that the program handles itself, or ignores (`nohup`, a job in the background), keeps its way.

    Args:
        text: of `Stopped` outside of `patient`, also where signals are heard already.
        second_kills: the second Ctrl-C ends the process as the system does it, which no long computation can delay,
            where otherwise it raises KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    if _heard.installed:
        outer, _heard.text = _heard.text, text
        try:
            yield False
        finally:
            _heard.text = outer
        return
    untouched = (signal.default_int_handler, signal.SIG_DFL)
    _heard.number, _heard.text = None, text
    _heard.second = signal.SIG_DFL if second_kills else signal.default_int_handler
    _heard.installed = {one: before for one in SIGNALS if (before := signal.getsignal(one)) in untouched}
    for one in _heard.installed:
        signal.signal(one, _hear)
    try:
        yield True
    finally:
        for one, before in _heard.installed.items():
            signal.signal(one, before)
        _heard.installed, _heard.number = {}, None


@contextmanager
def telling(listener: OnRequest) -> Iterator[None]:
    """Call a function with the signal's number as soon as a first one comes; it runs inside the signal's handler."""
    _heard.listeners.append(listener)
    try:
        yield
    finally:
        _heard.listeners.remove(listener)


@contextmanager
def patient(text: str) -> Iterator[None]:
    """Let signals wait inside for `check`; at the end one that still waits is answered.

    Raises:
        Stopped: with the text, where a signal came and nothing inside has answered it.
    """
    _heard.patience += 1
    try:
        yield
    finally:
        _heard.patience -= 1
    check(text)


def is_patient() -> bool:
    """Return whether signals wait for `check` now."""
    return _heard.patience > 0


def requested() -> int | None:
    """Return the number of the signal that asks this process to stop, or None."""
    return _heard.number


def check(text: str = "stopped") -> None:
    """Stop here, where a signal asks for it.

    Raises:
        Stopped: with the text.
    """
    if _heard.number is not None:
        raise stopped(_heard.number, text)


def leave_to_parent(*, sigterm: bool) -> None:
    """Ignore what a terminal sends to all its processes, because the parent decides; SIGTERM too where it is said."""
    for name in ("SIGINT", "SIGHUP", *(("SIGTERM",) if sigterm else ())):
        with suppress(AttributeError, ValueError, OSError):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
