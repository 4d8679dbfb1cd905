"""Find Lightning modules: what `configure_optimizers` makes."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.lightning_jobs import lightning_jobs
from narrowly.audit.record import Job

TOOL = "lightning"
KINDS = ("python", "notebook")
TRIGGERS = (b"configure_optimizers",)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return lightning_jobs(file, repository)
