"""Run tasks as arrays of Slurm jobs, through submitit.

The command writes one file per task, submits arrays, and then looks every `poll_seconds`: one listing of its folder and
one squeue. Jobs live without the command: the next one takes them up again. What a task says comes back as JSON.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from narrowly.engines.extras import needed
from narrowly.engines.protocol import CANCELLED, WORKER_DIED, Outcome, Place, Problem, Task
from narrowly.engines.remote import not_shared, outcome_of
from narrowly.engines.slurm_job import RESULT, result_file, run_job
from narrowly.engines.slurm_queue import (
    JobState,
    cancel,
    check_cluster,
    largest_array,
    nodes_out_of_use,
    said,
    states_of,
)
from narrowly.engines.slurm_script import job_name, parameters_of
from narrowly.records.engine_spec import SlurmEngine
from narrowly.records.errors import EngineError, IntegrityError, RunDirectoryError, counted
from narrowly.records.files import read_record, write_json

GRACE_SECONDS = 20.0
"""Between the end of a job and the verdict that it left no result: a network file system may show files late."""

SAY_SECONDS = 600.0
"""Between two notes of the same kind."""

LONG_WAIT_SECONDS = 1800.0
"""After which it is said once that no task has started, though nothing is wrong with the nodes."""


class _Job:
    """Hold a task that was submitted: its file, what the scheduler said last, and when it was seen to have ended."""

    def __init__(self, task: Task, file: Path) -> None:
        self.task, self.file = task, file
        self.state: JobState | None = None
        self.ended: float | None = None


class SlurmExecutor:
    """Run tasks as Slurm jobs of this user.

    Args:
        spec: what is asked for.
        folder: for scripts, task files and logs, on storage that all nodes share.
        warm_up: `package.module:function` that each task calls first.

    Raises:
        MissingExtraError: submitit is not installed.
        EngineError: no controller answers, or the partition does not exist.
    """

    name, slots = "slurm", 0

    def __init__(self, spec: SlurmEngine, folder: Path, warm_up: str | None = None) -> None:
        self._submitit = needed("submitit", "slurm")
        check_cluster(spec.partition)
        self._spec, self._folder, self._warm_up = spec, folder, warm_up
        self._tasks, self._arrays = folder / "tasks", folder / "arrays"
        self._queued: list[Task] = []
        self._jobs: dict[str, _Job] = {}
        self._stops: Counter[str] = Counter()
        self._notes: list[str] = []
        self._said: dict[str, float] = {}
        self._stuck_since: float | None = None
        self._silent_since: float | None = None
        self._next_look = 0.0
        self._left = False

    def adopt(self) -> list[Task]:
        """Return the tasks of this folder that wait or run, whoever submitted them; forget arrays that have ended."""
        found: dict[str, Path] = {}
        records = {}
        for record in sorted(self._arrays.glob("*.json")):
            with suppress(IntegrityError):
                records[record] = {job: self._tasks / str(name) for job, name in read_record(record).items()}
                found.update(records[record])
        states = states_of(found) if found else {}
        adopted = []
        for job, file in found.items():
            if job in states and states[job].active:
                with suppress(IntegrityError, TypeError):
                    self._jobs[job] = _Job(Task(**read_record(file)), file)
                    adopted.append(self._jobs[job].task)
        for record, jobs in records.items():
            if not any(job in self._jobs for job in jobs):
                record.unlink(missing_ok=True)
        if adopted:
            self._notes.append(f"taken up again: {counted(len(adopted), 'Slurm task')} of an earlier command")
        return adopted

    def submit(self, task: Task) -> None:
        """Queue a task; all that are queued become arrays at the next `poll`."""
        self._queued.append(task)

    def in_flight(self) -> list[str]:
        """Return the keys of the tasks that run, as far as the scheduler has said it."""
        return [job.task.key for job in self._jobs.values() if job.state is not None and job.state.node]

    def places(self) -> dict[str, Place]:
        """Return job and node of every task, and where its lines go."""
        found = {}
        for name, job in self._jobs.items():
            node = "" if job.state is None else job.state.node
            found[job.task.key] = Place(
                f"Slurm job {name}{f' on {node}' if node else ', waiting'}", str(self._log(name))
            )
        return found

    def notes(self) -> list[str]:
        """Return what is to be said of the queue since the last call."""
        told, self._notes = self._notes, []
        return told

    def _log(self, job: str) -> Path:
        return self._folder / f"{job}_0_log.out"

    def poll(self, timeout: float) -> list[Outcome]:
        """Submit what is queued, and return what has finished; the scheduler is asked every `poll_seconds`.

        Raises:
            EngineError: Slurm refuses the jobs, or they have been unable to start for `stuck_minutes`.
        """
        self._flush()
        wait = self._next_look - time.monotonic()
        if wait > 0 or not self._jobs:
            time.sleep(min(timeout, max(wait, 0.05)))
            return []
        found = self._look()
        self._next_look = time.monotonic() + self._spec.poll_seconds
        return found

    def _flush(self) -> None:
        while self._queued:
            chunk = self._queued[: largest_array()]
            self._submit(chunk)
            del self._queued[: len(chunk)]

    def _submit(self, tasks: list[Task]) -> None:
        """Write the files of tasks and submit them as one array."""
        files = [self._tasks / f"{uuid.uuid4().hex}.json" for _ in tasks]
        for file, task in zip(files, tasks, strict=True):
            write_json(file, task._asdict())
        executor = self._submitit.SlurmExecutor(self._folder, max_num_timeout=0)
        executor.update_parameters(**parameters_of(self._spec, job_name(self._folder)))
        requeues = self._spec.requeues if self._spec.requeue else 0
        count = len(files)
        try:
            submitted = executor.map_array(run_job, map(str, files), [self._warm_up] * count, [requeues] * count)
        except (self._submitit.core.utils.FailedJobError, self._submitit.core.utils.FailedSubmissionError) as error:
            raise EngineError(f"Slurm refused the jobs: {said(_own_words(str(error)))}") from error
        jobs = [str(job.job_id) for job in submitted]
        for job, file, task in zip(jobs, files, tasks, strict=True):
            self._jobs[job] = _Job(task, file)
        write_json(
            self._arrays / f"{jobs[0].split('_')[0]}.json", dict(zip(jobs, (f.name for f in files), strict=True))
        )

    def _look(self) -> list[Outcome]:
        states = self._ask()
        if states is None:
            return []
        there = {path.name for path in self._tasks.iterdir() if path.name.endswith(RESULT)}
        found = []
        for name, job in list(self._jobs.items()):
            job.state = states.get(name)
            told = self._told(job) if result_file(job.file).name in there else None
            outcome = self._judge(name, job, told)
            if outcome is not None:
                del self._jobs[name]
                found.append(outcome)
        self._complain(states)
        return found

    def _ask(self) -> dict[str, JobState] | None:
        """Return what the scheduler says, or None where it does not answer just now."""
        try:
            states = states_of(self._jobs)
        except EngineError as error:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if now - self._silent_since > 60 * self._spec.stuck_minutes:
                raise
            self._say("silent", f"{error}; asking again")
            return None
        self._silent_since = None
        return states

    def _told(self, job: _Job) -> dict[str, Any] | None:
        try:
            return read_record(result_file(job.file))
        except IntegrityError:  # it is being replaced
            return None

    def _judge(self, name: str, job: _Job, told: dict[str, Any] | None) -> Outcome | None:
        """Return the outcome of a job, or None while it waits or runs, or goes back into the queue."""
        key, state = job.task.key, job.state
        if told is not None and "stopped" not in told:
            return outcome_of(key, told)
        if state is not None and state.active:
            job.ended = None
            return None
        if state is not None and state.state == "CANCELLED":
            return Outcome(key, None, _problem(f"Slurm job {name} was cancelled", CANCELLED))
        if told is not None:
            self._stops[key] += 1
            if self._stops[key] > self._spec.requeues:
                return Outcome(key, None, _problem(f"Slurm job {name} was stopped {self._stops[key]} times", CANCELLED))
            del self._jobs[name]
            self._queued.append(job.task)
            self._say(f"stopped {key}", f"Slurm job {name} was stopped with its state saved; it is submitted again")
            return None
        job.ended = job.ended or time.monotonic()
        if time.monotonic() - job.ended < GRACE_SECONDS:
            return None
        if state is not None and state.state in ("FAILED", "COMPLETED") and not self._log(name).exists():
            return Outcome(key, None, not_shared(str(self._folder), state.node or "a node"))
        how = "is forgotten by the scheduler" if state is None else f"ended as {state.state}"
        advice = "; ask for more with engine.memory_gb" if state is not None and "MEMORY" in state.state else ""
        return Outcome(key, None, _problem(f"Slurm job {name} {how} and left no result{advice}", WORKER_DIED))

    def _complain(self, states: dict[str, JobState]) -> None:
        """Say what keeps tasks waiting, and give up where nothing but a person can change it."""
        active = [states[name] for name in self._jobs if name in states and states[name].active]
        stuck = [one for one in active if one.stuck]
        now = time.monotonic()
        if not stuck or len(stuck) < len(active):
            self._stuck_since = None
        if stuck:
            reason = Counter(one.reason for one in stuck).most_common(1)[0][0]
            out = nodes_out_of_use(self._spec.partition)
            text = f"{counted(len(stuck), 'Slurm task')} cannot start: {reason}{f'; {out}' if out else ''}"
            self._say("stuck", text)
            if len(stuck) == len(active):
                self._stuck_since = self._stuck_since or now
                if now - self._stuck_since > 60 * self._spec.stuck_minutes:
                    raise EngineError(f"{text}; given up after {self._spec.stuck_minutes:g} minutes")
        elif active and not any(one.node for one in active):
            self._said.setdefault("waiting", now - SAY_SECONDS + LONG_WAIT_SECONDS)
            reason = Counter(one.reason for one in active).most_common(1)[0][0]
            self._say("waiting", f"no Slurm task of this study runs; waiting: {len(active)} ({reason})")

    def _say(self, kind: str, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(kind, -SAY_SECONDS) >= SAY_SECONDS:
            self._said[kind] = now
            self._notes.append(text)

    def stop(self) -> str:
        """Leave the jobs, or end them and wait until their runs are saved, as `on_stop` says."""
        self._queued.clear()
        if not self._jobs:
            return ""
        arrays = " ".join(dict.fromkeys(name.split("_")[0] for name in self._jobs))
        if self._spec.on_stop == "detach":
            self._left = True
            return (
                f"left in Slurm's queue: {counted(len(self._jobs), 'task')}, which go on without this command; the "
                f"same command takes them up again, and `scancel {arrays}` ends them"
            )
        cancel(self._jobs)
        while any(state.active for state in states_of(self._jobs).values()):
            time.sleep(min(self._spec.poll_seconds, 2.0))
        told = f"ended: {counted(len(self._jobs), 'Slurm task')}"
        self._jobs.clear()
        return told

    def cancel(self) -> None:
        """End every job that this command still waits for, unless it has left them on purpose."""
        self._queued.clear()
        if self._jobs and not self._left:
            with suppress(EngineError, RunDirectoryError):
                cancel(self._jobs)
        self._jobs.clear()


def _own_words(text: str) -> str:
    """Return the lines of a refusal that Slurm itself has written."""
    own = [line for line in text.splitlines() if line.strip().startswith(("sbatch:", "srun:", "slurm"))]
    return "\n".join(own) or text


def _problem(error: str, kind: str) -> Problem:
    return Problem(error=error, kind=kind, traceback="", user=False, fatal=False)
