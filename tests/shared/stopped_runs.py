"""Run by test_stopped_runs.py in a process of its own: forks runs, stops each by real signals at random steps.

    python stopped_runs.py SPEC OUT RUNS STOPS SEED

OUT/whole holds the uninterrupted run, OUT/<n> one that was stopped STOPS times and went on each time. Prints one JSON
line, a list of stops: {"run", "signal", "code", "said", "state", "row", "late"}. `state` is the step that the run went
on from, `row` the last one in its trajectory; `late` counts the steps that ended after the state without one of their
own, later than the interval.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from narrowly.records.files import read_json, read_jsonl
from narrowly.records.run_spec import load_run_spec
from narrowly.runs.directory import TRAJECTORY
from narrowly.runs.resume import named_state
from tiny_base import only_run

SECONDS = 0.2
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def train(spec: Path, out: Path) -> int:
    """Train in here as a script does; return the exit code."""
    from narrowly.engines.stopping import Stopped
    from narrowly.train.run import train_run

    with (out / "steps").open("a") as steps:

        def on_step(step: int, total: int, row: dict[str, Any]) -> None:
            steps.write(f"{step} {time.monotonic()}\n")
            steps.flush()

        try:
            train_run(load_run_spec(spec, []), out / "runs", on_step=on_step, save_every=SECONDS / 60)
        except Stopped as stop:
            return stop.exit_code
    return 0


def begin(spec: Path, out: Path) -> int:
    """Fork a process that trains; what it says goes to OUT/said."""
    (out / "steps").parent.mkdir(parents=True, exist_ok=True)
    (out / "steps").write_text("")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 1
        try:
            with (out / "said").open("w") as said, redirect_stderr(said):
                code = train(spec, out)
        finally:
            os._exit(code)
    return pid


def ended(out: Path) -> dict[int, float]:
    """Return when each step of the process at work has ended."""
    lines = (out / "steps").read_text().split("\n")[:-1]
    return {int(line.split()[0]): float(line.split()[1]) for line in lines}


def stop(spec: Path, out: Path, number: int, step: int, delay: float) -> dict[str, Any]:
    """Begin or resume a run, send it a signal once it has done a step and a little more, and say what became of it."""
    pid = begin(spec, out)
    while max(ended(out), default=0) < step and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    run = only_run(out / "runs")
    state = named_state(run)
    assert state is not None, (number, step, (out / "said").read_text())
    times = ended(out)
    after = [when - times[state.step] for one, when in times.items() if one > state.step and state.step in times]
    return {
        "run": out.name,
        "signal": number,
        "code": os.waitstatus_to_exitcode(status),
        "said": (out / "said").read_text(),
        "state": state.step,
        "row": len(read_jsonl(run / TRAJECTORY)) - 1,
        "late": sum(seconds > SECONDS for seconds in after),
    }


def main(spec: Path, out: Path, runs: int, stops: int, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    import narrowly.optim.build
    import narrowly.spectrum.metrics
    import narrowly.spectrum.penalty
    import narrowly.train.run
    import narrowly.train.trainer  # noqa: F401  # imported before the first fork, so that children start at once

    finish(spec, out / "whole")
    steps = load_run_spec(spec, []).steps
    rng = random.Random(seed)
    report = []
    for index in range(runs):
        numbers = [SIGNALS[(index * stops + one) % 3] for one in range(stops)]
        for number, step in zip(numbers, sorted(rng.sample(range(1, steps - 4), stops)), strict=True):
            report.append(stop(spec, out / str(index), number, step, rng.random() * 0.02))
        finish(spec, out / str(index))
    print(json.dumps(report))


def finish(spec: Path, out: Path) -> None:
    _, status = os.waitpid(begin(spec, out), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (out / "said").read_text()
    assert read_json(only_run(out / "runs") / "done")["steps"] > 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(one) for one in sys.argv[3:6]))
