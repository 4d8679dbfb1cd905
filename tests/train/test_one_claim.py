"""One claim for a run, whoever works on it: two commands never train it at once, a killed one blocks nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from narrowly.records.errors import RunDirectoryError
from narrowly.records.files import read_json, read_jsonl
from narrowly.runs.claims import claimed, hold_run, holds_run, is_claimed
from narrowly.runs.directory import claim_file
from narrowly.train.run import run_directory, train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), *(path for path in sys.path if path)]),
    "OMP_NUM_THREADS": "1",
}

TRAINS_AND_STOPS = """
import sys
from pathlib import Path
from narrowly.records.run_spec import RunSpec
from narrowly.train.run import train_run

def on_step(step, total, row):
    if step == 4:
        print("working", flush=True)
        sys.stdin.read()

train_run(RunSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), on_step=on_step)
"""


@pytest.fixture
def working(tiny: Tiny, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains the run of `make_spec` directly, without a study, and stands still after step 4."""
    command = [sys.executable, "-c", TRAINS_AND_STOPS, make_spec(*tiny).model_dump_json(), str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    yield process
    process.kill()
    process.communicate()


def train_by_command(tiny: Tiny, out: Path) -> subprocess.CompletedProcess[str]:
    (out / "run.yaml").write_text(yaml.safe_dump(make_spec(*tiny).model_dump(mode="json")))
    command = [sys.executable, "-m", "narrowly.cli.app", "train", str(out / "run.yaml"), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)


def test_of_two_commands_one_trains_and_the_other_is_refused_in_one_line(
    working: subprocess.Popen[bytes], tiny: Tiny, tmp_path: Path
) -> None:
    run = run_directory(make_spec(*tiny), tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    second = train_by_command(tiny, tmp_path)
    assert second.returncode == 2
    (line,) = [line for line in second.stderr.splitlines() if line.strip()]
    assert f"{run.name} is claimed by another process" in line
    assert f"(pid {working.pid} on " in line
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    working.communicate(b"")  # it goes on
    assert working.returncode == 0
    assert [row["step"] for row in read_jsonl(run / "trajectory.jsonl")] == list(range(7))
    assert not is_claimed(claim_file(run.parent, run.name))


def test_a_run_that_is_trained_directly_is_claimed_for_a_study_until_its_process_is_killed(
    working: subprocess.Popen[bytes], tiny: Tiny, tmp_path: Path
) -> None:
    run = run_directory(make_spec(*tiny), tmp_path / "runs")
    claim = claim_file(run.parent, run.name)
    assert is_claimed(claim)
    with claimed(claim) as mine:  # what a cell of a study asks before it begins
        assert not mine
    working.kill()
    working.wait()
    assert not is_claimed(claim)
    done = train_by_command(tiny, tmp_path)  # at once, without waiting for a heartbeat
    assert done.returncode == 0, done.stderr
    assert [part["step"] for part in read_json(run / "environment.json")["resumed"]] == [2]
    assert not list(claim.parent.iterdir())


def test_whoever_holds_a_claim_trains_under_it_and_still_holds_it_afterwards(tiny: Tiny, tmp_path: Path) -> None:
    run = run_directory(make_spec(*tiny), tmp_path)
    claim = claim_file(run.parent, run.name)
    with claimed(claim) as mine:
        assert mine and holds_run(run)
        token = read_json(claim)["token"]
        assert (train_run(make_spec(*tiny), tmp_path) / "done").is_file()
        assert read_json(claim)["token"] == token
        with hold_run(run):
            pass
        assert is_claimed(claim)
    assert not is_claimed(claim) and not holds_run(run)


def test_another_thread_of_the_same_process_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    told: list[str] = []

    def train() -> None:
        with pytest.raises(RunDirectoryError, match="claimed by another process") as caught:
            train_run(make_spec(*tiny), tmp_path)
        told.append(str(caught.value))

    with hold_run(run_directory(make_spec(*tiny), tmp_path)):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert len(told) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_does_not_hold_the_claim_of_its_parent(tmp_path: Path) -> None:
    run = tmp_path / "0123"
    with hold_run(run):
        pid = os.fork()
        if pid == 0:
            os._exit(1 if holds_run(run) else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert holds_run(run)
