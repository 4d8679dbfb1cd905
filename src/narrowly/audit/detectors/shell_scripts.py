"""Find jobs that shell and Slurm scripts start: every tool's command line, and scripts that lie beside."""

from __future__ import annotations

import re

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job
from narrowly.audit.shell.command_jobs import jobs_in_shell

TOOL = "transformers"
KINDS = ("shell",)
TRIGGERS = ()
_PROMISE = re.compile(
    rb"\.py\b|python|torchrun|accelerate|deepspeed|llamafactory-cli|\bswift\b|axolotl|\btune\b|\btrl\b|mlx_lm|autotrain|fine[_-]?tun"
    rb"|tunedModels|tuningJobs|model-customization-job"
)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a shell script, or of the shell lines of a Makefile or Dockerfile.

    Raises:
        UnreadableError: the file is not text.
    """
    return jobs_in_shell(file, repository) if _PROMISE.search(file.data) else []
