"""Specify where the cells of a study run. No id depends on it: the same study gives the same runs on every engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from narrowly.records.spec import Spec


class LocalEngine(Spec):
    """A pool of processes on this machine."""

    kind: Literal["local"] = "local"
    retries: int = Field(
        0, ge=0, description="times that a cell is tried again whose process died; mostly it ran out of memory"
    )
    gpus: tuple[str, ...] = Field(
        (),
        description="GPUs of this machine, as in CUDA_VISIBLE_DEVICES; each process has one of them alone. Empty: all "
        "that are visible, where cells run on a GPU",
    )


class SlurmEngine(Spec):
    """Arrays of Slurm jobs, through submitit; runs and studies must be on storage that all nodes share."""

    kind: Literal["slurm"] = "slurm"
    partition: str | None = Field(None, min_length=1, description="of the jobs; null: the cluster's default")
    account: str | None = Field(None, min_length=1, description="that the jobs are charged to")
    qos: str | None = Field(None, min_length=1, description="quality of service")
    gres: str | None = Field(None, min_length=1, description="of each task, as `gpu:1`")
    constraint: str | None = Field(None, min_length=1, description="features of nodes, as sbatch takes them")
    minutes: int = Field(
        240, ge=1, description="time limit of a task; 90 seconds before it the run saves its state and is requeued"
    )
    cpus: int = Field(1, ge=1, description="cores of a task")
    memory_gb: float | None = Field(None, gt=0, description="memory of a task; null: the partition's default")
    cells: int = Field(1, ge=1, description="cells that one task does, one after the other")
    parallel: int | None = Field(None, ge=1, description="tasks of an array that run at once; null: no limit of ours")
    requeue: bool = Field(True, description="a preempted task, and one at its time limit, goes back into the queue")
    requeues: int = Field(10, ge=0, description="times that a task at its time limit goes back into the queue")
    retries: int = Field(3, ge=0, description="times that a cell is tried again whose task died")
    on_stop: Literal["detach", "cancel"] = Field(
        "detach", description="what Ctrl-C does to jobs: they go on without the command, or are ended"
    )
    poll_seconds: float = Field(15, ge=0.5, description="between two questions to the scheduler (one squeue)")
    stuck_minutes: float = Field(
        60, gt=0, description="after which jobs that cannot start (nodes down or drained, a hold) end the command"
    )
    setup: tuple[str, ...] = Field((), description="lines of shell before each task, as `module load cuda`")
    sbatch: dict[str, str] = Field(default_factory=dict, description="further options of sbatch, by their long name")


class RayEngine(Spec):
    """Tasks of a Ray cluster; runs and studies must be on storage that all nodes share."""

    kind: Literal["ray"] = "ray"
    address: str | None = Field(
        None,
        min_length=1,
        description="HOST:PORT of a cluster, or `auto` for the one of this machine; null: one is started here and "
        "ended with the command",
    )
    cpus: float = Field(1, gt=0, description="cores of a task")
    gpus: float = Field(0, ge=0, description="GPUs of a task")
    memory_gb: float | None = Field(None, gt=0, description="memory of a task, as Ray counts it; null: not counted")
    cells: int = Field(1, ge=1, description="cells that one task does, one after the other")
    parallel: int | None = Field(None, ge=1, description="tasks that run at once; null: what the cluster has room for")
    retries: int = Field(3, ge=0, description="times that a cell is tried again whose task died; Ray itself tries none")
    stuck_minutes: float = Field(60, gt=0, description="after which tasks that no node has room for end the command")


EngineSpec = Annotated[LocalEngine | SlurmEngine | RayEngine, Field(discriminator="kind")]

ENGINES: dict[str, type[LocalEngine] | type[SlurmEngine] | type[RayEngine]] = {
    "local": LocalEngine,
    "slurm": SlurmEngine,
    "ray": RayEngine,
}
ENGINE_FIELDS = {name for spec in ENGINES.values() for name in spec.model_fields}
