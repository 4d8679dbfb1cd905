"""Organisms: what is loaded is what was trained, on the base it was trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from narrowly.models.edited import edited_adapter
from narrowly.models.kept import kept_organism
from narrowly.models.lora import merged
from narrowly.models.organism import load_organism
from narrowly.records.edits import Scale
from narrowly.records.errors import AdapterError, IntegrityError, RunDirectoryError, SpecError
from narrowly.records.files import read_jsonl
from narrowly.runs.directory import adapter_folder
from narrowly.train.observe import ObserverContext
from narrowly.train.run import train_run
from tiny_base import make_spec

Tiny = tuple[Path, Path]
PROMPT = torch.tensor([[1, 10, 11, 2]])


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def logit(context: ObserverContext) -> dict[str, float]:
        return {"logit": float(context.model(input_ids=PROMPT).logits[0, -1, 7])}

    return train_run(make_spec(*tiny), tmp_path_factory.mktemp("organisms"), observers=[logit])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=PROMPT).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("step", "number"), [(0, 0), (2, 2), (6, 6), ("final", 6)])
def test_an_organism_answers_as_the_live_model_did_at_its_step(run: Path, step: int, number: int) -> None:
    organism = load_organism(run, step)
    assert not organism.model.training
    recorded = read_jsonl(run / "trajectory.jsonl")[number]["logit"]
    assert float(logits(organism.model)[0, -1, 7]) == pytest.approx(recorded, rel=1e-5)


def test_an_organism_is_loaded_in_the_dtype_it_was_trained_in(tiny: Tiny, tmp_path: Path) -> None:
    def look(context: ObserverContext) -> dict[str, float]:
        return {"logit": float(logits(context.model)[0, -1, 7])}

    run = train_run(make_spec(*tiny, base_dtype="bfloat16"), tmp_path, observers=[look])
    for step in (0, 2, 6):
        model = load_organism(run, step).model
        assert float(logits(model)[0, -1, 7]) == read_jsonl(run / "trajectory.jsonl")[step]["logit"]
        assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
        assert {p.dtype for n, p in model.named_parameters() if "lora_" not in n} == {torch.bfloat16}


def test_plain_peft_loads_a_checkpoint_and_the_base_stands_beside_the_organism(run: Path, tiny: Tiny) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32)
    untouched = logits(base)
    organism = load_organism(run)
    torch.testing.assert_close(
        logits(organism.model), logits(PeftModel.from_pretrained(base, run / "checkpoints/step-6"))
    )
    with organism.model.disable_adapter():
        assert torch.equal(logits(organism.model), untouched)
    assert organism.base.name == "tiny-base"


def test_an_edited_adapter_has_a_place_of_its_own(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / run.name)
    target = adapter_folder(own, "final", "scale-0.5")
    assert target == own / "edits" / "scale-0.5"
    assert adapter_folder(own, 2, "scale-0.5") == own / "edits" / "scale-0.5-step-2"
    with pytest.raises(RunDirectoryError, match=r"no edit 'scale-0\.5' \(found: none\)"):
        load_organism(own, "final", "scale-0.5")
    shutil.copytree(own / "checkpoints/step-6", target)
    tensors = load_file(target / "adapter_model.safetensors")
    save_file({n: t * (0.5 if "lora_B" in n else 1) for n, t in tensors.items()}, target / "adapter_model.safetensors")
    assert not torch.equal(logits(load_organism(own, "final", "scale-0.5").model), logits(load_organism(own).model))


def test_a_step_without_checkpoint_names_those_there_are(run: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no checkpoint of step 3 \(accepted: 0, 2, 6\)"):
        load_organism(run, 3)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        load_organism(tmp_path)


def test_an_adapter_that_is_not_the_recorded_one_is_refused(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / run.name)
    shutil.copy(own / "checkpoints/step-2/adapter_model.safetensors", own / "checkpoints/step-6")
    with pytest.raises(IntegrityError, match="the run's record says"):
        load_organism(own)


def test_an_edit_whose_weights_are_not_those_of_its_record_is_refused(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / run.name)
    target = edited_adapter(own, Scale(factor=0.5))
    load_organism(own, "final", "scale-0.5")
    shutil.copy(own / "checkpoints/step-6/adapter_model.safetensors", target)
    with pytest.raises(IntegrityError, match=r"edit\.json says"):
        load_organism(own, "final", "scale-0.5")


def test_an_adapter_that_was_cut_off_is_one_clear_error(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / run.name)
    (own / "done").unlink()
    weights = own / "checkpoints/step-6/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    with pytest.raises(AdapterError, match="not a valid safetensors file"):
        load_organism(own)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_is_in_float32_and_leaves_every_weight_as_it_was(dtype: str, tiny: Tiny, tmp_path: Path) -> None:
    run = train_run(make_spec(*tiny, base_dtype=dtype), tmp_path)
    organism = load_organism(run)
    before = {name: (one.dtype, one.detach().clone()) for name, one in organism.model.named_parameters()}
    answers = logits(kept_organism(run, 6).model)
    with merged(organism.model) as model:
        assert torch.equal(logits(model), answers) and answers.dtype == torch.float32
    for name, one in organism.model.named_parameters():
        assert one.dtype == before[name][0] and torch.equal(one, before[name][1]), name


def test_an_error_while_an_adapter_is_merged_leaves_every_weight_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_organism(run).model
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    layers = [module for module in model.modules() if hasattr(module, "merged_adapters")]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(layers[1], "merge", fail)
    with pytest.raises(RuntimeError, match="no memory"), merged(model):
        pass
    assert not any(layer.merged_adapters for layer in layers)
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_a_device_that_is_not_there_is_one_clear_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:1", "gpu"):
        with pytest.raises(SpecError, match=f"device is '{device}'.*accepted: cpu"):
            load_organism(run, device=device)


def test_a_pickled_adapter_is_never_loaded(run: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / run.name)
    folder = own / "checkpoints/step-6"
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"has no adapter_model\.safetensors"):
        load_organism(own)


def test_a_base_that_changed_since_training_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    base = shutil.copytree(tiny[0], tmp_path / "base")
    run = train_run(make_spec(base, tiny[1], steps=2, checkpoints=2), tmp_path / "runs")
    tensors = load_file(base / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match="was trained on"):
        load_organism(run)
