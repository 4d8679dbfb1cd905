"""Run one task in a process of a cluster: the same environment as in a local worker, and everything as a value.

Also how a task knows that it sees the storage of the command that sent it: a file with a secret name and content.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from narrowly.engines import stopping
from narrowly.engines.protocol import Outcome, Problem, Task
from narrowly.engines.worker import WORKER_ENVIRONMENT, find_function, problem_of
from narrowly.records.files import write_text

LOOKS, LOOK_SECONDS = 10, 1.0
"""How often a file that should be there is looked for: a network file system may show a new one seconds late."""


class Shared(NamedTuple):
    """Name a file that every process sees which shares the storage of the command."""

    file: str
    content: str


def share(folder: Path) -> Shared:
    """Write the file that tasks look for; one per command.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    content = uuid.uuid4().hex
    file = folder / f"shared-{content[:8]}"
    write_text(file, content)
    return Shared(str(file), content)


def sees(shared: Shared) -> bool:
    """Return whether this process sees the storage of the command that wrote the file."""
    for look in range(LOOKS):
        if look:
            time.sleep(LOOK_SECONDS)
        try:
            list(Path(shared.file).parent.iterdir())  # makes a network file system ask its server
            if Path(shared.file).read_text(encoding="utf-8") == shared.content:
                return True
        except OSError:
            continue
    return False


def not_shared(folder: str, node: str) -> Problem:
    """Return the problem of a task whose node does not see the folder; no other task would fare better there."""
    return Problem(
        error=f"{node} does not see {folder}; accepted: a folder of runs (--runs) on storage that all nodes share",
        kind="EngineError",
        traceback="",
        user=True,
        fatal=True,
    )


_warm: set[str] = set()
"""Warm-ups that this process has behind it."""


def run_task(task: Task, warm_up: str | None, shared: Shared | None) -> dict[str, Any]:
    """Run a task and return what became of it as JSON: a result, a problem, or the signal that stopped it.

    Nothing is raised, SystemExit included: engines take an exception or an exit for a reason to try again.

    Args:
        task: what to run.
        warm_up: called once per process before its first task.
        shared: what this process must see; None where its engine knows otherwise.
    """
    os.environ.update(WORKER_ENVIRONMENT)  # before the first import that reads it
    if shared is not None and not sees(shared):
        return {"problem": not_shared(str(Path(shared.file).parent), platform.node())._asdict()}
    try:
        with stopping.hear_signals():
            if warm_up is not None and warm_up not in _warm:
                find_function(warm_up)()
                _warm.add(warm_up)
            return {"result": find_function(task.function)(task.payload)}
    except stopping.Stopped as stop:
        return {"stopped": stop.number}
    except BaseException as error:
        return {"problem": problem_of(error)._asdict()}


def outcome_of(key: str, told: Mapping[str, Any]) -> Outcome | None:
    """Return what `run_task` said as an outcome; None for a task that was stopped and may go on."""
    if "stopped" in told:
        return None
    problem = told.get("problem")
    return Outcome(key, told.get("result"), None if problem is None else Problem(**problem))
