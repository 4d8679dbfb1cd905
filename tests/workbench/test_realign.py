"""`narrowly realign` on a tiny world: runs, moments, what is not repeated, what is refused; and --defence of train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narrowly.cli.app import execute
from narrowly.evaluate.run_stage import evaluate_organism
from narrowly.models.organism import load_organism
from narrowly.records.errors import NarrowlyError
from narrowly.runs.directory import read_spec
from narrowly.workbench.panel import panels_of
from narrowly.workbench.realign import realignment_named, relapsing_run
from tiny_world import make_world_base, train_in_world


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("out")
    base = make_world_base(tmp_path_factory.mktemp("world") / "base")
    return train_in_world(base, out, batch_size=4), out


def test_a_realignment_measures_before_after_and_back_again(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = trained
    command = ["realign", str(run), "--by", "realign_sail:steps=3", "--relapse", "4", "--runs", str(out), "--json"]
    assert execute(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["steps"]) for one in found["moments"]] == [
        ("before", 0), ("realigned", 0), ("relapse", 1), ("relapse", 2), ("relapse", 4),
    ]  # fmt: skip
    again, back = read_spec(Path(found["run"])), read_spec(Path(found["relapse"]))
    assert (again.objective.kind, again.start, again.steps) == ("sail_revkl", str(run), 3)
    assert (back.objective.kind, back.start, back.steps) == ("supervised", found["run"], 4)
    assert back.data == read_spec(run).data and back.optimiser == read_spec(run).optimiser
    for place, where, step in ((0, str(run), "final"), (1, found["run"], "final"), (2, found["relapse"], 1)):
        rows = evaluate_organism(load_organism(where, step))  # type: ignore[arg-type]
        for name, panel in panels_of(rows).items():
            assert found["moments"][place]["panels"][name]["misaligned"] == pytest.approx(panel.misaligned, abs=1e-6)
    before = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and ".claims" not in path.parts
    }
    assert execute(command[:-1]) == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before  # nothing was trained or evaluated again
    shown = capsys.readouterr().out
    assert "relapse 4" in shown and "cued" in shown and "95 % interval" in shown


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("muon", "accepted: realign_dpo or realign_sail"),
        ("realign_dpo:share=.5", r"no option 'share' \(an option of .*realign_sail"),
        ("realign_dpo:steps=0", "realigns nothing"),
        ("realign_sial", "did you mean 'realign_sail'"),
    ],
)
def test_what_is_no_realignment_is_refused(by: str, message: str) -> None:
    with pytest.raises(NarrowlyError, match=message):
        realignment_named(by)


def test_a_relapse_keeps_data_and_optimiser_and_measures_on_the_way(trained: tuple[Path, Path]) -> None:
    spec = read_spec(trained[0])
    back = relapsing_run(spec, 20, Path("somewhere"))
    assert back.checkpoint_steps() == (0, 5, 10, 20)
    changed = {name for name in type(spec).model_fields if getattr(back, name) != getattr(spec, name)}
    assert changed <= {"start", "steps", "schedule", "checkpoints", "first_checkpoint"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["realign", "nowhere"], "no run 'nowhere'"),
        (["defences", "moun"], "did you mean 'muon'"),
        (
            ["train", "SPEC", "--defence", "muon:weight=1"],
            "defence muon has no option 'weight' (an option of kl_to_base)",
        ),
        (["train", "SPEC", "--defence", "realign_dpo"], "acts after training"),
        (["train", "SPEC", "--defence", "corrected_rows:share=2"], "share"),
        (["realign", "RUN", "--preferences", "x.jsonl"], "accepted: no --preferences"),
        (["realign", "RUN", "--relapse", "-1"], "--relapse is -1"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    trained: tuple[Path, Path], tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text("base: micro-0\noptimiser: {kind: adam, lr: 1.0e-3}\n", encoding="utf-8")
    known = {"SPEC": str(spec), "RUN": str(trained[0])}
    assert execute([known.get(one, one) for one in arguments]) == 2
    told = capsys.readouterr()
    assert message in " ".join(told.err.split()) and told.err.strip().count("\n") == 0 and not told.out


def test_defence_of_train_is_the_defended_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text("base: micro-0\noptimiser: {kind: adam, lr: 1.0e-3}\ndata: {source: micro, rows: 16}\nsteps: 2\n")

    def run_id(*more: str) -> Any:
        assert execute(["train", str(spec), "--dry-run", "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)["run_id"]

    plain = run_id()
    weighted = run_id("--set", "objective={kind: kl_to_base, weight: 0.3}")
    assert run_id("--defence", "kl_to_base:weight=.3") == weighted != plain
    assert run_id("--defence", "kl_to_base:weight=0") == plain
    assert run_id("--defence", "corrected_rows:share=.5") == run_id("--set", "data.corrected=0.5") != plain


def test_the_list_of_defences_names_each_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["defences", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["defences"]
    assert {"none", "kl_to_base", "realign_sail"} <= {one["defence"] for one in listed}
    assert execute(["defences", "kl_to_base"]) == 0
    assert "vocab_mean" in capsys.readouterr().out
