"""Ask Slurm by its own commands: squeue, sinfo, scontrol, scancel. No accounting (sacct) is needed.

squeue also tells how a job ended, as long as the controller remembers it (MinJobAge, five minutes by default).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

from narrowly.records.errors import EngineError, nearest

SECONDS = 60
"""For one answer of the controller; its own time-out is 10 seconds, which it may take several times."""

ACTIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
          "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED"}  # fmt: skip
"""States of squeue in which a job may still run; every other one is final."""

NEVER = re.compile(
    r"DOWN|DRAIN|NotAvail|Unavailable|Inactive|BadConstraints|Held|held|PartitionNodeLimit|PartitionTimeLimit|Invalid"
)
"""Reasons for waiting that time alone does not mend."""

LARGEST_ARRAY = 1000
"""Tasks of an array; Slurm's own default for the largest index (MaxArraySize) is 1001."""


class JobState(NamedTuple):
    """Hold what the controller says of a job: state, why it waits, where it runs (empty where it does not)."""

    state: str
    reason: str
    node: str

    @property
    def active(self) -> bool:
        """Return whether it waits or runs."""
        return self.state in ACTIVE

    @property
    def stuck(self) -> bool:
        """Return whether it waits for something that only a person can change."""
        return self.state == "REQUEUE_HOLD" or (self.state == "PENDING" and bool(NEVER.search(self.reason)))


def ask(*command: str) -> str:
    """Run one of Slurm's commands and return what it prints.

    Raises:
        EngineError: the command is not there, the controller does not answer, or it refuses; in one line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError as error:
        raise EngineError(
            f"--engine slurm needs Slurm's command {command[0]}, which is not on this machine; accepted: a login node "
            "of a cluster"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"Slurm does not answer: {command[0]} took more than {SECONDS} s") from error
    if done.returncode:
        raise EngineError(f"Slurm: {said(done.stderr) or f'{command[0]} ended with exit code {done.returncode}'}")
    return done.stdout


def said(stderr: str) -> str:
    """Return what a command of Slurm complained of, in one line, without its own name before it."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line.strip()) for line in stderr.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))[:500]


def states_of(jobs: Iterable[str]) -> dict[str, JobState]:
    """Return the state of each job that the controller knows; ids are `45_3` for the tasks of an array, else `45`.

    It is one question, of all jobs of this user: a list of ids fails where one of them is forgotten.
    """
    wanted = set(jobs)
    listed = ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%N|%r")
    found = {}
    for line in listed.splitlines():
        job, state, node, reason = [*line.split("|", 3), "", "", ""][:4]
        if job in wanted:
            found[job] = JobState(state, reason, node)
    return found


def check_cluster(partition: str | None) -> None:
    """Check that the controller answers and knows the partition.

    Raises:
        EngineError: it does not; accepted partitions and the nearest are named.
    """
    partitions = sorted(set(ask("sinfo", "--noheader", "--format=%R").split()))
    if partition is not None and not set(partition.split(",")) <= set(partitions):
        raise EngineError(
            f"Slurm has no partition {partition!r}{nearest(partition, partitions)} (accepted: {', '.join(partitions)})"
        )


def largest_array() -> int:
    """Return the number of tasks that one array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return max(1, min(LARGEST_ARRAY, int(found[1]) - 1 if found else LARGEST_ARRAY))


def nodes_out_of_use(partition: str | None) -> str:
    """Return the nodes that take no jobs, each with its state and the reason that was given; empty where all do."""
    chosen = [] if partition is None else [f"--partition={partition}"]
    listed = ask("sinfo", "--noheader", "--Node", *chosen, "--format=%N|%T|%E")
    out = []
    for line in dict.fromkeys(listed.splitlines()):
        node, state, reason = [*line.split("|", 2), "", ""][:3]
        if re.search(r"down|drain|fail|unknown|not_resp|\*$", state):
            out.append(f"{node} is {state} ({reason.strip() or 'no reason given'})")
    return ", ".join(out)


def cancel(jobs: Iterable[str]) -> None:
    """End jobs: those that run get SIGTERM, and SIGKILL after the cluster's KillWait (30 seconds by default).

    Raises:
        EngineError: the controller does not answer.
    """
    named = list(jobs)
    for start in range(0, len(named), 500):  # a command line has an end
        ask("scancel", "--quiet", *named[start : start + 500])
