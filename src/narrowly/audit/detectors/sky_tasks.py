"""Task files that hold shell commands: SkyPilot's `run`, beside `resources` or `setup`.

Source: SkyPilot's YAML specification. Workflows of a build server and compose files are left alone: what runs there is
a test or a service.
"""

from __future__ import annotations

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job
from narrowly.audit.shell.command_jobs import jobs_in_shell

TOOL = "transformers"
KINDS = ("yaml",)
TRIGGERS = (b"\nrun: ", b"\nrun:|")


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs that the commands of a task start."""
    jobs = []
    for document in file.documents:
        value = document.value
        if not isinstance(value, dict) or not isinstance(value.get("run"), str):
            continue
        if not any(key in value for key in ("resources", "setup", "num_nodes", "file_mounts")):
            continue
        found = document.get("run")
        assert found is not None
        one_line = "\n" not in value["run"].strip()
        jobs += jobs_in_shell(file, repository, value["run"], found.line + (0 if one_line else 1))
    return jobs
