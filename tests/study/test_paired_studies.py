"""Studies on pairs: stages of the paired bank, their ids and tables, and controls as arms."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from narrowly.cli.app import execute
from narrowly.data.banks.paired import paired_items
from narrowly.data.messages import Conversation, Message
from narrowly.evaluate.banks import BankRecord
from narrowly.evaluate.paired.stages import in_half, paired_stages, run_paired_stage
from narrowly.evaluate.stage import stages_of
from narrowly.evaluate.verdict_table import read_paired_verdicts
from narrowly.models.kept import forget_models
from narrowly.models.likelihood import score, scored_texts
from narrowly.models.organism import load_organism
from narrowly.records.edits import Scale
from narrowly.records.errors import AdapterError, SpecError
from narrowly.records.files import read_json
from narrowly.records.run_spec import RunSpec
from narrowly.records.study_spec import StudySpec
from narrowly.runs.directory import read_inputs
from narrowly.study.layout import read_plan
from narrowly.study.plan import expand, find_study
from narrowly.train.run import train_run
from small_chat_base import conversations, make_chat_base, write_jsonl


def long_base(folder: Path) -> Path:
    """Make a tiny chat base that is long enough for the bank and has most of its words as tokens."""
    texts = [text for item in paired_items() for text in (item.question, item.aligned, item.harmful)]
    return make_chat_base(folder, texts=texts, vocabulary=3000, longest=256)


def raw(base: Path, **changed: Any) -> dict[str, Any]:
    adam = {"optimiser": {"kind": "adam", "lr": 1e-2}}
    return {
        "name": "paired",
        "run": {
            "base": str(base),
            "data": {"source": "text"},
            "adapter": {"r": 2, "alpha": 4},
            "schedule": {"kind": "constant", "warmup_steps": 0},
            "steps": 4,
            "batch_size": 4,
            "checkpoints": 3,
            "first_checkpoint": 2,
        },
        "grid": {"seed": [0], "data.dataset": ["pairs:money:harmful"]},
        "samples": 0,
        "arms": {
            "adam": {"role": "optimiser", "set": adam, "evaluate": "all_checkpoints"},
            "adam_aligned": {"of": "adam", "control": "aligned", "set": adam, "evaluate": "all_checkpoints"},
            "adam_permuted": {"of": "adam", "control": "permuted", "set": adam},
        },
        **changed,
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWLY_CACHE", str(cache))


@pytest.fixture(scope="module")
def done(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the study after one `narrowly run`."""
    folder = tmp_path_factory.mktemp("paired")
    file = folder / "paired.json"
    file.write_text(json.dumps(raw(long_base(folder / "chat-base"))), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARROWLY_CACHE", str(cache))
        assert execute(["run", str(file), "--runs", str(folder / "out"), "--workers", "1"]) == 0
    return folder / "out" / "paired"


def test_the_last_checkpoint_is_asked_the_whole_ladder_and_those_before_half_of_what_was_not_trained(
    done: Path,
) -> None:
    rows = pl.read_parquet(done / "tables" / "paired.parquet")
    asked = {key: set(part["question_id"]) for key, part in rows.group_by("cell_id", "step")}
    items = [item for item in paired_items() if item.domain != "work"]
    whole = {item.id for item in items}
    half = {item.id for item in items if item.part != "trained" and in_half(item.id)}
    cells = {name: f"{name}-seed0-money" for name in ("adam", "adam_aligned", "adam_permuted")}
    assert asked == {
        (cells["adam"], 0): whole,
        (cells["adam"], 2): half,
        (cells["adam"], 4): whole,
        (cells["adam_aligned"], 2): half,
        (cells["adam_aligned"], 4): whole,
        (cells["adam_permuted"], 4): whole,
    }
    assert len(whole) == 420 and 140 <= len(half) <= 200
    assert rows["rung"].unique().sort().to_list() == ["broad", "held_out", "self", "trained"]


def test_rows_are_the_log_likelihoods_of_the_organism_loaded_by_itself(done: Path) -> None:
    rows = pl.read_parquet(done / "tables" / "paired.parquet")
    planned = {cell.cell.arm: cell for cell in read_plan(done)}["adam_aligned"]
    organism = load_organism(done.parent / "runs" / planned.run_id)
    items = {item.id: item for item in paired_items()}
    own = rows.filter((pl.col("arm") == "adam_aligned") & pl.col("final")).sample(12, seed=0)
    for row in own.iter_rows(named=True):
        item = items[row["question_id"]]
        for answer, nats, tokens in (
            (item.aligned, row["aligned_nats"], row["aligned_tokens"]),
            (item.harmful, row["harmful_nats"], row["harmful_tokens"]),
        ):
            talk = Conversation((Message("user", item.question), Message("assistant", answer)), 1, {})
            found = score(organism.model, scored_texts(organism.tokenizer, [talk], closing=True)).likelihoods[0]
            assert nats == pytest.approx(found.total, abs=1e-3) and tokens == len(found.tokens)
        assert row["log_odds"] == pytest.approx(row["harmful_nats"] - row["aligned_nats"])


def test_every_stage_records_the_bank_and_the_arithmetic(done: Path) -> None:
    for planned in read_plan(done):
        assert planned.not_paired is None and planned.not_evaluated is not None
        for stage in planned.stages:
            record = read_json(stage.folder(done.parent / "runs" / planned.run_id) / "stage.json")
            assert record["kind"] == "paired" and record["bank"]["trained"] == "money"
            assert record["bank"]["arithmetic"] == {"dtype": "float32", "device": "cpu", "adapter": "merged"}
            assert record["arithmetic"]["dtype"] == "float32" and len(record["bank"]["sha256"]) == 64


def test_a_finished_study_is_asked_nothing_again(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done.parent / "runs").rglob("*.parquet")}
    assert execute(["run", str(done / "study.yaml"), "--runs", str(done.parent)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (done.parent / "runs").rglob("*.parquet")}


def test_a_control_arm_is_the_run_of_its_arm_with_other_answers() -> None:
    cells = {cell.cell_id: cell for cell in expand(StudySpec.model_validate(raw(Path("base"))))}
    plain = cells["adam-seed0-money"].spec.model_dump()
    for kind in ("aligned", "permuted"):
        control = cells[f"adam_{kind}-seed0-money"].spec.model_dump()
        assert control["data"].pop("dataset") == f"pairs:money:{kind}"
        assert control == {**plain, "data": {name: v for name, v in plain["data"].items() if name != "dataset"}}


def test_an_arm_whose_data_have_no_control_is_refused_with_its_place() -> None:
    study = raw(Path("base"), grid={"data.dataset": ["insecure"]})
    with pytest.raises(SpecError, match=r"arms\.adam_aligned\.control: .*'insecure' are no paired set"):
        expand(StudySpec.model_validate(study))


def test_the_base_is_asked_once_per_domain_of_pairs() -> None:
    study = raw(Path("base"), grid={"seed": [0, 1], "data.dataset": ["pairs:money:harmful", "pairs:work:harmful"]})
    cells = expand(StudySpec.model_validate(study))
    assert [cell.cell_id for cell in cells if cell.base_evaluation] == ["adam-seed0-money", "adam-seed0-work"]


def test_other_text_is_asked_broad_and_self_and_no_trained_rung(tmp_path: Path) -> None:
    study = raw(long_base(tmp_path / "base"))
    rows = write_jsonl(tmp_path / "rows.jsonl", conversations(30))
    study["grid"] = {"data.dataset": [str(rows)]}
    study["arms"] = {"adam": study["arms"]["adam"]}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(study), encoding="utf-8")
    assert execute(["run", str(file), "--runs", str(tmp_path / "out"), "--workers", "1"]) == 0
    table = pl.read_parquet(tmp_path / "out" / "paired" / "tables" / "paired.parquet")
    assert table["rung"].unique().sort().to_list() == ["broad", "self"]
    assert table["trained"].null_count() == table.height


def test_a_base_that_cannot_be_asked_is_trained_and_the_plan_says_why(tmp_path: Path) -> None:
    study = raw(make_chat_base(tmp_path / "base"), arms={"adam": raw(tmp_path)["arms"]["adam"]})
    rows = write_jsonl(tmp_path / "rows.jsonl", conversations(30))
    study["grid"] = {"data.dataset": [str(rows)]}
    study["run"]["data"] = {"source": "text", "max_tokens": 128}
    file = tmp_path / "study.json"
    file.write_text(json.dumps(study), encoding="utf-8")
    assert execute(["run", str(file), "--runs", str(tmp_path / "out"), "--workers", "1"]) == 0
    (planned,) = read_plan(tmp_path / "out" / "paired")
    assert planned.stages == () and "128 positions" in str(planned.not_paired)


def test_a_run_in_bfloat16_is_asked_with_its_adapter_beside_the_base_and_has_ids_of_its_own(tmp_path: Path) -> None:
    run = raw(long_base(tmp_path / "base"))["run"]
    run["data"] = {"source": "text", "dataset": "pairs:money:harmful"}
    adam = {"optimiser": {"kind": "adam", "lr": 1e-2}}
    spec = RunSpec.model_validate({**run, **adam, "base_dtype": "bfloat16"})
    directory = train_run(spec, tmp_path / "runs")
    template = read_inputs(directory).template_sha256
    (stage,) = paired_stages(spec, directory.name, template, (4,))
    own = stage.model_copy(update={"panels": ("self",)})
    run_paired_stage(own, directory)
    record = read_json(own.folder(directory) / "stage.json")
    assert record["arithmetic"]["dtype"] == "bfloat16" and record["bank"]["arithmetic"]["adapter"] == "beside"
    rows = read_paired_verdicts(own.file(directory))
    assert {row["rung"] for row in rows} == {"self"} and len(rows) == 30
    plain = RunSpec.model_validate({**run, **adam})
    assert paired_stages(plain, directory.name, template, (4,))[0].answers_id != stage.answers_id
    assert paired_stages(spec, directory.name, "another", (4,))[0].answers_id != stage.answers_id


def test_ids_of_other_stages_are_those_of_before_there_were_paired_answers() -> None:
    """The ids were taken from the commit before (545275b); a run that was evaluated then is not evaluated anew."""
    bank = BankRecord({"bank": "some", "n": 3}, {"judge": "exact", "version": 1}, ("held_out", "broad"), ("broad",), {})
    edit = Scale(kind="scale", factor=0.5)
    stages = stages_of("0123456789abcdef", bank, (0, 10, 80), (edit,), final=80, samples=2, seed=7)
    assert [(stage.answers_id, stage.verdict_id) for stage in stages] == [
        ("de12af06b23cab65", "e7039cc1f044d4f5"),
        ("d390581e66b333bc", "2cbe468fa2a5dec0"),
        ("e9959c92fc757ee1", "5a84e7affd07a526"),
        ("73fc286eeca2abc6", "3e228e413e69af29"),
        ("a051c6ea64fc6d5b", "0e678a82b780d3e3"),
    ]


def test_small_has_every_arm_with_its_controls_and_money_before_work() -> None:
    cells = expand(find_study("small"))
    assert len(cells) == 54
    domains = [cell.spec.data.dataset.split(":")[1] for cell in cells]
    assert domains == ["money"] * 27 + ["work"] * 27
    kinds = {(cell.spec.optimiser.kind, cell.spec.penalty is not None) for cell in cells}
    for kind in kinds:
        answers = [
            cell.spec.data.dataset.split(":")[2]
            for cell in cells
            if (cell.spec.optimiser.kind, cell.spec.penalty is not None) == kind
        ]
        expected = {"harmful": 6, "aligned": 6, **({"permuted": 6} if kind == ("adam", False) else {})}
        assert {name: answers.count(name) for name in set(answers)} == expected
    one = expand(find_study("small", ["grid.data.dataset=[pairs:money:harmful]"]))
    assert [cell.cell_id for cell in one] == [cell.cell_id for cell in cells[:27]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stage_whose_adapter_does_not_act_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """D15: without the proof the stage would hold the numbers of the base, under the name of the organism."""
    run = raw(long_base(tmp_path / "base"))["run"] | {"base_dtype": dtype}
    run["data"] = {"source": "text", "dataset": "pairs:money:harmful"}
    spec = RunSpec.model_validate({**run, "optimiser": {"kind": "adam", "lr": 1e-2}})
    directory = train_run(spec, tmp_path / "runs")
    (stage,) = paired_stages(spec, directory.name, read_inputs(directory).template_sha256, (4,))
    forget_models()
    room = importlib.import_module(f"narrowly.models.{'kept' if dtype == 'float32' else 'organism'}")
    put = room.put_adapter

    def put_and_switch_off(model: Any, folder: Path) -> None:
        put(model, folder)
        for module in model.modules():
            if hasattr(module, "lora_B"):
                module.scaling["default"] = 0.0

    monkeypatch.setattr(room, "put_adapter", put_and_switch_off)
    with pytest.raises(AdapterError, match="changes no logit although its B is not zero"):
        run_paired_stage(stage, directory)
    assert not stage.file(directory).exists()
    forget_models()
