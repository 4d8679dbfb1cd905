"""A study sends again what died, counts it against one cell, adopts what still runs, and stops where all must fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fake_cells
from fake_cells import study
from narrowly.cli.app import execute
from narrowly.engines.protocol import CANCELLED, WORKER_DIED, Outcome, Place, Problem, Task
from narrowly.engines.remote import not_shared
from narrowly.records.errors import RunDirectoryError
from narrowly.records.files import read_json, read_jsonl, write_json
from narrowly.runs.claims import claimed
from narrowly.runs.directory import claim_file, runs_folder
from narrowly.study.execution import Execution, StudyObserver
from narrowly.study.layout import PLACES_FILE, PlannedCell, write_plan
from narrowly.study.plan import expand


class Scripted:
    """An engine that runs tasks at once in this process, but for what its script says of a task's next outcome."""

    name, slots = "scripted", 1

    def __init__(self, script: dict[str, list[Problem]], left: list[Task] | None = None) -> None:
        self.script, self.left = script, left or []
        self.queue: list[Task] = []
        self.seen: list[list[str]] = []
        self.to_say = ["one node is down"]

    def adopt(self) -> list[Task]:
        self.queue += self.left
        return self.left

    def submit(self, task: Task) -> None:
        self.queue.append(task)

    def poll(self, timeout: float) -> list[Outcome]:
        if not self.queue:
            return []
        task = self.queue.pop(0)
        self.seen.append([raw["cell"]["cell_id"] for raw in task.payload["cells"]])
        if self.script.get(task.key):
            problem = self.script[task.key].pop(0)
            if problem.error.startswith("after"):  # the first cell of the task was done before its process died
                fake_cells.execute({**task.payload, "cells": task.payload["cells"][:1]})
            return [Outcome(task.key, None, problem)]
        return [Outcome(task.key, fake_cells.execute(task.payload), None)]

    def in_flight(self) -> list[str]:
        return [task.key for task in self.queue]

    def places(self) -> dict[str, Place]:
        return {task.key: Place(f"job of {task.key}", f"/logs/{task.key}.log") for task in self.queue}

    def notes(self) -> list[str]:
        told, self.to_say = self.to_say, []
        return told

    def stop(self) -> str:
        return ""

    def cancel(self) -> None:
        return None


class Heard(StudyObserver):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def said(self, text: str) -> None:
        self.lines.append(text)


def died(error: str = "the worker process died", kind: str = WORKER_DIED) -> Problem:
    return Problem(error=error, kind=kind, traceback="", user=False, fatal=False)


def cells(number: int) -> list[PlannedCell]:
    return [fake_cells.planned_cell(cell) for cell in expand(study(number))]


def execution(out: Path, engine: Scripted, retries: int, observer: StudyObserver | None = None) -> Execution:
    (out / "fake").mkdir(parents=True, exist_ok=True)
    return Execution(engine, "fake_cells:execute", observer or Heard(), runs_folder(out), out / "fake", {}, retries)


def finish(one: Execution) -> None:
    while one.open:
        one.advance()


def test_a_death_counts_against_the_cell_at_work_and_the_others_of_its_task_go_on(tmp_path: Path) -> None:
    planned, heard = cells(3), Heard()
    engine = Scripted({"good-seed0": [died(), died()]})
    one = execution(tmp_path, engine, 2, heard)
    one.submit(planned)
    finish(one)
    assert engine.seen == [
        ["good-seed0", "good-seed1", "good-seed2"],
        ["good-seed0"],
        ["good-seed1", "good-seed2"],
        ["good-seed0"],
    ]
    assert (one.executed, one.failed) == (3, [])
    assert set(fake_cells.executions(tmp_path).values()) == {1}
    assert [line for line in heard.lines if "try" in line] == [
        "good-seed0: the worker process died; try 2 of 3 follows",
        "good-seed0: the worker process died; try 3 of 3 follows",
    ]
    assert "one node is down" in heard.lines


def test_a_cell_whose_process_dies_too_often_fails_alone_and_leaves_a_record(tmp_path: Path) -> None:
    engine = Scripted({"good-seed0": [died()] * 5})
    one = execution(tmp_path, engine, 1)
    one.submit(cells(2))
    finish(one)
    assert [failure.cell_id for failure in one.failed] == ["good-seed0"]
    assert one.executed == 1
    assert read_json(tmp_path / "fake" / "failed" / "good-seed0.json")["kind"] == WORKER_DIED


def test_cells_that_were_done_before_the_process_died_are_not_sent_again(tmp_path: Path) -> None:
    engine = Scripted({"good-seed0": [died("after the first")]})
    one = execution(tmp_path, engine, 1)
    one.submit(cells(3))
    finish(one)
    assert engine.seen[1:] == [["good-seed1"], ["good-seed2"]]
    assert one.executed == 3
    assert set(fake_cells.executions(tmp_path).values()) == {1}


def test_what_somebody_has_cancelled_is_not_tried_again(tmp_path: Path) -> None:
    engine = Scripted({"good-seed0": [died("Slurm job 7 was cancelled", CANCELLED)]})
    one = execution(tmp_path, engine, 5)
    one.submit(cells(1))
    finish(one)
    assert one.failed[0].error == "Slurm job 7 was cancelled"
    assert len(engine.seen) == 1


def test_a_claim_that_is_held_elsewhere_is_waited_for_and_never_done_twice(tmp_path: Path) -> None:
    (cell,) = cells(1)
    engine = Scripted({"good-seed0": [died()]})
    one = execution(tmp_path, engine, 1)
    one.submit([cell])
    held = claimed(claim_file(runs_folder(tmp_path), cell.run_id))
    assert held.__enter__()
    one.advance()  # it died, as far as the engine knows
    one.advance()  # sent again, and refused by the claim
    assert list(one.elsewhere) == ["good-seed0"]
    held.__exit__(None, None, None)
    one.elsewhere["good-seed0"] = 0.0  # looked at long ago
    finish(one)
    assert fake_cells.executions(tmp_path) == {"good-seed0": 1}


def test_tasks_of_an_earlier_command_are_adopted_and_only_the_rest_is_sent(tmp_path: Path) -> None:
    planned = cells(3)
    gone = planned[0].model_copy(update={"run_id": "f" * 16})
    payload = {
        "cells": [cell.model_dump(mode="json") for cell in (planned[1], gone)],
        "runs": str(runs_folder(tmp_path)),
        "study_dir": str(tmp_path / "fake"),
    }
    engine = Scripted({}, [Task("good-seed1", "fake_cells:execute", payload)])
    one = execution(tmp_path, engine, 0)
    rest = one.adopt(planned)
    assert [cell.cell_id for cell in rest] == ["good-seed0", "good-seed2"]
    for cell in rest:
        one.submit([cell])
    finish(one)
    assert one.executed == 3


def test_storage_that_is_not_shared_stops_the_study_in_one_line(tmp_path: Path) -> None:
    one = execution(tmp_path, Scripted({"good-seed0": [not_shared("/scratch/out", "node7")]}), 5)
    one.submit(cells(1))
    with pytest.raises(RunDirectoryError, match=r"node7 does not see /scratch/out; accepted: .* all nodes share"):
        finish(one)


def test_places_are_written_once_and_shown_by_status_and_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = cells(2)
    engine = Scripted({})
    one = execution(tmp_path, engine, 0)
    write_plan(tmp_path / "fake", planned)
    for cell in planned:
        one.submit([cell])
    one.advance()
    one.advance()
    rows = read_jsonl(tmp_path / "fake" / PLACES_FILE)
    assert [row["where"] for row in rows] == ["job of good-seed1"], "the first had left the queue"
    log = tmp_path / "good-seed1.log"
    log.write_bytes(b"a\n" * 300 + b"goes on from step 3\x1b[2J\n")
    with (tmp_path / "fake" / PLACES_FILE).open("a") as stream:
        stream.write(json.dumps({**rows[0], "where": "Slurm job 45_3 on node7", "log": str(log)}) + "\n")
    (tmp_path / "runs" / planned[1].run_id / "done").unlink()
    with claimed(claim_file(runs_folder(tmp_path), planned[1].run_id)):
        assert execute(["status", "fake", "--runs", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "good-seed1" in shown and "Slurm job 45_3 on node7, pid" in shown
        assert execute(["status", "fake", "--runs", str(tmp_path), "--json"]) == 0
        told = {cell["cell_id"]: cell for cell in json.loads(capsys.readouterr().out)["fake"]}
        assert (told["good-seed1"]["status"], told["good-seed0"]["where"]) == ("working", None)
    assert execute(["logs", "fake:good-seed1", "--runs", str(tmp_path), "--lines", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line == "a" for line in lines) == 4
    assert any("goes on from step 3" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
    write_json(tmp_path / "fake" / "failed" / "good-seed0.json", {"error": "no", "traceback": "Traceback\n  here\nno"})
    assert execute(["logs", "fake:good-seed0", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "in processes of its command" in printed
    assert "  here" in printed


@pytest.mark.parametrize(
    ("cell", "words"),
    [("fake", "accepted: STUDY:CELL"), ("fke:good-seed0", "'fake'"), ("fake:god-seed0", "did you mean 'good-seed0'")],
)
def test_logs_of_what_is_not_there_are_one_line(
    cell: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fake").mkdir()
    write_plan(tmp_path / "fake", cells(1))
    assert execute(["logs", cell, "--runs", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
