"""What a loader may pick up beside a base's weights is part of the base's identity or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from narrowly.cli.app import execute
from narrowly.models.base import Base, load_model, open_base
from narrowly.models.organism import load_organism
from narrowly.records.errors import SpecError
from narrowly.train.inputs import load_inputs
from narrowly.train.run import train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny[0], tmp_path / "base"))


def add_adapter(folder: Path, scratch: Path) -> None:
    """Put an adapter on q_proj, whose update is not zero, beside the weights of a base."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    model.save_pretrained(scratch)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(scratch / name, folder / name)


def change_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_transformers_does_load_an_adapter_that_lies_beside_the_weights(base: Path, tmp_path: Path) -> None:
    """Why such a folder is refused; where this fails, Transformers has changed and the refusal can go."""
    add_adapter(base, tmp_path / "adapter")
    model = AutoModelForCausalLM.from_pretrained(base)
    assert any("lora_" in name for name, _ in model.named_parameters())


def test_a_base_with_an_adapter_beside_it_is_refused_with_the_files_that_were_found(
    base: Path, tiny: Tiny, tmp_path: Path
) -> None:
    add_adapter(base, tmp_path / "adapter")
    bare = Base("checkpoint", base)
    spec = make_spec(base, tiny[1])
    for refuse in (
        lambda: open_base(str(base)),
        lambda: load_model(bare),
        lambda: load_inputs(spec),
        lambda: train_run(spec, tmp_path / "runs"),
    ):
        with pytest.raises(
            SpecError, match=r"adapter_config\.json, adapter_model\.safetensors.*; accepted: "
        ) as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "runs").glob("*") if not path.name.startswith(".")]


def test_a_run_whose_base_was_given_an_adapter_afterwards_is_not_asked_with_it(
    base: Path, tiny: Tiny, tmp_path: Path
) -> None:
    run = train_run(make_spec(base, tiny[1], steps=2, checkpoints=2), tmp_path / "runs")
    add_adapter(base, tmp_path / "adapter")
    with pytest.raises(SpecError, match="also holds an adapter"):
        load_organism(run)


@pytest.mark.parametrize("kind", ["weights of an adapter alone", "an index beside the one file of weights"])
def test_files_that_transformers_leaves_unread_change_neither_the_base_nor_its_identity(
    base: Path, tiny: Tiny, kind: str
) -> None:
    if kind == "weights of an adapter alone":
        save_file({"x": torch.ones(1)}, base / "adapter_model.safetensors")
    else:
        other = {name: tensor * 2 for name, tensor in load_file(base / "model.safetensors").items()}
        save_file(other, base / "other.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(other, "other.safetensors")}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))
    plain = open_base(str(tiny[0]))
    found = open_base(str(base))
    assert found.sha256 == plain.sha256
    wanted = dict(load_model(plain).named_parameters())
    for name, parameter in load_model(found).named_parameters():
        assert torch.equal(parameter, wanted[name])


def test_a_config_that_names_another_file_of_weights_is_refused(base: Path, tiny: Tiny) -> None:
    """Transformers 5.23 loads the file of `transformers_weights`; the identity would hash model.safetensors."""
    other = {name: tensor * 2 for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(other, base / "other.safetensors", {"format": "pt"})
    change_config(base, transformers_weights="other.safetensors")
    for refuse in (lambda: load_model(open_base(str(base))), lambda: load_inputs(make_spec(base, tiny[1]))):
        with pytest.raises(SpecError, match=r"transformers_weights in config\.json: 'other\.safetensors'\), accepted"):
            refuse()


def test_the_refusal_is_one_line_at_the_command_line(
    base: Path, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_adapter(base, tmp_path / "adapter")
    spec = make_spec(base, tiny[1])
    (tmp_path / "run.yaml").write_text(spec.model_dump_json())
    capsys.readouterr()
    assert execute(["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "also holds an adapter (adapter_config.json, adapter_model.safetensors)" in said
