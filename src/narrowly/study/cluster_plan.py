"""Say what a cluster would get of a study, without asking it or submitting anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from narrowly.records.engine_spec import RayEngine, SlurmEngine
from narrowly.records.study_spec import StudySpec
from narrowly.study.layout import ENGINE_FOLDER


def cluster_plan(study: StudySpec, study_dir: Path, left: int, workers: int = 0) -> dict[str, Any] | None:
    """Return what would be submitted for the cells that are left; None for the local engine.

    Keys: engine, cells (of a task, at most), tasks; of Slurm also arrays, each with its number of tasks and its script.

    Args:
        study: with its `engine`.
        study_dir: folder of the study.
        left: cells that are not done.
        workers: tasks at once; 0 as the engine says.

    Raises:
        MissingExtraError: the scripts need submitit, which is not installed.
    """
    spec = study.engine
    if not isinstance(spec, SlurmEngine | RayEngine):
        return None
    tasks = math.ceil(left / spec.cells)
    told: dict[str, Any] = {"engine": spec.kind, "cells": spec.cells, "tasks": tasks}
    if isinstance(spec, SlurmEngine):
        from narrowly.engines.slurm_script import submissions

        chosen = spec.model_copy(update={"parallel": workers}) if workers else spec
        told["arrays"] = [one._asdict() for one in submissions(chosen, (study_dir / ENGINE_FOLDER).absolute(), tasks)]
    return told
