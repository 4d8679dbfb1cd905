"""Find loops around a DeepSpeed engine: `deepspeed.initialize` with an optimiser or a configuration."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.loop_jobs import loop_jobs
from narrowly.audit.record import Job

TOOL = "deepspeed"
KINDS = ("python", "notebook")
TRIGGERS = (b"deepspeed",)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return loop_jobs(file, repository, TOOL)
