"""Read a fixture that stands in a test as the audit reads a file; nothing but the named files exists."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from narrowly.audit.record import Job
from narrowly.audit.scan import scan


def jobs_of(tmp_path: Path, name: str, text: str, **others: str) -> list[Job]:
    """Return the jobs of one file, beside which others lie: `ds__json` stands for ds.json."""
    for beside, content in others.items():
        path = tmp_path / beside.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(content))
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return [job for job in scan([tmp_path]).jobs if job.file == name]


def the_job(tmp_path: Path, name: str, text: str, **others: str) -> Job:
    """Return the only job of one file."""
    jobs = jobs_of(tmp_path, name, text, **others)
    assert len(jobs) == 1, [(job.tool, job.line) for job in jobs]
    return jobs[0]


def values(job: Job, *names: str) -> tuple[object, ...]:
    """Return the values of some fields."""
    return tuple(job.value(name) for name in names)
