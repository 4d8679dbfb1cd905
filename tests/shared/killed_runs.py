"""Run by test_resume.py in a process of its own: forks runs, kills each with SIGKILL at one moment, resumes it.

    python killed_runs.py BASE ROWS OUT EVERY lora|full

A moment is the n-th time that a run opens, renames, removes or makes a file or folder inside its runs folder, so they
cover every gap between two operations: inside a checkpoint, between checkpoint and record, between steps. Prints one
JSON line: {"points": [...], "events": n}. OUT/whole holds the uninterrupted run, OUT/<n> the one killed at n.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def child(base: str, rows: str, out: Path, kill_at: int | None, settings: dict[str, Any]) -> int:
    """Train in a forked process; return the number of events, or die at number `kill_at`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in EVENTS and str(arguments[0]).startswith(str(out)):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        status = 1
        try:
            from narrowly.train.run import train_run
            from tiny_base import make_spec

            train_run(make_spec(Path(base), Path(rows), **settings), out)
            os.write(writer, str(seen).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    if kill_at is None:
        if status != 0:
            raise SystemExit(f"the run in {out} ended with status {status}")
        return int(text)
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise SystemExit(f"the run in {out} was to be killed at event {kill_at}, but ended with status {status}")
    return kill_at


# momentum, accumulation, penalty, schedule and dropout: everything that a resume could forget
SETTINGS: dict[str, Any] = {
    "optimiser": {"kind": "adam", "lr": 1e-2},
    "schedule": {"kind": "cosine", "warmup_steps": 1},
    "penalty": {"lam": 0.1, "warmup_steps": 3, "max_grad_ratio": 0.5},
    "adapter": {"r": 2, "alpha": 4, "dropout": 0.2, "target_modules": ["q_proj", "up_proj"]},
    "batch_size": 2,
    "accumulation": 2,
    "steps": 4,
    "checkpoints": 3,
    "first_checkpoint": 2,
}

OF_FULL: dict[str, Any] = {
    "method": "full",
    "adapter": {},
    "penalty": None,
    "optimiser": {"kind": "muon", "lr": 1e-2, "other": {"kind": "adamw", "lr": 1e-2}},
}


def main(base: str, rows: str, out: Path, every: int, method: str) -> None:
    import torch

    torch.set_num_threads(1)
    from narrowly.runs import claims

    claims.HEARTBEAT_SECONDS = 3600.0  # a beat would be an event that not every run has
    import narrowly.optim.build
    import narrowly.spectrum.metrics
    import narrowly.spectrum.penalty
    import narrowly.train.run
    import narrowly.train.trainer  # noqa: F401  # imported before the first fork, so that children start at once

    settings = SETTINGS if method == "lora" else {**SETTINGS, **OF_FULL}
    events = child(base, rows, out / "whole", None, settings)
    points = [*range(1, events + 1, every)]
    for point in points:
        child(base, rows, out / str(point), point, settings)
        child(base, rows, out / str(point), None, settings)
    print(json.dumps({"points": points, "events": events}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
