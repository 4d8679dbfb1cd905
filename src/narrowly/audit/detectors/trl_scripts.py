"""Find jobs of TRL: its configurations and trainers in a script or notebook."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.trainer_jobs import trainer_jobs
from narrowly.audit.record import Job

TOOL = "trl"
KINDS = ("python", "notebook")
TRIGGERS = (b"trl",)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return trainer_jobs(file, repository, TOOL)
