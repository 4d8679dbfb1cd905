"""What a Ray worker does with a task of ours: run it, with what it prints in a file on the shared storage.

Task and answer are JSON text. The function answers whatever happens, `sys.exit` included, which Ray would take for a
crash and run again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from narrowly.engines.protocol import Task
from narrowly.engines.remote import Shared, run_task


def run_on_ray(task: str, warm_up: str | None, shared: tuple[str, str], log: str) -> str:
    """Run a task given as JSON and return what `run_task` says, as JSON.

    Args:
        task: fields of `Task`.
        warm_up: called once per process.
        shared: file and content that this node must see.
        log: file that gets what the task prints.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # how Ray asks a task to end
    with _printed_to(Path(log)):
        return json.dumps(run_task(Task(**json.loads(task)), warm_up, Shared(*shared)))


@contextmanager
def _printed_to(log: Path) -> Iterator[None]:
    """Send both streams of the process into a file meanwhile; a node without that folder keeps them."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        yield
        return
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(descriptor)
