"""Find jobs of Unsloth: importing it rewrites the defaults of TRL."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.trainer_jobs import trainer_jobs
from narrowly.audit.record import Job

TOOL = "unsloth"
KINDS = ("python", "notebook")
TRIGGERS = (b"unsloth",)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return trainer_jobs(file, repository, TOOL)
