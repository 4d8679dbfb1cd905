"""Turn a spec into what submitit hands to sbatch, and show it without handing it over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from narrowly.engines.extras import needed
from narrowly.engines.slurm_queue import LARGEST_ARRAY
from narrowly.records.engine_spec import SlurmEngine

SIGNAL_SECONDS = 90
"""Before the time limit, when a task is told to save its state."""


class Submission(NamedTuple):
    """Describe one array that would be submitted."""

    tasks: int
    script: str


def parameters_of(spec: SlurmEngine, name: str) -> dict[str, Any]:
    """Return submitit's parameters (SlurmExecutor of 1.5.4) for a spec; `name` is that of the jobs."""
    more: dict[str, Any] = dict(spec.sbatch)
    if spec.requeue:
        more["requeue"] = True
    else:
        more["no-requeue"] = True
    wanted = {
        "job_name": name,
        "time": spec.minutes,
        "partition": spec.partition,
        "account": spec.account,
        "qos": spec.qos,
        "gres": spec.gres,
        "constraint": spec.constraint,
        "cpus_per_task": spec.cpus,
        "mem": None if spec.memory_gb is None else f"{round(spec.memory_gb * 1024)}MB",
        "array_parallelism": spec.parallel or LARGEST_ARRAY,
        "signal_delay_s": SIGNAL_SECONDS,
        "setup": list(spec.setup) or None,
        "stderr_to_stdout": True,
        "additional_parameters": more,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def job_name(folder: Path) -> str:
    """Return the name of a study's jobs: `narrowly-` and the name of the folder that the engine's lies in."""
    return f"narrowly-{folder.parent.name}"


def submissions(spec: SlurmEngine, folder: Path, tasks: int, largest: int = LARGEST_ARRAY) -> list[Submission]:
    """Return the arrays that so many tasks would be submitted as; nothing is written and no scheduler is asked.

    Args:
        spec: of the engine.
        folder: that the engine would write to.
        tasks: number of them.
        largest: tasks of one array.

    Raises:
        MissingExtraError: submitit is not installed.
    """
    slurm = needed("submitit.slurm.slurm", "slurm")
    python = slurm.shlex.quote(slurm.sys.executable)
    command = f"{python} -u -m submitit.core._submit {slurm.shlex.quote(str(folder))}"
    arrays = []
    for start in range(0, tasks, largest):
        count = min(largest, tasks - start)
        found = parameters_of(spec, job_name(folder))
        array = {"map_count": count} if count > 1 else {}
        arrays.append(Submission(count, slurm._make_sbatch_string(command=command, folder=folder, **array, **found)))
    return arrays
