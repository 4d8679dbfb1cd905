"""What can be asked: an adapter from elsewhere is applied whole or refused, and what was asked is known by content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from narrowly.models.asked import adapter_to_ask, model_to_ask, organism_to_ask
from narrowly.records.errors import AdapterError, SpecError
from narrowly.train.run import train_run
from small_chat_base import conversations, make_chat_base, text_spec, write_jsonl

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_base(tmp_path_factory.mktemp("asked") / "chat-base")


def write_adapter(base: Path, folder: Path, *, resize: int | None = None, **fields: Any) -> torch.Tensor:
    """Write an adapter whose factors are not zero, as PEFT does; return its logits."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if resize:
        model.resize_token_embeddings(resize)
    config: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], **fields}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif name.endswith(".bias") and parameter.requires_grad:
                parameter.add_(1.0)
    adapted.save_pretrained(folder, save_embedding_layers=bool(resize))
    return logits(adapted)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora with patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 1}},
    "dora": {"use_dora": True},
    "biases": {"lora_bias": True},
    "modules saved in full": {"modules_to_save": ["lm_head"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "tokens of their own": {"trainable_token_indices": [3, 7]},
    "more embeddings": {"resize": 344},
    "more embeddings with factors": {"resize": 344, "target_modules": ["embed_tokens", "q_proj"]},
    "a start that changes the base": {"init_lora_weights": "pissa"},
    "another start that changes the base": {"init_lora_weights": "olora"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_from_elsewhere_answers_as_in_peft_and_its_base_as_without_it(
    variant: str, base: Path, tmp_path: Path
) -> None:
    wanted = write_adapter(base, tmp_path / "adapter", **VARIANTS[variant])
    found = adapter_to_ask(tmp_path / "adapter", None)
    loaded = found.load(found.tokenizer(), "float32", "cpu", beside_base=True)
    with loaded.speaking("organism") as model:
        torch.testing.assert_close(logits(model), wanted)
    plain = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    with loaded.speaking("base") as model:
        torch.testing.assert_close(logits(model), plain)  # PEFT's model without its adapter is not always the base
    assert not torch.allclose(wanted[..., : plain.shape[-1]], plain)
    organism, beside = loaded.asked["organism"], loaded.asked["base"]
    assert (organism.name, organism.base, beside.name) == ("adapter", "chat-base", "chat-base")
    assert organism.base_sha256 == beside.base_sha256 and beside.trained_sha256 is None
    assert organism.model_id != beside.model_id
    assert str(tmp_path) not in json.dumps([one.model_dump() for one in loaded.asked.values()])


def test_a_base_whose_biases_were_trained_is_asked_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = make_chat_base(tmp_path / "base")
    config = Qwen2Config(vocab_size=301, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128)  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(base)
    plain = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    wanted = write_adapter(base, tmp_path / "adapter", bias="all")
    found = adapter_to_ask(tmp_path / "adapter", None)
    loaded = found.load(found.tokenizer(), "float32", "cpu", beside_base=True)
    with loaded.speaking("base") as model:
        torch.testing.assert_close(logits(model), plain)
    torch.testing.assert_close(logits(loaded.model), wanted)


def change_config(folder: Path, **fields: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING', accepted: LORA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4', a start that.*converted"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga', a start that.*converted"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config is set"),
        ({"rank_pattern": {"(a*)*(b*)*x+": 4}}, "more than 4 repeats"),
        ({"base_model_name_or_path": None}, "names no base; give it with --base BASE"),
        ({"base_model_name_or_path": "/nowhere/base"}, "names the base '/nowhere/base'.*--base BASE.*unknown base"),
        ({"base_model_name_or_path": "some/model"}, "names the base 'some/model'.*local cache of the hub"),
    ],
)
def test_a_config_that_cannot_be_applied_is_refused_before_anything_is_loaded(
    fields: dict[str, object], message: str, base: Path, tmp_path: Path
) -> None:
    write_adapter(base, tmp_path / "adapter")
    change_config(tmp_path / "adapter", **fields)
    with pytest.raises((AdapterError, SpecError), match=message) as caught:
        adapter_to_ask(tmp_path / "adapter", None)
    assert "\n" not in str(caught.value)


def test_a_field_that_the_installed_peft_does_not_know_is_refused(base: Path, tmp_path: Path) -> None:
    """PEFT leaves such a field out with a warning, and a newer kind of LoRA would be asked as a plain one."""
    wanted = write_adapter(base, tmp_path / "adapter")
    change_config(tmp_path / "adapter", use_newer_lora=None)
    found = adapter_to_ask(tmp_path / "adapter", None)
    torch.testing.assert_close(logits(found.load(None, "float32", "cpu", beside_base=False).model), wanted)
    change_config(tmp_path / "adapter", use_newer_lora={"a": 1})
    with pytest.raises(AdapterError, match="PEFT as installed does not know use_newer_lora"):
        found.load(None, "float32", "cpu", beside_base=False)


def test_a_base_that_is_given_takes_the_place_of_the_one_that_is_not_found(base: Path, tmp_path: Path) -> None:
    wanted = write_adapter(base, tmp_path / "adapter")
    change_config(tmp_path / "adapter", base_model_name_or_path="/nowhere/base")
    found = adapter_to_ask(tmp_path / "adapter", str(base))
    loaded = found.load(found.tokenizer(), "float32", "cpu", beside_base=False)
    torch.testing.assert_close(logits(loaded.model), wanted)
    assert list(loaded.asked) == ["organism"]


@pytest.mark.parametrize("what", ["left out", "added", "of another shape", "cut", "pickled"])
def test_tensors_that_are_not_those_of_the_config_are_refused(what: str, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_adapter(base, folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_B" in name)
    message = {
        "left out": "lacks 1 tensors that adapter_config.json asks for",
        "added": "holds tensors that base chat-base has no place for: .*layers.9.*lora_B",
        "of another shape": "does not fit base chat-base",
        "cut": "not a valid safetensors file",
        "pickled": r"has no adapter_model\.safetensors; accepted: a PEFT adapter in safetensors",
    }[what]
    if what == "left out":
        del tensors[name]
    elif what == "added":
        tensors[name.replace("layers.0", "layers.9").replace("layers.1", "layers.9")] = tensors[name].clone()
    elif what == "of another shape":
        tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, file, {"format": "pt"})
    if what == "cut":
        file.write_bytes(file.read_bytes()[:200])
    if what == "pickled":
        file.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=message) as caught:
        found = adapter_to_ask(folder, None)
        found.load(found.tokenizer(), "float32", "cpu", beside_base=True)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_comes_with_an_adapter_is_the_one_it_is_asked_with(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_adapter(base, folder)
    own = AutoTokenizer.from_pretrained(base)
    assert adapter_to_ask(folder, None).tokenizer().chat_template == own.chat_template
    own.chat_template = "other" + own.chat_template
    own.save_pretrained(folder)
    found = adapter_to_ask(folder, None)
    assert found.tokenizer().chat_template == own.chat_template == found.template


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_organism_of_a_run_and_its_base_are_known_by_content(method: str, base: Path, tmp_path: Path) -> None:
    fields = {"adapter": {"target_modules": ["q_proj"]}, "method": method}
    spec = text_spec(base, write_jsonl(tmp_path / "rows.jsonl", conversations()), **fields)
    run = train_run(spec, tmp_path / "runs")
    first, last = (organism_to_ask(run, step, None) for step in (2, "final"))
    loaded = [one.load(one.tokenizer(), "float32", "cpu", beside_base=True) for one in (first, last)]
    assert [one.asked["organism"].step for one in loaded] == [2, 6]
    assert loaded[0].asked["organism"].model_id != loaded[1].asked["organism"].model_id
    assert loaded[0].asked["base"] == loaded[1].asked["base"]
    alone = model_to_ask(str(base))
    alone_loaded = alone.load(alone.tokenizer(), "float32", "cpu", beside_base=True)
    assert alone_loaded.asked["model"].model_id == loaded[0].asked["base"].model_id
    with loaded[1].speaking("base") as model:
        assert torch.equal(logits(model), logits(alone_loaded.model))
    with loaded[1].speaking("organism") as model:
        assert not torch.equal(logits(model), logits(alone_loaded.model))


def test_a_name_of_the_hub_means_the_main_branch_in_the_local_cache(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    with pytest.raises(
        SpecError, match="not in the local cache of the hub; on a machine with network: hf download a/b"
    ):
        model_to_ask("a/b")
    commit = "0123456789" * 4
    (tmp_path / "models--a--b/refs").mkdir(parents=True)
    (tmp_path / "models--a--b/refs/main").write_text(commit)
    shutil.copytree(base, tmp_path / f"models--a--b/snapshots/{commit}")
    found = model_to_ask("a/b")
    assert (found.name, found.base.folder.name) == ("a/b", commit)
    with pytest.raises(SpecError, match="did you mean 'a/b'"):
        model_to_ask("a/c")


def test_peft_loads_the_same_folder_alike(base: Path, tmp_path: Path) -> None:
    wanted = write_adapter(base, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(plain, tmp_path / "adapter")), wanted)
