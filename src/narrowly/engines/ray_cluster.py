"""Run tasks on a Ray cluster: one that is there, by its address, or one of this machine that ends with the command.

Ray 2.60 runs a plain task again, up to three times, when its process exits or is killed. Here it runs none again
(max_retries=0): a task that died is an outcome, and the claims of runs decide who does what is left.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from narrowly.engines.extras import needed
from narrowly.engines.local import usable_cores
from narrowly.engines.protocol import WORKER_DIED, Outcome, Place, Problem, Task
from narrowly.engines.ray_job import run_on_ray
from narrowly.engines.remote import Shared, outcome_of, share
from narrowly.records.engine_spec import RayEngine
from narrowly.records.errors import EngineError

REACH_SECONDS = 10.0
"""For the first answer of an address."""

STARTS = 4
"""Tries to start a cluster here: Ray gives its own processes 30 seconds, in which a busy machine starts none."""

OBJECT_STORE_BYTES = 100_000_000
"""Of a cluster that is started here: tasks and answers are short texts; Ray would take 30 % of the memory."""

AHEAD = 2
"""Tasks sent ahead for each that can run at once, so that no core waits; the rest is queued here."""

LOOK_SECONDS = 30.0
"""Between two questions whether a node has room for a task at all."""


class RayExecutor:
    """Run tasks on a Ray cluster; nothing on it outlives the command.

    Args:
        spec: what is asked for.
        folder: for logs, on storage that all nodes share.
        warm_up: `package.module:function` that each process calls once before its first task.

    Raises:
        MissingExtraError: ray is not installed.
        EngineError: no cluster is reached, or the one started here has no room for a task.
    """

    name = "ray"

    def __init__(self, spec: RayEngine, folder: Path, warm_up: str | None = None) -> None:
        self._ray: Any = needed("ray", "ray")
        self._spec, self._folder, self._warm_up = spec, folder, warm_up
        self._waiting: deque[Task] = deque()
        self._sent: dict[Any, Task] = {}
        self._notes: list[str] = []
        self._shared: Shared | None = None
        self._no_room_since: float | None = None
        self._next_look = 0.0
        if spec.address is not None:
            _reach(spec.address)
        with _own_signals():
            self._connect()
        resources = {"num_cpus": spec.cpus, "num_gpus": spec.gpus}
        if spec.memory_gb is not None:
            resources["memory"] = spec.memory_gb * 1e9
        self._function = self._ray.remote(max_retries=0, **resources)(run_on_ray)
        self.slots = self._count_slots()
        self._check_room()

    def _connect(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
        if self._spec.address is None:
            cores = self._spec.parallel * self._spec.cpus if self._spec.parallel else usable_cores()
            options |= {"num_cpus": max(1, int(cores)), "object_store_memory": OBJECT_STORE_BYTES}
        else:
            options = {"address": self._spec.address, "log_to_driver": False, "configure_logging": False}
        for left in reversed(range(STARTS if self._spec.address is None else 1)):
            try:
                self._ray.init(**options)
                return
            except Exception as error:  # its own classes differ by what is wrong
                self._ray.shutdown()
                if not left or "timed out" not in str(error):
                    where = self._spec.address or "this machine"
                    raise EngineError(f"no Ray cluster is reached at {where}: {_one_line(error)}") from error

    def _count_slots(self) -> int:
        """Return how many tasks run at once by cores and GPUs of all nodes, or as many as `parallel` says."""
        found = self._ray.cluster_resources()
        slots = int(found.get("CPU", 0) // self._spec.cpus)
        if self._spec.gpus:
            slots = min(slots, int(found.get("GPU", 0) // self._spec.gpus))
        return min(slots, self._spec.parallel) if self._spec.parallel else slots

    def _check_room(self) -> None:
        """Say where no node can ever run a task.

        Raises:
            EngineError: on a cluster of this command's own at once, on another one after `stuck_minutes`.
        """
        need = {"CPU": self._spec.cpus, "GPU": self._spec.gpus, "memory": (self._spec.memory_gb or 0) * 1e9}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(node.get(what, 0) >= amount for what, amount in need.items()) for node in nodes):
            self._no_room_since = None
            return
        wanted = ", ".join(
            f"{amount / 1e9:g} GB of memory" if what == "memory" else f"{amount:g} {what}"
            for what, amount in need.items()
            if amount
        )
        text = f"no node of the Ray cluster has {wanted}, as a task asks for"
        now = time.monotonic()
        first, self._no_room_since = self._no_room_since is None, self._no_room_since or now
        if self._spec.address is None or now - self._no_room_since > 60 * self._spec.stuck_minutes:
            self.cancel()
            raise EngineError(text)
        if first:
            self._notes.append(f"{text}; waiting for one")

    def adopt(self) -> list[Task]:
        """Return nothing: Ray ends tasks with the command that sent them."""
        return []

    def submit(self, task: Task) -> None:
        """Queue a task; tasks start in the order in which they were submitted."""
        self._waiting.append(task)

    def in_flight(self) -> list[str]:
        """Return the keys of the tasks that Ray has."""
        return [task.key for task in self._sent.values()]

    def places(self) -> dict[str, Place]:
        """Return where the lines of the tasks go; which node has a cell is in its claim."""
        return {task.key: Place("Ray", str(self._log(task.key))) for task in self._sent.values()}

    def notes(self) -> list[str]:
        """Return what is to be said of the cluster since the last call."""
        told, self._notes = self._notes, []
        return told

    def _log(self, key: str) -> Path:
        return self._folder / "logs" / f"{key}.log"

    def poll(self, timeout: float) -> list[Outcome]:
        """Send what there is room for, and return what has finished, waiting at most `timeout` seconds for the first.

        Raises:
            EngineError: no node has had room for a task for `stuck_minutes`.
        """
        self._fill()
        if not self._sent:
            time.sleep(min(timeout, 0.05))
            return []
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self.slots = self._count_slots()
            self._check_room()
        ready, _ = self._ray.wait(list(self._sent), num_returns=1, timeout=timeout)
        if ready:  # and all others that have come meanwhile
            ready, _ = self._ray.wait(list(self._sent), num_returns=len(self._sent), timeout=0)
        return [outcome for reference in ready if (outcome := self._take(reference)) is not None]

    def _fill(self) -> None:
        most = self._spec.parallel or AHEAD * max(1, self.slots)
        while self._waiting and len(self._sent) < most:
            if self._shared is None:
                self._shared = share(self._folder)
                (self._folder / "logs").mkdir(exist_ok=True)
            task = self._waiting.popleft()
            text = json.dumps(task._asdict())
            reference = self._function.remote(text, self._warm_up, tuple(self._shared), str(self._log(task.key)))
            self._sent[reference] = task

    def _take(self, reference: Any) -> Outcome | None:
        task = self._sent.pop(reference)
        try:
            told = json.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            why = f"its Ray worker died ({type(error).__name__}: {_one_line(error)})"
            return Outcome(task.key, None, Problem(why, WORKER_DIED, traceback="", user=False, fatal=False))
        outcome = outcome_of(task.key, told)
        if outcome is None:  # somebody has interrupted the worker, its run is saved
            self._waiting.append(task)
        return outcome

    def stop(self) -> str:
        """Ask every task to stop, and wait until all have: those that train finish and save their step."""
        self._waiting.clear()
        for reference in self._sent:
            self._ray.cancel(reference, force=False)
        while self._sent:
            ready, _ = self._ray.wait(list(self._sent), num_returns=1, timeout=1.0)
            for reference in ready:
                del self._sent[reference]
        return ""

    def cancel(self) -> None:
        """End every task now, and the cluster too where it is this command's own."""
        self._waiting.clear()
        for reference in self._sent:
            with suppress(Exception):  # the cluster may be gone
                self._ray.cancel(reference, force=True)
        self._sent.clear()
        if self._ray.is_initialized():
            self._ray.shutdown()
        if self._shared is not None:
            Path(self._shared.file).unlink(missing_ok=True)
            self._shared = None


def _reach(address: str) -> None:
    """Check that something answers at HOST:PORT; Ray itself would try for a minute and print pages.

    Raises:
        EngineError: nothing does, or the address is none.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise EngineError(f"engine.address is {address!r}, accepted: HOST:PORT of the head node, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"no Ray cluster is reached at {address}: {getattr(error, 'strerror', None) or error}"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this process, of which Ray replaces that of SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError, TypeError):  # not the main thread, or a handler that is not Python's
                signal.signal(number, handler)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]}..."
