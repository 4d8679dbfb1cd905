"""Read the config that a command names below its flags: one job of both."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from narrowly.audit.detectors import torchtune
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, unknown
from narrowly.audit.shell.flags import IN_BASE, Flags
from narrowly.audit.trees import Document, UnreadableError

JobOf = Callable[[Document, SourceFile, Repository], Job]


def with_config(
    job_of: JobOf, flags: Flags, file: SourceFile, repository: Repository, *, dotted: bool = False
) -> list[Job]:
    """Return the job of a tool with the config that the command names below its flags."""
    named = flags.text("config", "config_file", "c") or next(
        (word.text for word in flags.positional if word.text.endswith((".yaml", ".yml", ".json", ".toml"))), None
    )
    base = None
    absent = ""
    if named is not None:
        found = repository.find(named, file) or _recipe(named, job_of, file, repository)
        absent = named if found is None else ""
        if found is not None:
            try:
                base = next((one for one in found.documents if isinstance(one.value, dict)), None)
            except UnreadableError:
                base = None
        elif not [key for key in (*flags.named, *flags.overrides) if key not in ("config", "nproc_per_node", "nnodes")]:
            return []  # nothing but the name of a file that is not here
    for key in ("config", "config_file", "c", "nproc_per_node", "nnodes", "launcher"):
        flags.named.pop(key, None)
    document = flags.document(file.shown, base, dotted=dotted)
    if not document.value:
        return []
    job = job_of(document, file, repository)
    if absent:
        for name, field in list(job.fields.items()):
            if field.provenance == "default":
                job.set(name, unknown(f"{absent} is not among the files read"))
    return [_settled(job, file, base)]


def _recipe(named: str, job_of: JobOf, file: SourceFile, repository: Repository) -> SourceFile | None:
    """Return the config that `tune run --config NAME` takes from torchtune's own, where they are among the files."""
    if job_of is not torchtune.job_of:
        return None
    stem = named.removesuffix(".yaml")
    return repository.find(f"recipes/configs/{stem}.yaml", file) or repository.find(f"configs/{stem}.yaml", file)


def _settled(job: Job, file: SourceFile, base: Document | None) -> Job:
    """Give what the base file says its own place, and mark it as inherited; flags keep theirs."""
    job.cli_overridable = True
    if base is None:
        return job
    job.name = job.name or base.file
    pattern = re.compile(rf"{re.escape(file.shown)}:(\d{{8,}})")

    def moved(text: str) -> str:
        return pattern.sub(lambda found: f"{base.file}:{int(found.group(1)) - IN_BASE}", text)

    for kept in (job.fields, job.marks):
        for name, found in list(kept.items()):
            at = moved(found.at) if found.at else found.at
            changed = replace(found, at=at, reason=moved(found.reason))
            if at != found.at and found.provenance == "explicit" and kept is job.fields:
                changed = replace(changed, provenance="inherited", reason=changed.reason or f"set in {base.file}")
            kept[name] = changed
    return job
