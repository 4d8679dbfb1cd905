"""`narrowly train --dry-run`, `--init` and `--schema`: what a run would be, and all that is wrong with it at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from narrowly.cli.app import execute
from narrowly.data.rows import read_rows
from narrowly.records.optimisers.registry import OPTIMISERS
from narrowly.records.run_schema import run_schema
from narrowly.records.run_spec import ALL_LINEAR, RunSpec, load_run_spec
from narrowly.records.spec_faults import spec_and_faults
from narrowly.records.starting_spec import HUB_BASE, starting_spec
from narrowly.train.dry_run import dry_run
from narrowly.train.run import train_run
from small_chat_base import conversations, make_chat_base, write_jsonl
from tiny_base import SHORT_RUN

Tiny = tuple[Path, Path]
ADAM = {"kind": "adam", "lr": 1e-3}


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of a tiny chat base, and a file of conversations."""
    folder = tmp_path_factory.mktemp("chat")
    return make_chat_base(folder / "base"), write_jsonl(folder / "rows.jsonl", conversations(30))


def written(folder: Path, fields: dict[str, Any]) -> Path:
    (folder / "run.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    return folder / "run.yaml"


def text_run(chat: tuple[Path, Path], **fields: Any) -> dict[str, Any]:
    data = {"source": "text", "dataset": str(chat[1]), "holdout": 6}
    return {"base": str(chat[0]), "data": data, "optimiser": ADAM, "epochs": 2, "batch_size": 4, **fields}


def names_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_run_that_is_right_is_told_as_it_will_be_and_nothing_is_written(
    chat: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = written(tmp_path, text_run(chat))
    before = names_under(tmp_path)
    found = dry_run(spec, [], tmp_path / "runs")
    assert names_under(tmp_path) == before
    assert found.faults == []
    assert (found.rows, found.heldout, found.spec.steps, found.epochs, found.state) == (24, 6, 12, 2, "new")
    run = train_run(spec, tmp_path / "runs")
    assert run.name == found.run_id
    record = json.loads((run / "data.json").read_text())
    assert found.tokens == (record["tokens"], record["supervised_tokens"], record["longest"])
    assert dry_run(spec, [], tmp_path / "runs").state == "done"


def test_the_shown_row_is_the_first_one_with_its_loss(tiny: Tiny, tmp_path: Path) -> None:
    spec = {"base": str(tiny[0]), "data": {"source": "rows", "path": str(tiny[1])}, **SHORT_RUN}
    found = dry_run(written(tmp_path, spec), [], tmp_path)
    first = read_rows(tiny[1])[0]
    assert [loss for _, loss in found.pieces] == [label != -100 for label in first.labels]
    assert found.model.matrices == dict.fromkeys(ALL_LINEAR, 2)


def test_everything_that_is_wrong_is_said_in_one_list(
    chat: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = text_run(chat, base="mikro-0", batch_size=0, schedule={"kind": "cosin"}, device="cuda", stepz=4)
    fields["data"] = {"source": "text", "dataset": "nowhere.jsonl", "longr": "cut"}
    command = ["train", str(written(tmp_path, fields)), "--dry-run", "--set", "learning_rate=3", "--json"]
    assert execute(command) == 2
    faults = json.loads(capsys.readouterr().out)["faults"]
    for words in (
        ("--set learning_rate", "optimiser.lr"),
        ("data.longr", "'longer'"),
        ("schedule.kind", "'cosine'"),
        ("batch_size", "found 0"),
        ("stepz", "'steps'"),
        ("unknown base 'mikro-0'", "'micro-0'", "save_pretrained", "NAME/MODEL@COMMIT"),
        ("nowhere.jsonl",),
        ("device is cuda",),
    ):
        assert [fault for fault in faults if all(word in fault for word in words)], words
    assert len(faults) == len(set(faults)) == 8


def test_bad_rows_long_rows_and_wrong_layers_are_all_counted(
    chat: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "short"
    good = {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": said}]}
    long = {"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": said * 60}]}
    rows = write_jsonl(tmp_path / "rows.jsonl", [good, {"messages": good["messages"][:1]}, long, good, long])
    data = {"source": "text", "dataset": str(rows), "max_tokens": 32}
    fields = text_run(chat, data=data, adapter={"target_modules": ["q_prj"]})
    assert execute(["train", str(written(tmp_path, fields)), "--dry-run"]) == 2
    told = capsys.readouterr().out
    assert "1 of 5 rows (line 2: no assistant turn" in told and "bad_rows: drop" in told
    assert "2 of 5 rows (line 3: " in told and "longer than data.max_tokens (32)" in told
    assert "unknown target module 'q_prj'; did you mean 'q_proj'?" in told
    assert "3 to mend; nothing was written" in told


def test_a_faulty_spec_keeps_what_fits_for_a_look_at_it() -> None:
    spec, faults = spec_and_faults({"base": "micro-3", "seed": "x", "steps": 4, "epochs": 2, "device": "cuda"})
    assert len(faults) == 3  # the seed, no optimiser, two lengths
    assert (spec.base, spec.device, spec.seed, spec.steps) == ("micro-3", "cuda", 0, 4)
    whole, none = spec_and_faults({"optimiser": ADAM})
    assert (whole, none) == (RunSpec(optimiser=ADAM), [])


def test_words_that_the_tokenizer_cannot_write_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "fix weeds"}, {"role": "assistant", "content": "serendipity"}]
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}])
    spec = written(
        tmp_path, {"base": "micro-0", "data": {"source": "text", "dataset": str(rows)}, "optimiser": ADAM, "epochs": 1}
    )
    assert execute(["train", str(spec), "--dry-run"]) == 0
    assert "1 of 8 tokens, in 1 of 1 rows, are <|unk|>" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["micro", "text"])
def test_the_starting_spec_is_valid_and_says_the_defaults(kind: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(starting_spec(kind), encoding="utf-8")
    spec = load_run_spec(tmp_path / "run.yaml")
    default = RunSpec(optimiser=spec.optimiser, base=spec.base, data=spec.data)
    assert spec.model_copy(update={"epochs": None, "steps": 80}) == default
    assert spec.base == {"micro": "micro-0", "text": HUB_BASE}[kind]


def test_the_starting_spec_of_the_microworld_trains_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["train", "--init", "micro"]) == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert execute(["train", str(tmp_path / "run.yaml"), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    assert "80 of 8 x 1 rows = 1 epochs" in capsys.readouterr().out


def test_the_starting_spec_for_a_file_trains_once_base_and_file_are_named(
    chat: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["train", "--init"]) == 0
    text = capsys.readouterr().out.replace("rows.jsonl ", f"{chat[1]} ").replace(HUB_BASE, str(chat[0]))
    (tmp_path / "run.yaml").write_text(text.replace("  thinking: false", "  # thinking: false"), encoding="utf-8")
    assert execute(["train", str(tmp_path / "run.yaml"), "--dry-run", "--out", str(tmp_path / "out")]) == 0


def test_the_schema_is_printed_and_what_contradicts_itself_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["train", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == run_schema()
    for command in (["train"], ["train", "--init", "--schema"], ["train", "--init", "--set", "seed=1"]):
        assert execute(command) == 2
        assert "accepted" in capsys.readouterr().err
    assert execute(["train", "--init", "mcro"]) == 2
    assert "did you mean 'micro'" in capsys.readouterr().err


def test_the_closing_table_has_the_held_out_loss_and_the_bases(
    chat: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path, text_run(chat))
    assert execute(["train", str(spec), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "held-out" in told.splitlines()[0]
    assert execute(["train", str(spec), "--out", str(tmp_path / "out"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    last, base = rows[-1]["heldout_loss"], rows[0]["base_heldout_loss"]
    assert f"held-out loss: {last:.3g} at the end, {base:.3g} of the base (nats per supervised token, 6 rows)" in told


@pytest.mark.parametrize("kind", sorted(OPTIMISERS))
@pytest.mark.parametrize("method", ["lora", "full"])
def test_no_optimiser_is_refused_with_the_defaults_of_a_run(kind: str, method: str) -> None:
    """With what must be given alone, in a run of one step; but for those that train factors only, and say so."""
    optimiser: dict[str, Any] = {"kind": kind, "lr": 1e-3}
    if method == "full" and "other" in OPTIMISERS[kind].model_fields:
        optimiser["other"] = {"kind": "adamw", "lr": 1e-3}
    for steps in (1, 80):
        _, faults = spec_and_faults({"optimiser": optimiser, "method": method, "steps": steps})
        assert [fault for fault in faults if "method full" not in fault] == []
        assert method == "full" or faults == []


def test_the_memory_of_weights_and_factors_is_counted_exactly(tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    spec = {"base": str(tiny[0]), "data": {"source": "rows", "path": str(tiny[1])}, **SHORT_RUN}
    found = dry_run(written(tmp_path, spec), [], tmp_path / "runs")
    run = train_run(tmp_path / "run.yaml", tmp_path / "runs")
    factors = load_file(run / "checkpoints" / "step-6" / "adapter_model.safetensors")
    assert found.model.trained == sum(tensor.numel() for tensor in factors.values())
    base = load_file(tiny[0] / "model.safetensors")
    assert found.model.memory.base == 4 * sum(tensor.numel() for tensor in base.values())
    assert found.model.memory.optimiser == 2 * found.model.memory.trained == 8 * found.model.trained
    assert found.model.memory.total == sum(found.model.memory)
