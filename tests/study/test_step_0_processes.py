"""Two worker processes that evaluate one base at once leave one file of kept verdicts, whole, and equal stages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from narrowly.records.run_spec import RunSpec
from narrowly.study.cell import resolve_cell
from narrowly.study.layout import PlannedCell, write_plan
from narrowly.study.plan import Cell
from tiny_world import make_world_base

WORKER = """
import json, sys, time
from pathlib import Path
from narrowly.evaluate.microworld.bank import MicroworldBank
from narrowly.study.cell import execute_cells

payload, meeting, number = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
exact = MicroworldBank.exact

def met(self, organism, panels):
    (meeting / number).touch()
    end = time.monotonic() + 120
    while len(list(meeting.iterdir())) < 2:
        assert time.monotonic() < end, "the other worker evaluates nothing"
        time.sleep(0.01)
    return exact(self, organism, panels)

MicroworldBank.exact = met
print(json.dumps([result["status"] for result in execute_cells(payload)]))
"""


def planned_cell(base: Path, lr: float, runs: Path) -> PlannedCell:
    spec = RunSpec.model_validate(
        {
            "base": str(base),
            "optimiser": {"kind": "adam", "lr": lr},
            "steps": 2,
            "checkpoints": 2,
            "first_checkpoint": 1,
            "batch_size": 4,
            "adapter": {"r": 2},
            "schedule": {"warmup_steps": 0},
        }
    )
    cell = Cell(
        cell_id=f"adam-{lr}",
        study="one",
        arm="adam",
        role="optimiser",
        of=None,
        spec=spec,
        edits=(),
        evaluate="final",
        samples=0,
        base_evaluation=True,
    )
    return resolve_cell(cell, runs)


def test_two_workers_make_the_verdicts_on_one_base_at_once(tmp_path: Path) -> None:
    base, runs, meeting = make_world_base(tmp_path), tmp_path / "runs", tmp_path / "meeting"
    (tmp_path / "one").mkdir()
    meeting.mkdir()
    planned = [planned_cell(base, lr, runs) for lr in (1e-2, 2e-2)]
    write_plan(tmp_path / "one", planned)
    workers = []
    for number, one in enumerate(planned):
        payload = {"cells": [one.model_dump(mode="json")], "runs": str(runs), "study_dir": str(tmp_path / "one")}
        command = [sys.executable, "-c", WORKER, json.dumps(payload), str(meeting), str(number)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [json.loads(text) for text in said] == [["done"], ["done"]]
    (kept,) = (runs / ".bases").iterdir()
    first, second = ([stage.file(runs / one.run_id) for stage in one.stages if stage.step == 0] for one in planned)
    assert len(first) == len(second) == 1
    assert first[0].read_bytes() == second[0].read_bytes() == kept.read_bytes()
