"""Open the engine that a spec names, or say in one line why it cannot be used."""

from __future__ import annotations

from pathlib import Path

from narrowly.engines.protocol import Executor
from narrowly.records.engine_spec import RayEngine, SlurmEngine


def open_cluster(spec: SlurmEngine | RayEngine, folder: Path, warm_up: str | None, workers: int = 0) -> Executor:
    """Reach a cluster.

    Args:
        spec: of the engine.
        folder: for what the engine writes, on storage that all nodes share; made once there is something to write.
        warm_up: `package.module:function` that each process calls once before its first task.
        workers: tasks that run at once, in place of the spec's `parallel`; 0 for that.

    Raises:
        MissingExtraError: the engine's package is not installed.
        EngineError: no cluster is reached, or it cannot do what the spec asks for.
    """
    chosen = spec if not workers else spec.model_copy(update={"parallel": workers})
    if isinstance(chosen, SlurmEngine):
        from narrowly.engines.slurm import SlurmExecutor

        return SlurmExecutor(chosen, folder.absolute(), warm_up)
    from narrowly.engines.ray_cluster import RayExecutor

    return RayExecutor(chosen, folder.absolute(), warm_up)
