"""Fakes for the executor's tests: cells that train nothing, count their executions and misbehave on demand.

Workers find these functions by name (`fake_cells:execute`), as they find the real ones. What a cell does follows from
its learning rate, so that a study file alone decides it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from narrowly.engines import stopping
from narrowly.evaluate.banks import BankRecord
from narrowly.evaluate.stage import stages_of
from narrowly.records.canonical import content_id
from narrowly.records.errors import TrainingError, UnknownNameError
from narrowly.records.files import write_json, write_text
from narrowly.records.run_spec import ResolvedInputs, run_id
from narrowly.records.study_spec import StudySpec
from narrowly.study.cell import attempt
from narrowly.study.layout import PlannedCell
from narrowly.study.plan import Cell
from narrowly.study.run import CellTasks, run_study

FAILS, DIES, FULL, SLOW, QUICK = 1e-6, 2e-6, 3e-6, 4e-6, 5e-6
"""Learning rates that make a cell raise, die by SIGKILL, meet a full disk, or take 0.3 seconds."""

DIES_ONCE, DYING_SHARE = 7e-6, 20
"""Learning rate that kills the process of every twentieth cell (by its seed) when the cell is tried first."""

TASKS = CellTasks("fake_cells:resolve", "fake_cells:execute", "fake_cells:warm_up")


def warm_up() -> None:
    """Nothing to import."""


def no_start() -> None:
    raise UnknownNameError("nothing here")


def dies_at_start() -> None:
    os._exit(3)


BANK = BankRecord({"bank": "fake"}, {"judge": "fake"}, ("broad",), ("broad",), {"base_seed": 0, "persona": True})


def buggy(payload: Any = None) -> None:
    raise KeyError("a field that nobody wrote")


def gpu_for_a_while(seconds: float) -> list[Any]:
    began = time.time()
    time.sleep(seconds)
    return [os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("SLURMD_NODENAME", "here"), began, time.time()]


def until_stopped(payload: Any = None) -> None:
    with stopping.patient("stopped after its step"):
        while stopping.requested() is None:
            time.sleep(0.05)


def until_stopped_then_done(state: str) -> int:
    """Count, in a file, how often this was begun; end once a file `finish` is there, or when asked to stop."""
    path = Path(state)
    path.write_text(str(begun := int(path.read_text()) + 1 if path.exists() else 1))
    with stopping.patient("stopped after its step"):
        while stopping.requested() is None and not path.with_name("finish").exists():
            time.sleep(0.05)
    return begun


def begun_and(payload: list[str]) -> None:
    """Leave a file for every time that this was begun, then end the process: by sys.exit, or by SIGKILL."""
    name, folder = payload
    (Path(folder) / f"{name}.{time.time_ns()}").touch()
    print(f"begun: {name}", flush=True)
    if name == "exits":
        sys.exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def gpu_and_pid(payload: Any = None) -> list[Any]:
    return [os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()]


def resolve(payload: dict[str, Any]) -> list[dict[str, Any]]:
    return [planned_cell(Cell.model_validate(raw)).model_dump(mode="json") for raw in payload["cells"]]


def planned_cell(cell: Cell) -> PlannedCell:
    if cell.spec.base == "micro-00":
        raise UnknownNameError("unknown base micro-00; did you mean 'micro-0'?")
    inputs = ResolvedInputs(
        base_sha256=content_id(cell.spec.base),
        config_sha256="",
        tokenizer_sha256="",
        template_sha256="",
        data_sha256="",
    )
    identity = run_id(cell.spec, inputs)
    return PlannedCell(
        cell=cell,
        run_id=identity,
        base=Path(cell.spec.base).name,
        facts=dict(BANK.facts),
        stages=tuple(
            stages_of(
                identity,
                BANK,
                cell.evaluated_steps(),
                cell.edits,
                final=cell.spec.steps,
                samples=cell.samples,
                seed=cell.spec.seed,
            )
        ),
    )


def execute(payload: dict[str, Any]) -> list[dict[str, Any]]:
    runs, study_dir = Path(payload["runs"]), Path(payload["study_dir"])
    return [attempt(PlannedCell.model_validate(raw), runs, study_dir, work) for raw in payload["cells"]]


def work(planned: PlannedCell, runs: Path) -> None:
    lr = planned.cell.spec.optimiser.lr
    directory = runs / planned.run_id
    marks = runs / ".marks"
    marks.mkdir(parents=True, exist_ok=True)
    (marks / f"{planned.cell_id}.{time.time_ns()}.{os.getpid()}").touch()
    if lr == FAILS and not (runs / ".healed").exists():
        raise TrainingError("the loss is not finite\n(step 3)")
    if lr == DIES and not (runs / ".healed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    first = len(list(marks.glob(f"{planned.cell_id}.*"))) == 1
    if lr == DIES_ONCE and planned.cell.spec.seed % DYING_SHARE == 3 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if lr == FULL:
        raise OSError(errno.ENOSPC, "No space left on device")
    if lr == SLOW:
        time.sleep(0.3)
    inputs = ResolvedInputs(
        base_sha256=content_id(planned.cell.spec.base),
        config_sha256="",
        tokenizer_sha256="",
        template_sha256="",
        data_sha256="",
    )
    write_json(directory / "spec.json", planned.cell.spec.model_dump(mode="json"))
    write_json(directory / "inputs.json", inputs.model_dump(mode="json"))
    for stage in planned.stages:
        write_text(stage.file(directory), "verdicts")
    write_json(directory / "done", {"seconds": 0.1})
    (marks / f"{planned.cell_id}.{time.time_ns()}.{os.getpid()}{FINISHED}").touch()


FINISHED = ".finished"


def executions(out: Path) -> dict[str, int]:
    """Return how often the work of each cell was begun."""
    return _counted(path.name for path in _marks(out) if not path.name.endswith(FINISHED))


def completions(out: Path) -> dict[str, int]:
    """Return how often the work of each cell was done to its end."""
    return _counted(path.name.removesuffix(FINISHED) for path in _marks(out) if path.name.endswith(FINISHED))


def _marks(out: Path) -> Iterable[Path]:
    return (out / "runs" / ".marks").glob("*")


def _counted(marks: Iterable[str]) -> dict[str, int]:
    return dict(Counter(mark.rsplit(".", 2)[0] for mark in marks))


def study(seeds: int, lr: float = QUICK, name: str = "fake", **arms: float) -> StudySpec:
    """Return a study with one arm `good` and further arms by name, each with a learning rate."""
    rates = {"good": lr, **arms}
    return StudySpec.model_validate(
        {
            "name": name,
            "grid": {"seed": list(range(seeds))},
            "samples": 0,
            "arms": {
                arm: {"role": "optimiser", "set": {"optimiser": {"kind": "adam", "lr": rate}}}
                for arm, rate in rates.items()
            },
        }
    )


if __name__ == "__main__":  # python fake_cells.py OUT SEEDS WORKERS: a real parent, to be killed
    try:
        result = run_study(study(int(sys.argv[2]), SLOW), Path(sys.argv[1]), workers=int(sys.argv[3]), tasks=TASKS)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"executed {result.executed} done {result.done}", flush=True)
