"""Find plain PyTorch loops: an optimiser made in a script that calls `backward` or `step`."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.loop_jobs import loop_jobs
from narrowly.audit.record import Job

TOOL = "torch"
KINDS = ("python", "notebook")
TRIGGERS = (b"optim", b"backward(")


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return loop_jobs(file, repository, TOOL)
