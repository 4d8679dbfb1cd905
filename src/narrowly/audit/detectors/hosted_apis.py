"""Find jobs that scripts start at hosts: OpenAI, Together, Mistral, Fireworks, Vertex AI, Bedrock and others."""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.follow import HOSTED
from narrowly.audit.python.hosted_jobs import hosted_jobs
from narrowly.audit.record import Job

TOOL = "openai"
KINDS = ("python", "notebook")
TRIGGERS = HOSTED


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a script or notebook."""
    return hosted_jobs(file, repository)
