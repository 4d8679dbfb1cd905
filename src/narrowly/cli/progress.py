"""Live progress: a bar where standard error is a terminal, plain lines where it is not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from narrowly.cli.terminal import duration, error_console, safe
from narrowly.study.execution import StudyObserver

PLAIN_SECONDS = 5.0
"""Seconds between two plain lines of the same kind."""


def bar() -> Progress:
    """Return a progress bar on standard error; the field `note` of a task is shown at the end."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=error_console(),
        transient=True,
    )


class _Display:
    """Starts and stops the bar of a progress display, where there is a terminal to draw it on."""

    _live: Progress | None

    def stopping(self, number: int) -> None:
        """Show that a signal was heard; safe to call in its handler, which may interrupt a line that is written."""
        if self._live:
            # a second Ctrl-C leaves no time to bring the cursor back
            self._live.console.show_cursor(True)
            for task in self._live.task_ids:
                self._live.update(task, description="stopping", note="after this step; Ctrl-C again: at once")

    def say(self, text: str) -> None:
        """Print a line above the bar, or as it is where there is none."""
        (self._live.console if self._live else error_console()).print(Text(text))

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()


class StudyProgress(_Display, StudyObserver):
    """Shows cells done, throughput, time left and failures; a context manager."""

    def __init__(self) -> None:
        self._console = error_console()
        self._live = bar() if self._console.is_terminal else None
        self._task = self._live.add_task("starting workers", total=None, note="") if self._live else None
        self._total = self._before = self._done = self._failed = 0
        self._start = self._said = time.monotonic()

    @property
    def state(self) -> str:
        """Return `12 of 72 cells are done`."""
        if not self._total:
            return "no cell was begun"
        return f"{self._before + self._done} of {self._total} cells are done"

    def resolving(self, done: int, total: int) -> None:
        """Show how many cells have their run-id."""
        if self._live and self._task is not None:
            self._live.update(self._task, description="reading bases and data", completed=done, total=total)
        elif done == 0:
            self._line("starting workers")

    def replaced(self, study_dir: Path) -> None:
        """Say that the study file changed: what the folder showed before is shown no longer."""
        name = safe(study_dir)
        self._line(f"{name} held another version of this study: its runs are kept, its tables and report are replaced")

    def planned(self, total: int, done: int, estimate: float | None, workers: int) -> None:
        """Show what is left, and how long it takes where cells of this study have been timed."""
        self._total, self._before = total, done
        self._done = self._failed = 0  # one display may show several studies, one after the other
        self._start = time.monotonic()
        already = f", {done} done already" if done else ""
        time_left = "" if estimate is None else f"about {duration(estimate)} "
        left = f"; {time_left}on {workers} worker{'s' * (workers != 1)}" if done < total and workers else ""
        self._line(f"{total} cells{already}{left}")
        if self._live and self._task is not None:
            self._live.update(self._task, description="cells", completed=done, total=total, note="")

    def finished(self, cell_id: str, error: str | None, seconds: float | None) -> None:
        """Count a cell; a failure is shown at once."""
        self._done += error is None
        self._failed += error is not None
        if error is not None:
            self._line(f"FAILED {cell_id}: {safe(error)}", "red")
        if self._live and self._task is not None:
            self._live.update(self._task, completed=self._before + self._done + self._failed, note=self._note())
        elif error is None:
            took = f" in {seconds:.1f} s" if seconds is not None else " (by another command)"
            self._line(f"[{self._before + self._done}/{self._total}] {cell_id}{took}; {self._note()}")

    def working(self, in_flight: Sequence[str], elsewhere: int) -> None:
        """Keep the clock going; say where only another command's cells are left."""
        if self._live and self._task is not None:
            self._live.update(self._task, note=self._note(elsewhere))
        elif elsewhere and not in_flight and time.monotonic() - self._said > PLAIN_SECONDS:
            self._line(f"waiting for {elsewhere} cells that another command works on")

    def said(self, text: str) -> None:
        """Show a line of the engine."""
        self._line(safe(text), "yellow")

    def _note(self, elsewhere: int = 0) -> str:
        finished = self._done + self._failed
        elapsed = time.monotonic() - self._start
        left = self._total - self._before - finished
        pace = f"{_pace(finished / elapsed)}, " if finished and elapsed > 0 else ""
        remaining = f"{duration(elapsed / finished * left)} left" if finished else f"{duration(elapsed)} so far"
        failed = f", {self._failed} failed" if self._failed else ""
        shared = f", {elsewhere} with another command" if elsewhere else ""
        return f"{pace}{remaining}{failed}{shared}"

    def _line(self, text: str, style: str = "") -> None:
        self._said = time.monotonic()
        target = self._live.console if self._live else self._console
        target.print(Text(text, style=style))


def _pace(per_second: float) -> str:
    return f"{60 * per_second:.0f} cells/min" if per_second > 0.1 else f"{3600 * per_second:.1f} cells/h"


class StepProgress(_Display):
    """Progress over the steps of one training; a context manager with `on_step(step, total, note)`."""

    def __init__(self, what: str) -> None:
        self._console = error_console()
        self._what = what
        self._live = bar() if self._console.is_terminal else None
        self._task = self._live.add_task(what, total=None, note="") if self._live else None
        self._start = self._said = time.monotonic()
        self._first: int | None = None

    def on_step(self, step: int, total: int, note: str = "") -> None:
        """Show that `step` of `total` are done, and from the second step of this command on the time that is left.

        The clock starts with the end of the first step: imports, loading and warm-up are behind it, and so are the
        steps before a resume.
        """
        now = time.monotonic()
        if self._first is None or step <= self._first:
            self._first, self._start, text = step, now, note
        else:
            left = (now - self._start) / (step - self._first) * (total - step)
            text = f"{note}  {duration(left)} left"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=step, total=total, note=text)
        elif now - self._said > PLAIN_SECONDS:
            self._said = now
            self._console.print(Text(f"{self._what}: step {step} of {total}; {text}"))
