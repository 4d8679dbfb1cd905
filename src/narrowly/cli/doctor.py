"""`narrowly doctor`: what is here, what is missing, and whether the shipped bases are whole."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from narrowly import __version__
from narrowly.cli.terminal import console, say, table
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

Exit code 0 where everything that is installed is in order, 1 where a shipped base is damaged or cannot be read.
"""
ADDS = {
    "spectral": "spectra of adapters, the penalty, optimisers",
    "lab": "training, evaluation, studies, statistics, reports",
    "track": "every tracker of --report-to",
    "nf4": "bases in 4 bits",
}
"""What each extra is for."""


def command() -> int:
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


def _check_bases() -> int:
    import torch

    from narrowly.microworld.cards import shipped_names, verify_weights
    from narrowly.records.errors import NarrowlyError

    cuda = "yes" if torch.cuda.is_available() else "no"
    say(f"torch: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, CUDA {cuda}")
    names, damaged = shipped_names(), 0
    for name in names:
        try:
            verify_weights(name)
        except NarrowlyError as error:
            damaged += 1
            say(f"base {name}: {error}", "red")
    say(f"shipped bases: {len(names) - damaged} of {len(names)} are whole")
    return 1 if damaged else 0


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB, {free * size / 2**30:.1f} GiB free"
