"""Clusters for tests: a real Slurm that a script starts, what is missing for one, and kills at random."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from narrowly.engines.slurm_job import job_of
from narrowly.runs.claims import read_claim

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"
ENVIRONMENT_PATH = os.pathsep.join(map(str, (SOURCE, TESTS / "shared")))
"""For PYTHONPATH: processes of a cluster find the package and the fakes of tests by it."""


def no_slurm() -> str | None:
    """Return why no Slurm can be started and used here, or None."""
    if importlib.util.find_spec("submitit") is None:
        return "submitit is not installed (extra slurm)"
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]
    if missing:
        return f"not on this machine: {', '.join(missing)} (Debian's slurm-wlm and munge)"
    if os.geteuid() != 0:
        return "the script that starts Slurm runs as root alone"
    return None


def no_ray() -> str | None:
    """Return why Ray cannot be used here, or None."""
    return None if importlib.util.find_spec("ray") is not None else "ray is not installed (extra ray)"


@contextmanager
def real_slurm(folder: Path, cores: int = 2) -> Iterator[dict[str, str]]:
    """Start a Slurm with two nodes; yield the environment in which its commands find it."""
    folder.mkdir(parents=True, exist_ok=True)
    started = subprocess.run(
        [str(TESTS / "cluster" / "start_slurm.sh"), str(folder), str(cores)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    try:
        assert started.returncode == 0, started.stderr
        yield {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": ENVIRONMENT_PATH}
    finally:
        subprocess.run([str(TESTS / "cluster" / "stop_slurm.sh"), str(folder)], check=False, timeout=300)


def start_narrowly(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    command = [sys.executable, "-m", "narrowly.cli.app", *map(str, arguments)]
    before = {**os.environ, "PYTHONPATH": ENVIRONMENT_PATH, **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=before, start_new_session=True)


def sigkill(pid: int) -> bool:
    """Kill a process; return whether it lived."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def requeue(pid: int) -> bool:
    """Let Slurm put the job of a process back into its queue; return whether it did."""
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    job = job_of(dict(line.decode().split("=", 1) for line in lines if b"=" in line))
    return bool(job) and subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0


def kill_at_random(
    process: subprocess.Popen[str],
    runs: Path,
    ways: dict[str, Callable[[int], bool]],
    wanted: int,
    draw: random.Random,
    longest: float = 1.5,
) -> Counter[str]:
    """Kill holders of claims until so many are dead, then let the command end; return the kills by their way.

    Four of five attempts at a cell are hit, each at a moment drawn from the first `longest` seconds of its work.
    """
    kills: Counter[str] = Counter()
    seen: set[str] = set()
    due: list[tuple[float, Path, str, int]] = []
    while process.poll() is None:
        for path in (runs / ".claims").glob("[!.]*.json"):
            claim = read_claim(path)
            if claim is not None and claim.pid and claim.token not in seen:
                seen.add(claim.token)
                if draw.random() < 0.8:
                    due.append((time.monotonic() + draw.uniform(0, longest), path, claim.token, claim.pid))
        now = time.monotonic()
        for one in [one for one in due if one[0] <= now]:
            due.remove(one)
            _, path, token, pid = one
            claim, way = read_claim(path), draw.choice(list(ways))
            if kills.total() < wanted and claim is not None and claim.token == token and ways[way](pid):
                kills[way] += 1
        time.sleep(0.02)
    return kills
