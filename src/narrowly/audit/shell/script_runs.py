"""Follow a Python script that a shell script runs: its flags win over the defaults of the script."""

from __future__ import annotations

from dataclasses import replace

from narrowly.audit.detectors import scripts
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.fields import file_and_line
from narrowly.audit.python.follow import keep, promises, run_from_shell
from narrowly.audit.python.machine import CommandLine
from narrowly.audit.record import Job
from narrowly.audit.shell.flags import Flags
from narrowly.audit.trees import UnreadableError
from narrowly.audit.values import typed_field


def jobs_of_script(
    script: SourceFile, flags: Flags, environment: dict[str, tuple[str, str]], file: SourceFile, repository: Repository
) -> list[Job]:
    """Return the jobs of a script run with these flags; what stands in the script itself is inherited.

    Args:
        script: the Python file.
        flags: the arguments of the command.
        environment: variables that the shell script sets, with their places.
        file: the shell script.
        repository: what stands beside.
    """
    if script.kind != "python" or not promises(script):
        return []
    line = CommandLine(
        {name: (text, f"{file.shown}:{number}") for name, (text, number, _) in flags.named.items()},
        [(word.text, f"{file.shown}:{word.line}") for word in flags.positional],
        {name: (text, f"{file.shown}:{number}") for name, (text, number, _) in flags.overrides.items()},
    )
    run = replace(script)
    try:
        keep(run, run_from_shell(run, repository, line, environment))
        jobs = scripts.detect(run, repository)
    except UnreadableError:
        return []
    for job in jobs:
        _adapter_flags(job, flags, file)
        job.name = job.name or script.shown
        job.cli_overridable = True
        for name, found in list(job.fields.items()):
            where = file_and_line(found.at)[0]
            if where == file.shown and found.provenance == "inherited":
                job.fields[name] = replace(found, provenance="explicit", reason="")
            elif where == script.shown and found.provenance == "explicit":
                job.fields[name] = replace(
                    found, provenance="inherited", reason=found.reason or f"set in {script.shown}"
                )
    return jobs


def _adapter_flags(job: Job, flags: Flags, file: SourceFile) -> None:
    """Take the adapter from the command's own flags where the script leaves it unknown."""
    if job["lora_r"].known:
        return
    for name in ("lora_r", "lora_alpha", "lora_dropout"):
        given = flags.named.get(name) or flags.named.get(name.replace("_", "-"))
        if given is not None and isinstance(given[0], str):
            job.set(name, typed_field(name, given[0], file.at(given[1])))
