"""What a Slurm job of ours does: read its task, run it, write what became of it.

Slurm ends a job by SIGTERM (preemption, requeue, scancel) and 90 seconds before its time limit by SIGUSR2. On either a
run in training finishes its step and saves its state. At the time limit the job then puts itself back into the queue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from narrowly.engines.protocol import Task
from narrowly.engines.remote import run_task
from narrowly.records.files import read_record, write_json

RESULT = ".result.json"
"""Ending of the file that has what became of a task, beside the task's own."""


def result_file(task_file: Path) -> Path:
    """Return where a task says what became of it."""
    return task_file.with_name(task_file.name.removesuffix(".json") + RESULT)


def job_of(environment: Mapping[str, str]) -> str:
    """Return the id of a job from its environment; in an array that is ARRAY_INDEX.

    SLURM_JOB_ID of one task of each array is the array's own id: a command on it would act on all of them.
    """
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environment.get("SLURM_JOB_ID", "")


def run_job(task_file: str, warm_up: str | None, requeues: int) -> None:
    """Run the task in a file; the function that submitit calls in the job.

    Args:
        task_file: JSON with the fields of `Task`.
        warm_up: called before the task.
        requeues: times that the job may put itself back into the queue at its time limit; 0 for never.
    """
    path = Path(task_file)
    at_limit: list[int] = []

    def near_limit(number: int, frame: FrameType | None) -> None:
        at_limit.append(number)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit's own handler only writes a line
    signal.signal(signal.SIGUSR2, near_limit)
    result_file(path).unlink(missing_ok=True)  # of the time before the job was requeued
    job = job_of(os.environ)
    again = os.environ.get("SLURM_RESTART_COUNT", "0")
    print(f"{path.name}: job {job} on {os.environ.get('SLURMD_NODENAME', '?')}, restart {again}", flush=True)
    told = run_task(Task(**read_record(path)), warm_up, None)
    sys.stdout.flush()
    write_json(result_file(path), told)
    if "stopped" in told and at_limit and int(again or 0) < requeues:
        subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)
