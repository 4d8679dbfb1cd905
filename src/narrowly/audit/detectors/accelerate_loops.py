"""Find loops with Accelerate: an optimiser in a script that makes an Accelerator."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.loop_jobs import loop_jobs
from narrowly.audit.record import Job

TOOL = "accelerate"
KINDS = ("python", "notebook")
TRIGGERS = (b"Accelerator",)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return loop_jobs(file, repository, TOOL)
