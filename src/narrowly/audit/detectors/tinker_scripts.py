"""Find jobs of Tinker in scripts and notebooks."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.tinker_jobs import tinker_jobs
from narrowly.audit.record import Job

TOOL = "tinker"
KINDS = ("python", "notebook")
TRIGGERS = (b"tinker",)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return tinker_jobs(file, repository)
