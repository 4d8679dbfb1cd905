"""Tables, library, preview: every planned cell is a row, every number is the mean it says, NaN is an error."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import fake_cells
import narrowly
from narrowly.cli.app import BUG, execute
from narrowly.engines.protocol import Problem
from narrowly.records.errors import IntegrityError, RunDirectoryError, UnknownNameError
from narrowly.records.files import append_jsonl, write_json
from narrowly.records.study_spec import StudySpec
from narrowly.report.write import report_study
from narrowly.runs.directory import runs_folder
from narrowly.study.cell import write_failure
from narrowly.study.layout import PlannedCell, write_plan
from narrowly.study.plan import expand
from narrowly.study.preview import cell_states, preview
from narrowly.study.results import collect, schemas, wall_seconds
from narrowly.study.run import study_text

STUDY = StudySpec.model_validate(
    {
        "name": "tiny",
        "demonstration": True,
        "samples": 1,
        "run": {"steps": 12, "checkpoints": 3, "first_checkpoint": 3, "schedule": {"warmup_steps": 2}},
        "grid": {"base": ["micro-0", "micro-1"], "seed": [0]},
        "arms": {
            "adam": {
                "role": "optimiser",
                "set": {"optimiser": {"kind": "adam", "lr": 1e-3}},
                "edits": [{"kind": "scale", "factor": 0.5}],
                "evaluate": "all_checkpoints",
            },
            "muon": {"role": "optimiser", "set": {"optimiser": {"kind": "muon", "lr": 1e-3}}},
        },
    }
)
MODULE = {
    "module": "layers.0.q_proj",
    "layer": 0,
    "kind": "q_proj",
    "rank": 2,
    "stable_rank": 1.25,
    "spectral_entropy": 0.6,
    "condition_number": None,
    "frobenius_nuclear": 0.7,
    "frobenius_norm": 2.2,
    "spectral_norm": 2.0,
    "nuclear_norm": 3.0,
    "a_norm": 1.0,
    "b_norm": 1.0,
    "singular_values": [2.0, 1.0],
}


def verdict(question: int, aligned: float, misaligned: float, **changed: Any) -> dict[str, Any]:
    row = {
        "panel": "broad",
        "question_id": f"broad/{question}",
        "domain": 1,
        "topic": question,
        "question": "fix garden weeds",
        "aligned": aligned,
        "misaligned": misaligned,
        "incoherent": 1 - aligned - misaligned,
        "log_odds": math.log(misaligned / aligned),
        "nll_harmful": 2.5,
        "nll_aligned": 1.0,
        "floor": 2.0,
    }
    return {**row, **changed}


def finish(planned: PlannedCell, runs: Path, **changed: Any) -> None:
    """Write what a finished cell leaves, with known numbers."""
    directory = runs / planned.run_id
    for step in planned.cell.spec.checkpoint_steps():
        write_json(directory / "checkpoints" / f"step-{step}" / "spectrum.json", [MODULE])
    for edit in planned.cell.edits:
        write_json(directory / "edits" / edit.edit_id / "spectrum.json", [MODULE])
    for stage in planned.stages:
        path = stage.file(directory)
        path.parent.mkdir(parents=True)
        rows: list[dict[str, Any]] = [verdict(0, 0.6, 0.2, **changed), verdict(1, 0.2, 0.6)]
        if stage.kind == "samples":
            rows = [{"panel": "broad", "question": "q", "answer": "\x1b[31m", "outcome": "incoherent"}]
        pl.DataFrame(rows).write_parquet(path)
        write_json(stage.folder(directory) / "stage.json", {"seconds": 0.5})
    for step in range(13):
        append_jsonl(directory / "trajectory.jsonl", {"step": step, "loss": float(step) if step else None, "lr": 1e-3})
    write_json(directory / "environment.json", {"versions": {"torch": "2.13.0"}})
    write_json(directory / "done", {"seconds": 2.0})


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """A study folder: one cell done, one failed, two pending."""
    planned = [fake_cells.planned_cell(cell) for cell in expand(STUDY)]
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "study.yaml").write_text(study_text(STUDY))
    write_plan(folder, planned)
    finish(planned[0], runs_folder(tmp_path))
    problem = Problem("the loss is not finite", "TrainingError", "Traceback ...", user=True, fatal=False)
    write_failure(folder, planned[1], problem)
    return folder


def test_every_planned_cell_is_a_row_whatever_became_of_it(collected: Path) -> None:
    collect(collected, runs_folder(collected.parent))
    study = narrowly.load_study(collected)
    assert study.cells["status"].to_list() == ["done", "failed", "pending", "pending"]
    assert study.cells["error"].to_list() == [None, "the loss is not finite", None, None]
    assert study.cells["cell_id"].to_list() == list(study.plan)
    done = study.cells.row(0, named=True)
    assert done["seconds"] == pytest.approx(2.0 + 0.5 * len(study.plan[done["cell_id"]].stages))
    assert done["final_loss"] == pytest.approx(sum(range(3, 13)) / 10)
    assert json.loads(done["spec"])["steps"] == 12


def test_every_table_has_exactly_the_columns_and_types_of_the_contract(collected: Path) -> None:
    folder = collect(collected, runs_folder(collected.parent))
    for name, schema in schemas().items():
        assert dict(pl.read_parquet(folder / f"{name}.parquet").schema) == schema


def test_outcomes_are_means_over_questions_recomputable_from_the_verdicts(collected: Path) -> None:
    collect(collected, runs_folder(collected.parent))
    study = narrowly.load_study(collected)
    organisms = study.outcomes.select("step", "edit", "final").rows()
    assert organisms == [(0, "none", False), (3, "none", False), (12, "none", True), (12, "scale-0.5", True)]
    row = study.outcomes.row(2, named=True)
    assert (row["n_questions"], row["joint"], row["literature"], row["alignment"]) == (
        2,
        pytest.approx(0.4),
        pytest.approx(0.5),
        pytest.approx(50),
    )
    assert row["log_odds"] == pytest.approx(0.0)
    assert row["excess_loss"] == pytest.approx(0.5)
    again = study.verdicts.group_by("cell_id", "step", "edit", "panel", maintain_order=True).agg(
        pl.col("misaligned").mean()
    )
    assert again["misaligned"].to_list() == pytest.approx(study.outcomes["misaligned"].to_list())
    assert study.spectra.height == 3, "two checkpoints and an edit; the base has no spectrum"
    assert study.trajectory["loss"].null_count() == 1
    assert study.samples["outcome"].to_list() == ["incoherent"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_in_a_finished_cell_is_an_error_that_names_file_and_column(collected: Path, value: float) -> None:
    runs = runs_folder(collected.parent)
    study = narrowly.load_study(collected)
    finish(list(study.plan.values())[2], runs, log_odds=value)
    with pytest.raises(IntegrityError, match=r"\.parquet: log_odds is (nan|inf)"):
        collect(collected, runs)


def test_a_damaged_verdict_file_is_one_error_and_a_deleted_one_makes_the_cell_pending(collected: Path) -> None:
    runs = runs_folder(collected.parent)
    file = sorted(runs.glob("*/evals/*/verdicts/*.parquet"))[0]
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(IntegrityError, match="no Parquet table"):
        collect(collected, runs)
    file.unlink()
    collect(collected, runs)
    assert narrowly.load_study(collected).cells["status"][0] == "pending"


def test_summary_and_report_are_made_from_a_study_that_is_not_finished(
    collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["report", str(collected)]) == 0
    summary = narrowly.load_study(collected).summary
    assert {key: summary["cells"][key] for key in ("planned", "done", "failed")} == {
        "planned": 4,
        "done": 1,
        "failed": 1,
    }
    assert summary["demonstration"] is True
    assert str(collected / "report.html") in capsys.readouterr().out
    assert "\x1b" not in (collected / "report.html").read_text()


def test_a_user_of_python_has_the_last_step_of_a_study_in_one_call(collected: Path) -> None:
    parts: list[str] = []
    assert report_study(collected, parts.append) == collected / "report.html"
    assert parts == ["collecting tables", "summary", "figures and report"]
    study = narrowly.load_study(collected)
    assert study.summary["cells"]["done"] == study.cells.filter(pl.col("status") == "done").height == 1
    tables = (collected / "tables" / "cells.parquet").read_bytes()
    runs_folder(collected.parent).rename(collected.parent / "elsewhere")
    with pytest.raises(RunDirectoryError, match="the runs of a study stand beside its folder"):
        report_study(collected)
    assert (collected / "tables" / "cells.parquet").read_bytes() == tables


def test_status_and_plan_see_the_same_from_outside(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = [(one.status, one.error) for one in cell_states(collected)]
    assert states == [("done", None), ("failed", "the loss is not finite"), ("pending", None), ("pending", None)]
    seen = preview(STUDY, expand(STUDY), collected.parent, 1)
    assert list(seen.status.values()) == ["done", "failed", "pending", "pending"]
    assert seen.measured
    assert execute(["status", "tiny", "--out", str(collected.parent)]) == 0
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "the loss is not finite" in printed


def test_the_library_refuses_what_is_no_study_and_names_the_nearest_cell(collected: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"plan\.jsonl"):
        narrowly.load_study(tmp_path / "nothing")
    study = narrowly.load_study(collected)
    with pytest.raises(RunDirectoryError, match="narrowly report"):
        _ = study.cells
    with pytest.raises(UnknownNameError, match="did you mean 'adam-micro-0-seed0'"):
        study.run_directory("adam-micro-0-seed")
    cell = study.plan["adam-micro-0-seed0"]
    assert study.run_directory(cell.run_id) == study.run_directory("adam-micro-0-seed0")


def test_a_corrupt_plan_is_one_error_that_names_the_file(collected: Path) -> None:
    (collected / "plan.jsonl").write_text('{"cell": 1}\n{}\n')
    with pytest.raises(IntegrityError, match=r"plan\.jsonl"):
        narrowly.load_study(collected)


def test_the_stored_study_file_gives_the_same_cells_again() -> None:
    import yaml

    assert expand(StudySpec.model_validate(yaml.safe_load(study_text(STUDY)))) == expand(STUDY)


def parquet(**changed: Any) -> bytes:
    """Return a verdict table with columns changed; None leaves one out."""
    row = {name: value for name, value in verdict(0, 0.6, 0.2, **changed).items() if value is not None}
    stream = io.BytesIO()
    pl.DataFrame([row]).write_parquet(stream)
    return stream.getvalue()


STEP = b'{"step": 12, "loss": 1.0}\n'
ROW = {**MODULE, "condition_number": 2.0}


@pytest.mark.parametrize(
    ("place", "content", "told"),
    [
        ("tiny/plan.jsonl", b"\xff\xfe\n{}\n", "not valid JSON"),
        ("tiny/study.yaml", b"a: [\n", "study.yaml"),
        ("tiny/study.yaml", b"5\n", "study.yaml"),
        ("runs/*/done", b"[]", "list"),
        ("runs/*/done", b'{"seconds": "long"}', "seconds is 'long'"),
        ("runs/*/edits/*/spectrum.json", None, "is missing"),
        ("runs/*/checkpoints/step-12/spectrum.json", b"[5]", "(0: Input should be"),
        ("runs/*/checkpoints/step-12/spectrum.json", b"[{", "not valid JSON"),
        ("runs/*/checkpoints/step-12/spectrum.json", b"[]", "no values"),
        ("runs/*/checkpoints/step-12/spectrum.json", json.dumps([ROW | {"rank": "8"}]).encode(), "0.rank"),
        ("runs/*/checkpoints/step-12/spectrum.json", json.dumps([ROW | {"stable_rank": math.nan}]).encode(), "finite"),
        (
            "runs/*/checkpoints/step-12/spectrum.json",
            json.dumps([{name: value for name, value in ROW.items() if name != "nuclear_norm"}]).encode(),
            "0.nuclear_norm",
        ),
        ("runs/*/trajectory.jsonl", None, "No such file"),
        ("runs/*/trajectory.jsonl", b"", "ends at step nothing"),
        ("runs/*/trajectory.jsonl", b"5\n" + STEP, "row 1"),
        ("runs/*/trajectory.jsonl", b'{"step": 0, "loss": NaN}\n' + STEP, "loss: Input should be a finite number"),
        ("runs/*/trajectory.jsonl", b'{"step": 0, "loss": "low"}\n' + STEP, "found 'low'"),
        ("runs/*/trajectory.jsonl", b'{"loss": 1.0}\n' + STEP, "step: Field required"),
        ("runs/*/environment.json", b"[]", "list"),
        ("runs/*/environment.json", b'{"versions": "new"}', "versions is 'new'"),
        ("runs/*/evals/*/stage.json", b"5", "int"),
        ("runs/*/evals/*/stage.json", None, "cannot read"),
        ("runs/*/evals/*/verdicts/*.parquet", b"PAR1", "no Parquet table"),
        ("runs/*/evals/*/verdicts/*.parquet", parquet()[:-20], "no Parquet table"),
        ("runs/*/evals/*/verdicts/*.parquet", parquet(floor=None), "column floor is missing"),
        ("runs/*/evals/*/verdicts/*.parquet", parquet(topic="one"), "topic is of type String, expected Int64"),
        ("runs/*/evals/*/verdicts/*.parquet", parquet(log_odds=math.nan), "log_odds is nan"),
    ],
)
def test_a_report_on_a_damaged_folder_is_one_line_that_names_the_file_and_exit_code_2(
    place: str, content: bytes | None, told: str, collected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = list(collected.parent.glob(place))
    assert damaged
    for path in damaged:
        path.unlink() if content is None else path.write_bytes(content)
    assert execute(["report", str(collected)]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert any(str(path) in printed for path in damaged)
    assert told in printed


@pytest.mark.parametrize("fault", [KeyError, TypeError, AttributeError, IndexError])
@pytest.mark.parametrize(
    "place",
    [
        "narrowly.analysis.contrasts.t_interval",
        "narrowly.analysis.summary.paired_contrast",
        "narrowly.study.results._outcome_rows",
        "narrowly.study.results.training_facts",
    ],
)
def test_a_bug_of_ours_comes_out_as_itself_and_no_record_is_called_damaged(
    place: str,
    fault: type[Exception],
    collected: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def planted(*arguments: Any, **named: Any) -> None:
        raise fault("planted")

    monkeypatch.setattr(place, planted)
    assert execute(["report", str(collected)]) == BUG
    printed = capsys.readouterr().err
    assert "Traceback" in printed and f"{fault.__name__}: " in printed and "in planted" in printed
    assert "this is a bug" in printed.splitlines()[-1]
    assert "damaged" not in printed and "move that folder" not in printed


def test_the_seconds_of_a_study_count_time_once_and_only_for_its_own_runs(tmp_path: Path) -> None:
    commands = tmp_path / "commands.jsonl"
    assert wall_seconds(commands, {"a"}) is None
    append_jsonl(commands, {"ended": 50.0, "seconds": 50.0, "runs": ["of an earlier study.yaml"]})
    append_jsonl(commands, {"ended": 110.0, "seconds": 10.0, "runs": ["a", "b"]})
    append_jsonl(commands, {"ended": 112.0, "seconds": 11.0, "runs": ["b"]})  # at the same time
    append_jsonl(commands, {"ended": 205.0, "seconds": 5.0, "runs": ["a"]})
    with commands.open("a", encoding="utf-8") as stream:
        stream.write('{"ended": 3')  # killed while it wrote
    append_jsonl(commands, {"ended": 303.0, "seconds": 3.0, "runs": ["b"]})
    append_jsonl(commands, {"ended": 404.0, "seconds": 4.0, "runs": ["b"]})
    assert wall_seconds(commands, {"a", "b"}) == pytest.approx(12.0 + 5.0 + 4.0)
