"""The executor and the way of a study through it: kills, claims, failures, two commands at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fake_cells
from ctrl_c import heard_ctrl_c
from fake_cells import TASKS, executions, study
from narrowly.cli.app import BUG, execute
from narrowly.engines.local import LocalExecutor, Task, usable_cores
from narrowly.engines.worker import error_of, problem_of
from narrowly.microworld.cards import SHIPPED
from narrowly.records.errors import (
    IntegrityError,
    NarrowlyError,
    RunDirectoryError,
    SpecError,
    TrainingError,
    UnknownNameError,
)
from narrowly.records.files import read_json, write_text
from narrowly.runs.claims import claimed, is_claimed
from narrowly.runs.directory import claim_file, runs_folder
from narrowly.study.layout import PlannedCell, read_plan, status_of
from narrowly.study.run import StudyObserver, run_study

HERE = Path(__file__).parents[1] / "shared"
PATIENCE = 240.0
"""Seconds after which a wait has failed: long, because tests share busy machines."""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def children_of(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_parent(out: Path, seeds: int, workers: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "fake_cells.py"), str(out), str(seeds), str(workers)]
    pipe = subprocess.PIPE
    with heard_ctrl_c():
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def done_runs(out: Path) -> set[str]:
    return {path.parent.name for path in (out / "runs").glob("*/done")}


def test_a_study_runs_every_cell_once_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    first = run_study(study(3), tmp_path, workers=2, tasks=TASKS)
    assert (first.planned, first.done, first.executed, first.failed) == (3, 3, 3, ())
    second = run_study(study(3), tmp_path, workers=2, tasks=TASKS)
    assert (second.done, second.executed) == (3, 0)
    assert set(executions(tmp_path).values()) == {1}
    assert not list((tmp_path / "runs" / ".claims").iterdir()), "no claim is left behind"


def test_two_studies_share_the_runs_they_have_in_common(tmp_path: Path) -> None:
    run_study(study(2), tmp_path, workers=1, tasks=TASKS)
    more = run_study(study(3, name="other"), tmp_path, workers=1, tasks=TASKS)
    assert (more.done, more.executed) == (3, 1)


def test_a_failed_cell_is_recorded_with_its_traceback_and_tried_again_by_the_next_run(tmp_path: Path) -> None:
    spec = study(2, bad=fake_cells.FAILS)
    first = run_study(spec, tmp_path, workers=2, tasks=TASKS)
    assert (first.done, len(first.failed)) == (2, 2)
    assert first.failed[0].error == "the loss is not finite (step 3)"
    record = read_json(tmp_path / "fake" / "failed" / "bad-seed0.json")
    assert record["kind"] == "TrainingError"
    assert "Traceback" in record["traceback"]
    plan = {cell.cell_id: cell for cell in read_plan(tmp_path / "fake")}
    assert status_of(plan["bad-seed0"], runs_folder(tmp_path), tmp_path / "fake") == "failed"
    (tmp_path / "runs" / ".healed").touch()
    second = run_study(spec, tmp_path, workers=2, tasks=TASKS)
    assert (second.done, second.executed, second.failed) == (4, 2, ())
    assert not list((tmp_path / "fake" / "failed").iterdir())
    assert executions(tmp_path) == {"good-seed0": 1, "good-seed1": 1, "bad-seed0": 2, "bad-seed1": 2}


def test_a_worker_that_is_killed_fails_its_cell_and_not_the_study(tmp_path: Path) -> None:
    result = run_study(study(3, killed=fake_cells.DIES), tmp_path, workers=1, tasks=TASKS)
    assert result.done == 3
    assert {failure.cell_id for failure in result.failed} == {"killed-seed0", "killed-seed1", "killed-seed2"}
    assert all("SIGKILL" in failure.error and "memory" in failure.error for failure in result.failed)
    assert read_json(tmp_path / "fake" / "failed" / "killed-seed1.json")["kind"] == "WorkerDied"


def test_a_full_disk_stops_the_study_with_one_error_and_finished_cells_stay(tmp_path: Path) -> None:
    run_study(study(2), tmp_path, workers=1, tasks=TASKS)
    with pytest.raises(RunDirectoryError, match=r"No space left.*make room"):
        run_study(study(2, full=fake_cells.FULL), tmp_path, workers=1, tasks=TASKS)
    assert run_study(study(2), tmp_path, workers=1, tasks=TASKS).executed == 0


def test_an_unknown_base_is_a_user_error_and_leaves_nothing(tmp_path: Path) -> None:
    spec = study(1).model_copy(update={"run": {"base": "micro-00"}})
    with pytest.raises(UnknownNameError, match="did you mean 'micro-0'"):
        run_study(spec, tmp_path, workers=1, tasks=TASKS)
    assert not list(tmp_path.iterdir())


def test_foreign_folders_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "fake" / "thesis.tex", "mine")
    with pytest.raises(RunDirectoryError, match=r"not a study folder"):
        run_study(study(1), tmp_path, workers=1, tasks=TASKS)
    assert [path.name for path in (tmp_path / "fake").iterdir()] == ["thesis.tex"]
    other = tmp_path / "other"
    run_study(study(1), other, workers=1, tasks=TASKS)
    directory = next((other / "runs").glob("*/done")).parent
    (directory / "spec.json").write_text("{")
    with pytest.raises(NarrowlyError, match=r"spec\.json"):
        run_study(study(1), other, workers=1, tasks=TASKS)
    (directory / "spec.json").unlink()
    with pytest.raises(RunDirectoryError, match="corrupt or not ours"):
        run_study(study(1), other, workers=1, tasks=TASKS)


def test_a_warm_up_that_fails_is_one_error_in_its_own_class(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nothing here"):
        run_study(study(1), tmp_path, workers=2, tasks=TASKS._replace(warm_up="fake_cells:no_start"))
    with pytest.raises(TrainingError, match="died before their first task"):
        run_study(study(1), tmp_path, workers=1, tasks=TASKS._replace(warm_up="fake_cells:dies_at_start"))


@pytest.mark.parametrize("place", ["resolve", "warm_up"])
def test_a_bug_of_ours_in_a_worker_comes_out_as_one_with_its_traceback(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = TASKS._replace(**{place: "fake_cells:buggy"})
    with pytest.raises(RuntimeError, match="KeyError") as caught:
        run_study(study(1), tmp_path, workers=1, tasks=tasks)
    assert not isinstance(caught.value, NarrowlyError)
    assert "in buggy" in caught.value.__notes__[0]

    def planted(*_: object, **__: object) -> None:
        raise caught.value

    monkeypatch.setattr("narrowly.study.run.run_study", planted)
    assert execute(["run", "smoke", "--out", str(tmp_path)]) == BUG
    printed = capsys.readouterr().err
    assert "in buggy" in printed and "this is a bug in narrowly" in printed


def test_a_missing_module_or_file_in_a_worker_stays_one_line() -> None:
    for error in (ModuleNotFoundError("No module named 'polars'"), FileNotFoundError(2, "No such file", "here")):
        assert isinstance(error_of(problem_of(error)), TrainingError)
    assert isinstance(error_of(problem_of(UnknownNameError("nothing here"))), UnknownNameError)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_after_kill_9_of_the_parent_no_worker_lives_and_the_next_run_repeats_nothing_finished(tmp_path: Path) -> None:
    parent = start_parent(tmp_path, seeds=10)
    wait_for(lambda: len(done_runs(tmp_path)) >= 2)
    workers = children_of(parent.pid)
    assert len(workers) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers))
    finished = done_runs(tmp_path)
    before = executions(tmp_path)
    assert sum(before.values()) - len(finished) <= 2, "at most the two cells in flight are lost"
    plan = {cell.run_id: cell.cell_id for cell in read_plan(tmp_path / "fake")}
    result = run_study(study(10, fake_cells.SLOW), tmp_path, workers=2, tasks=TASKS)
    assert (result.done, result.executed) == (10, 10 - len(finished))
    after = executions(tmp_path)
    assert all(after[plan[run]] == 1 for run in finished)
    assert sum(after.values()) == sum(before.values()) + result.executed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_stops_parent_and_workers_without_a_traceback_and_no_claim_is_held(tmp_path: Path) -> None:
    parent = start_parent(tmp_path, seeds=20)
    wait_for(lambda: len(done_runs(tmp_path)) >= 1)
    workers = children_of(parent.pid)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, stderr = parent.communicate(timeout=PATIENCE)
    assert parent.returncode == 130
    assert "Traceback" not in stderr
    wait_for(lambda: not any(alive(pid) for pid in workers))
    claims = [path for path in (tmp_path / "runs" / ".claims").iterdir() if not path.name.startswith(".")]
    # a worker that a busy machine gave no time to leave was killed, and its claim is that of a dead process
    assert not any(is_claimed(path) for path in claims)


def test_two_commands_on_one_directory_share_the_work_and_do_no_cell_twice(tmp_path: Path) -> None:
    parents = [start_parent(tmp_path, seeds=8, workers=1) for _ in range(2)]
    results = [parent.communicate(timeout=PATIENCE) for parent in parents]
    assert [parent.returncode for parent in parents] == [0, 0], results
    counts = executions(tmp_path)
    assert len(counts) == 8
    assert set(counts.values()) == {1}
    words = [stdout.split() for stdout, _ in results]
    assert sum(int(line[1]) for line in words) == 8
    assert all(line[3] == "8" for line in words), "both wait until all is done"
    assert all(int(line[1]) > 0 for line in words), "both have worked"


def test_a_run_waits_for_a_cell_that_another_process_holds_and_then_does_it(tmp_path: Path) -> None:
    run_study(study(1), tmp_path, workers=1, tasks=TASKS)
    (plan,) = read_plan(tmp_path / "fake")
    (tmp_path / "runs" / plan.run_id / "done").unlink()
    held = claimed(claim_file(runs_folder(tmp_path), plan.run_id))
    assert held.__enter__()
    seen: list[int] = []

    class LetGo(StudyObserver):
        def working(self, in_flight: object, elsewhere: int) -> None:
            if elsewhere and not seen:
                seen.append(elsewhere)
                held.__exit__(None, None, None)

    result = run_study(study(1), tmp_path, workers=1, tasks=TASKS, observer=LetGo())
    assert seen == [1]
    assert result.executed == 1


def test_the_pool_keeps_working_order_and_answers_cancel_twice() -> None:
    with LocalExecutor(1, "fake_cells:warm_up") as pool:
        for number in range(4):
            pool.submit(Task(str(number), "builtins:len", [0] * number))
        found = []
        while len(found) < 4:
            found += pool.poll(0.1)
        assert [(outcome.key, outcome.result) for outcome in found] == [(str(n), n) for n in range(4)]
        pool.cancel()
        pool.cancel()
        assert pool.in_flight() == []
    assert LocalExecutor().workers == usable_cores()


def test_planned_cells_survive_the_way_through_the_plan_file(tmp_path: Path) -> None:
    run_study(study(1, lr=1e-3), tmp_path, workers=1, tasks=TASKS)
    (plan,) = read_plan(tmp_path / "fake")
    assert isinstance(plan, PlannedCell)
    assert plan.cell.spec.optimiser.lr == 1e-3


def test_a_plan_that_was_cut_off_is_damaged_and_no_study_with_fewer_cells(tmp_path: Path) -> None:
    run_study(study(2), tmp_path, workers=1, tasks=TASKS)
    plan = tmp_path / "fake" / "plan.jsonl"
    plan.write_bytes(plan.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="cut off in its last line; run the study again"):
        read_plan(tmp_path / "fake")
    assert run_study(study(2), tmp_path, workers=1, tasks=TASKS).done == len(read_plan(tmp_path / "fake"))


class Replaced(StudyObserver):
    """Counts how often a folder's study was replaced."""

    def __init__(self) -> None:
        self.count = 0

    def replaced(self, study_dir: Path) -> None:
        self.count += 1


def test_a_changed_study_of_the_same_name_says_so_keeps_the_runs_and_forgets_old_failures(tmp_path: Path) -> None:
    observer = Replaced()
    failing = study(1, fake_cells.FAILS)
    run_study(failing, tmp_path, workers=1, tasks=TASKS, observer=observer)
    run_study(failing, tmp_path, workers=1, tasks=TASKS, observer=observer)
    assert observer.count == 0
    (cell,) = read_plan(tmp_path / failing.name)
    assert status_of(cell, runs_folder(tmp_path), tmp_path / failing.name) == "failed"
    other = cell.model_copy(update={"run_id": "0" * 16})
    assert status_of(other, runs_folder(tmp_path), tmp_path / failing.name) == "pending"
    changed = failing.model_copy(update={"title": "another title"})
    run_study(changed, tmp_path, workers=1, tasks=TASKS, observer=observer)
    assert observer.count == 1


def test_two_bases_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    spec = study(1)
    places = [str(shutil.copytree(SHIPPED / "micro-0", tmp_path / folder / "micro-0")) for folder in ("a", "b")]
    spec = spec.model_copy(update={"grid": {**spec.grid, "base": places}})
    with pytest.raises(SpecError, match="both bases called 'micro-0'"):
        run_study(spec, tmp_path, workers=1, tasks=TASKS)
    assert not (tmp_path / spec.name).exists()
