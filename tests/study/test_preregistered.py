"""A confirmatory study is held to its preregistration: hash, first commit, seeds, order of commits and runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fake_cells import TASKS
from narrowly.cli.app import execute
from narrowly.microworld.cards import SHIPPED
from narrowly.records.errors import SpecError
from narrowly.records.study_spec import StudySpec, load_study_spec, parse_study
from narrowly.study.layout import PREREG_FILE
from narrowly.study.plan import expand
from narrowly.study.preregistered import check_prereg, order_faults, read_deviations, record_of
from narrowly.study.run import run_study

CONTRAST = {"first": ["muon"], "second": ["adam"], "match": "held_out"}
FINDING = {
    "id": "line",
    "question": "Is there a difference?",
    "contrast": CONTRAST,
    "estimand": "mean difference",
    "rule": {"kind": "equivalence", "margin": 0.35},
    "decision": "inside the margin",
    "min_bases": 10,
}


def raw_study(base: str = "micro-200") -> dict[str, Any]:
    return {
        "name": "confirm",
        "grid": {"base": [base], "optimiser.lr": [1e-4, 2e-4]},
        "samples": 0,
        "arms": {name: {"set": {"optimiser": {"kind": name}}} for name in ("adam", "muon")},
        "prereg": {"findings": [FINDING], "stopping": "all cells", "power": "0.9"},
    }


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A base whose seed is free, for a study that trains nothing."""
    folder = shutil.copytree(SHIPPED / "micro-0", tmp_path / "bases" / "micro-200")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "name": "micro-200", "world_seed": 200}))
    return str(folder)


@pytest.fixture
def file(tmp_path: Path, base: str) -> Path:
    """A preregistered study in the second commit of a repository; the first held it without the preregistration."""
    path = tmp_path / "repository" / "confirm.yaml"
    path.parent.mkdir()
    git(path.parent, "init", "-q")
    raw = raw_study(base)
    path.write_text(yaml.safe_dump({key: value for key, value in raw.items() if key != "prereg"}))
    git(path.parent, "add", ".")
    git(path.parent, "commit", "-qm", "design")
    path.write_text(yaml.safe_dump(raw))
    git(path.parent, "commit", "-qam", "preregistered")
    return path


def changed(study: dict[str, Any], **fields: Any) -> StudySpec:
    return parse_study({**study, **fields}, "study")


def test_the_hash_follows_the_preregistration_and_the_design_and_nothing_else() -> None:
    raw = raw_study()
    first = changed(raw).prereg_hash
    assert first == changed(raw, title="Another title", samples=3).prereg_hash
    others = [
        changed(raw, grid={**raw["grid"], "seed": [1]}),
        changed(raw, run={"steps": 81}),
        changed(raw, name="another"),
        changed(raw, exclude=[{"arm": "adam", "optimiser.lr": 1e-4}]),
        changed(raw, prereg={**raw["prereg"], "findings": [{**FINDING, "min_bases": 9}]}),
        changed(raw, prereg={**raw["prereg"], "stopping": "when it looks good"}),
    ]
    assert len({first, *(study.prereg_hash for study in others)}) == 1 + len(others)


def test_a_preregistration_changes_no_cell_and_a_study_without_one_has_no_hash() -> None:
    raw = raw_study()
    plain = changed({key: value for key, value in raw.items() if key != "prereg"})
    assert plain.prereg_hash is None
    assert expand(plain) == expand(changed(raw))


@pytest.mark.parametrize(
    ("prereg", "words"),
    [
        ({"findings": [{**FINDING, "contrast": {**CONTRAST, "first": ["muo"]}}]}, "unknown arm 'muo'.*'muon'"),
        ({"findings": [FINDING, FINDING]}, "'line' is given twice"),
        ({"findings": [{**FINDING, "rule": {"kind": "equivalenc", "margin": 1}}]}, "equivalence"),
        ({"conclusions": [{"when": {"lin": "open"}, "say": "x"}]}, "unknown finding 'lin'"),
        ({"exclusions": "micro-9"}, "none"),
        ({"findings": [{**FINDING, "min_bases": 4}]}, "min_bases"),
        ({"findings": [{**FINDING, "contrast": {**CONTRAST, "first": ["muon", "adam"]}}]}, "is muon, adam.*one arm"),
        ({"findings": [{**FINDING, "contrast": {**CONTRAST, "second": "base"}}]}, "is base.*one arm"),
    ],
)
def test_a_preregistration_that_says_nothing_clear_is_refused(prereg, words) -> None:
    raw = raw_study()
    with pytest.raises(SpecError, match=words):
        changed(raw, prereg={**raw["prereg"], **prereg})


def test_the_commit_is_the_first_that_held_the_preregistration_and_unknown_where_none_did(file, tmp_path) -> None:
    git(file.parent, "commit", "-q", "--allow-empty", "-m", "later")
    found = record_of(load_study_spec(file), file)
    assert found is not None
    assert found.commit == git(file.parent, "rev-parse", "HEAD~1")
    assert found.commit_time == float(git(file.parent, "show", "-s", "--format=%ct", "HEAD~1"))
    overridden = record_of(load_study_spec(file, ["run.steps=40"]), file)
    assert overridden is not None and overridden.commit == "unknown"
    alone = tmp_path / "alone.yaml"
    shutil.copy(file, alone)
    outside = record_of(load_study_spec(alone), alone)
    assert outside is not None and (outside.commit, outside.commit_time) == ("unknown", None)


def test_the_plan_prints_hash_commit_and_question(file, tmp_path, capsys) -> None:
    assert execute(["plan", str(file), "--runs", str(tmp_path / "out"), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    study = load_study_spec(file)
    assert study.prereg_hash in shown
    assert git(file.parent, "rev-parse", "HEAD") in shown
    assert "line: Is there a difference?" in shown
    assert execute(["plan", str(file), "--runs", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prereg"]["hash"] == study.prereg_hash


def test_an_edited_preregistration_is_refused_by_plan_and_run_in_one_line(file, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    run_study(str(file), out, workers=1, tasks=TASKS)
    recorded = (out / "confirm" / PREREG_FILE).read_text()
    assert json.loads(recorded)["commit"] == git(file.parent, "rev-parse", "HEAD")
    run_study(str(file), out, workers=1, tasks=TASKS)
    assert (out / "confirm" / PREREG_FILE).read_text() == recorded
    file.write_text(file.read_text().replace("margin: 0.35", "margin: 0.5"))
    for command in ("plan", "run"):
        assert execute([command, str(file), "--runs", str(out)]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert len(shown.err.splitlines()) == 1
        assert "was changed after" in shown.err and json.loads(recorded)["hash"][:12] in shown.err


def test_run_says_where_no_commit_holds_the_preregistration(file, tmp_path, capsys, monkeypatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise SpecError("nothing is run here")

    monkeypatch.setattr("narrowly.study.run.run_study", stop)
    told = {}
    for name, extra in (("held", []), ("changed", ["--set", "run.steps=40"])):
        assert execute(["run", str(file), "--runs", str(tmp_path / "out"), *extra]) == 2
        told[name] = capsys.readouterr().err
    assert "no commit is known" not in told["held"]
    assert "no commit is known that holds the preregistration" in told["changed"]


def test_a_seed_used_before_is_refused_by_plan_and_run_in_one_line(tmp_path, capsys) -> None:
    file = tmp_path / "confirm.yaml"
    file.write_text(yaml.safe_dump(raw_study("micro-3")))
    for command in ("plan", "run"):
        assert execute([command, str(file), "--runs", str(tmp_path / "out")]) == 2
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 1 and "a seed of 0-7" in shown
    assert not (tmp_path / "out").exists()


def test_a_copy_of_a_used_base_under_another_name_is_refused_too(tmp_path) -> None:
    copy = shutil.copytree(SHIPPED / "micro-0", tmp_path / "fresh")
    with pytest.raises(SpecError, match="base micro-0 has a seed of 0-7"):
        check_prereg(parse_study(raw_study(str(copy)), "study"), tmp_path / "out")


def committed(file: Path, first_run: float) -> Path:
    """Write and commit results of the preregistered study; return their folder."""
    record = record_of(load_study_spec(file), file)
    assert record is not None
    results = file.parent / "results"
    results.mkdir()
    kept = record.model_copy(update={"first_run": first_run, "last_run": first_run + 9})
    (results / PREREG_FILE).write_text(kept.model_dump_json(exclude_none=True))
    (results / "summary.json").write_text("{}")
    git(file.parent, "add", ".")
    git(file.parent, "commit", "-qm", "results")
    return results


def test_results_after_the_preregistration_have_no_fault_and_each_disorder_is_told(file) -> None:
    results = committed(file, time.time() + 5)
    assert order_faults(results) == []
    record = json.loads((results / PREREG_FILE).read_text())

    def faults(**fields: Any) -> str:
        (results / PREREG_FILE).write_text(json.dumps({**record, **fields}))
        return "; ".join(order_faults(results))

    assert "before the commit" in faults(first_run=record["commit_time"] - 1)
    assert "is no ancestor" in faults(commit=git(file.parent, "rev-parse", "HEAD"))
    assert "does not hold" in faults(commit=git(file.parent, "rev-parse", "HEAD~2"))
    assert "does not hold" in faults(hash="0" * 64)
    assert "no commit is known" in faults(commit="unknown")
    assert "does not say when" in faults(first_run=None)
    assert "recorded is" in faults(commit_time=record["commit_time"] - 100)


def test_deviations_are_read_and_a_wrong_list_is_one_line(tmp_path) -> None:
    assert read_deviations(tmp_path) == ()
    file = tmp_path / "deviations.yaml"
    file.write_text("deviations:\n- {date: '2026-11-30', what: one base was built twice, why: a power cut}\n")
    assert read_deviations(tmp_path)[0].what == "one base was built twice"
    file.write_text("deviations:\n- {what: something}\n")
    with pytest.raises(SpecError, match=r"deviations\[0\]"):
        read_deviations(tmp_path)
