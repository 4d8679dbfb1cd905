"""Runs made before the rename are read, finished and resumed: a tree by commit 0ab7c7e, see fixtures/make_old_tree.py.

To finish and resume it needs the library versions that the tree was made with, which environment.json lists: Python
3.11.7, torch 2.13.0+cpu, transformers 5.23.0, peft 0.21.2 and so on. With others a resume is refused, as it must be.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from narrowly import load_study
from narrowly.models.organism import load_organism
from narrowly.records.errors import ResumeError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.install import FORMER_NAME
from narrowly.study.plan import find_study
from narrowly.study.run import StudyRun, run_study
from narrowly.train.environment import check_versions, versions

FIXTURES = Path(__file__).parent / "fixtures"
FINISHED, KILLED = "5f96e0670590a265", "b4115dba6567052c"
KILLED_AT, RESUMED_AT, STEPS = 6, 4, 12


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "old_tree", tmp_path / "out"))


class Continued(NamedTuple):
    """The tree before and after the study was run again: bytes of all files of the finished run, and the result."""

    out: Path
    finished_before: dict[str, bytes]
    result: StudyRun


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a run, but not of its lock, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Continued:
    """The old tree after `run` of the same study by this build."""
    recorded: dict[str, Any] = read_json(FIXTURES / "old_tree" / "runs" / KILLED / "environment.json")["versions"]
    try:
        check_versions(recorded, versions())
    except ResumeError as error:
        pytest.skip(f"the old tree needs the versions it was made with: {error}")
    out = Path(shutil.copytree(FIXTURES / "old_tree", tmp_path_factory.mktemp("old") / "out"))
    before = contents(out / "runs" / FINISHED)
    result = run_study(find_study(str(FIXTURES / "old_study.yaml"), []), out, workers=1)
    return Continued(out, before, result)


def test_the_tree_is_one_of_before_the_rename() -> None:
    for run in (FINISHED, KILLED):
        recorded = read_json(FIXTURES / "old_tree" / "runs" / run / "environment.json")["versions"]
        assert FORMER_NAME in recorded
        assert "narrowly" not in recorded


def test_an_old_study_and_its_organisms_are_read(tree: Path) -> None:
    study = load_study(tree / "old")
    assert [planned.run_id for planned in study.plan.values()][:2] == [FINISHED, KILLED]
    assert study.cells["status"].to_list() == ["done", "pending", "pending"]
    assert study.outcomes.filter(panel="broad", final=True, edit="none").height == 1
    organism = study.model("finished-seed0")
    trained = {name: value for name, value in organism.model.named_parameters() if "lora_B" in name}
    assert trained and all(value.abs().max() > 0 for value in trained.values())
    assert load_organism(tree / "runs" / FINISHED, 0).model is not None
    assert load_organism(tree / "runs" / FINISHED, edit_id="scale-0.5").model is not None


def test_every_cell_keeps_its_run_id_and_the_finished_one_its_files(continued: Continued) -> None:
    planned = {row["cell"]["arm"]: row["run_id"] for row in read_jsonl(continued.out / "old" / "plan.jsonl")}
    old = {row["cell"]["arm"]: row["run_id"] for row in read_jsonl(FIXTURES / "old_tree" / "old" / "plan.jsonl")}
    assert planned == old
    assert {path.name for path in (continued.out / "runs").glob("[!.]*")} == set(old.values())
    assert contents(continued.out / "runs" / FINISHED) == continued.finished_before, "nothing is trained or judged anew"
    assert (continued.result.done, continued.result.executed, continued.result.failed) == (3, 2, ())


def test_every_stage_of_the_old_plan_keeps_its_ids(continued: Continued) -> None:
    old, new = (
        {row["run_id"]: [stage["verdict_id"] for stage in row["stages"]] for row in read_jsonl(out / "old/plan.jsonl")}
        for out in (FIXTURES / "old_tree", continued.out)
    )
    assert old == new and len(old[FINISHED]) == 4


def test_the_killed_run_goes_on_from_its_checkpoint(continued: Continued) -> None:
    before, after = FIXTURES / "old_tree" / "runs" / KILLED, continued.out / "runs" / KILLED
    environment = read_json(after / "environment.json")
    assert [one["step"] for one in environment["resumed"]] == [RESUMED_AT]
    assert FORMER_NAME in environment["versions"], "what it was begun with stays on record"
    assert "narrowly" in environment["resumed"][0]["versions"]
    old, new = (path.joinpath("trajectory.jsonl").read_text(encoding="utf-8").splitlines() for path in (before, after))
    assert len(old) >= KILLED_AT
    assert len(new) == STEPS + 1
    assert new[: RESUMED_AT + 1] == old[: RESUMED_AT + 1]
    first = "checkpoints/step-4/adapter_model.safetensors"
    assert (after / first).read_bytes() == (before / first).read_bytes()
    assert (after / "done").is_file()
