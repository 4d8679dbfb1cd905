"""Serve tasks in a worker process: warm up once, run one after the other, end with the parent.

A task is a function by name (`package.module:function`) and a JSON-able payload, so the same tasks can be sent to a
cluster. Nothing here knows what a cell is.
"""

from __future__ import annotations

import builtins
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from narrowly.engines import stopping
from narrowly.engines.lifeline import die_with_parent
from narrowly.engines.protocol import WORKER_DIED, Problem
from narrowly.records import errors
from narrowly.records.errors import NarrowlyError, TrainingError

_ADVICE = {errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.EROFS: "mount it for writing"}
"""What helps, by the error of the system that every other task must meet too."""

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
"""Environment of a worker: one thread each, because as many workers run as there are cores."""

WORKER_ENVIRONMENT = {
    **ONE_THREAD,
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def find_function(name: str) -> Callable[..., Any]:
    """Return the function that `package.module:function` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def problem_of(error: BaseException) -> Problem:
    """Describe an exception in one line, with its traceback beside it."""
    name = type(error).__name__
    text = " ".join(str(error).split())
    user = isinstance(error, NarrowlyError)
    numbers = [cause.errno for cause in _causes(error) if isinstance(cause, OSError)]
    advice = next((f"; {_ADVICE[number]}" for number in numbers if number in _ADVICE), "")
    return Problem(
        error=(text if user and text else f"{name}: {text}" if text else name) + advice,
        kind=name,
        traceback="".join(traceback.format_exception(error)),
        user=user,
        fatal=bool(advice),
    )


def error_of(problem: Problem) -> Exception:
    """Return the error that a problem in a worker stands for: ours in its own class, a bug with its traceback.

    A dead worker, a module that is missing and an error of the system are no bugs, and stay one line.
    """
    known = getattr(errors, problem.kind, None)
    if problem.user and isinstance(known, type) and issubclass(known, NarrowlyError):
        return known(problem.error)
    builtin = getattr(builtins, problem.kind, None)
    expected = isinstance(builtin, type) and issubclass(builtin, OSError | ImportError | MemoryError)
    if problem.kind == WORKER_DIED or expected:
        return TrainingError(problem.error)
    bug = RuntimeError(f"in a worker process: {problem.error}")
    bug.add_note(problem.traceback)
    return bug


def serve(connection: Connection, lifeline: Connection, parent: int, warm_up: str | None) -> None:
    """Run tasks from `connection` until it closes, or until SIGTERM, which a run in training answers after its step.

    Receives (key, function, payload); sends ("ready", None, None) once, then for each task ("done", key, result) or
    ("failed", key, Problem); ("cannot start", None, Problem) where the warm-up fails.

    Args:
        connection: the parent's pipe.
        lifeline: a pipe that closes when the parent dies.
        parent: the parent's pid.
        warm_up: a function to call first, once (slow imports).
    """
    die_with_parent(parent, lifeline)
    stopping.leave_to_parent(sigterm=False)
    try:
        with stopping.hear_signals():
            _serve(connection, warm_up)
    except stopping.Stopped as stop:
        sys.exit(stop.exit_code)


def _serve(connection: Connection, warm_up: str | None) -> None:
    try:
        if warm_up is not None:
            find_function(warm_up)()
    except Exception as error:
        _send(connection, ("cannot start", None, problem_of(error)))
        return
    _send(connection, ("ready", None, None))
    while True:
        try:
            key, function, payload = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = find_function(function)(payload)
        except Exception as error:
            _send(connection, ("failed", key, problem_of(error)))
        else:
            _send(connection, ("done", key, result))
        sys.stdout.flush()


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionError):  # the parent has gone; so shall we
        os._exit(1)
