"""The rows of a run on their way to trackers: each in a thread of its own, which training never waits for.

A tracker follows trajectory.jsonl. What it has taken is noted in tracked.jsonl, so that a resumed run, or a finished
one that is asked again, sends what is missing and nothing twice. Nothing here is part of an id.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from narrowly.integrations.trackers import TRACKERS, Start, check_trackers
from narrowly.records.errors import NarrowlyError
from narrowly.records.files import append_jsonl
from narrowly.records.run_spec import ResolvedInputs, RunSpec
from narrowly.runs.directory import SPEED, TRACKED, TRAJECTORY
from narrowly.runs.trajectory import OnStep

FINISH_SECONDS, STOPPED_SECONDS = 30.0, 2.0
"""How long the end of a run waits for trackers to take the last rows, and how long one that is stopped does."""

SHORTEST_SECRET = 6
"""Characters below which the value of an environment variable is a word like any other; ours."""

_SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")


class Reporting:
    """To which trackers runs are reported, and how they are told of a fault.

    Args:
        names: of `TRACKERS`.
        folder: where trackers that write files may write them.
        warn: called with one line, from any thread, where a tracker fails; the run goes on without it.
        group: name of the study that the runs belong to.

    Raises:
        UnknownNameError, SpecError, MissingExtraError: as `check_trackers`.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, warn: Callable[[str], None], group: str | None = None
    ) -> None:
        check_trackers(names)
        self.names, self.folder, self.warn, self.group = tuple(names), folder, warn, group

    def follow(
        self, directory: Path, spec: RunSpec, inputs: ResolvedInputs, base: str, on_step: OnStep | None = None
    ) -> Report:
        """Return the report of one run, for the time that it trains.

        Args:
            directory: of the run.
            spec: of the run.
            inputs: what the names of the spec stand for.
            base: name of its base.
            on_step: called after each step, as without a report.
        """
        config = {"run_id": directory.name, **config_of(spec, base), "inputs": inputs.model_dump(mode="json")}
        return Report(self, directory, config, on_step)


class Report:
    """A run under observation: a context manager that gives the function to call after each step.

    The first step brings along every row that the run directory holds and a tracker lacks; so does the end.
    """

    def __init__(
        self, reporting: Reporting, directory: Path, config: Mapping[str, Any], on_step: OnStep | None
    ) -> None:
        self._reporting, self._directory, self._config, self._on_step = reporting, directory, config, on_step
        self._followers: list[_Follower] = []
        self._live = False

    def __enter__(self) -> OnStep:
        taken = {row.get("tracker"): row["step"] for row in _rows(self._directory / TRACKED)}
        group, folder = self._reporting.group, self._reporting.folder
        for name in self._reporting.names:
            start = Start(self._directory.name, group, self._config, folder, name in taken)
            self._followers.append(
                _Follower(name, start, taken.get(name, -1), self._directory / TRACKED, self._reporting.warn)
            )
        for follower in self._followers:
            follower.start()
        return self._step

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._live:
            self._catch_up(None)
        stopped = kind is not None and not issubclass(kind, Exception)
        seconds = STOPPED_SECONDS if stopped else FINISH_SECONDS
        for follower in self._followers:
            follower.rows.put(kind is not None)
        latest = time.monotonic() + seconds
        for follower in self._followers:
            follower.join(max(0.0, latest - time.monotonic()))
            if follower.is_alive():
                self._reporting.warn(
                    f"tracker {follower.tracker} did not take every row within {seconds:g} s; the same command sends "
                    "the rest"
                )

    def _step(self, step: int, total: int, row: dict[str, Any]) -> None:
        if not self._live:
            self._live = True
            self._catch_up(step)
        self._send(row)
        if self._on_step is not None:
            self._on_step(step, total, row)

    def _catch_up(self, before: int | None) -> None:
        """Send the rows of the run directory, those before a step or all, with their speed where that is known."""
        speed = {row["step"]: row for row in _rows(self._directory / SPEED)}
        for row in _rows(self._directory / TRAJECTORY):
            if before is None or row["step"] < before:
                self._send({**speed.get(row["step"], {}), **row})

    def _send(self, row: Mapping[str, Any]) -> None:
        for follower in self._followers:
            follower.rows.put(dict(row))


class _Follower(threading.Thread):
    """One tracker: opens its run, logs row after row, notes what it has taken; a fault ends it with one warning."""

    def __init__(self, name: str, start: Start, last: int, record: Path, warn: Callable[[str], None]) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)
        self.tracker, self.start_of_run, self.last, self.record, self.warn = name, start, last, record, warn
        self.rows: queue.SimpleQueue[dict[str, Any] | bool] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            with _alone(self.start_of_run.folder, self.tracker):
                tracker = TRACKERS[self.tracker](self.start_of_run)
            while isinstance(row := self.rows.get(), dict):
                if row["step"] > self.last:
                    tracker.log(row["step"], _numbers(row))
                    self.last = row["step"]
                    append_jsonl(self.record, {"tracker": self.tracker, "step": self.last})
            tracker.finish(row)
        except BaseException as error:  # a tracker that calls sys.exit included: this thread is all that ends
            kind = "" if isinstance(error, NarrowlyError) else f"{type(error).__name__}: "
            reason = f"{kind}{_without_secrets(str(error))}"[:300]
            self.warn(
                f"tracker {self.tracker} failed ({reason}); the run goes on without it, the same command sends the rest"
            )


@contextmanager
def _alone(folder: Path, tracker: str) -> Iterator[None]:
    """Let one worker after the other open a tracker: two that make the same local database at once both fail."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{tracker}.lock").open("a") as lock:
        with suppress(ImportError):  # Windows
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _without_secrets(text: str) -> str:
    """Return an error's text on one line, without passwords in addresses and without keys and tokens of our own."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    plain = _USER_IN_URL.sub("***@", " ".join(text.split()))
    return "".join(character if character.isprintable() else "\ufffd" for character in plain)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "step" and isinstance(value, int | float)}


def _rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; one that a kill has torn is left out, for a report must not stop a run."""
    found = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                found.append(row)
    return found


def config_of(spec: RunSpec, base: str) -> dict[str, Any]:
    """Return a spec as trackers show it: base and files by their names, never by a path."""
    config = {**spec.model_dump(mode="json"), "base": base}
    for field in spec.data.names_files:
        value = getattr(spec.data, field)
        config["data"][field] = None if value is None else Path(value).name
    return config
