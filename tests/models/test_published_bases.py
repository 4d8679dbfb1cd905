"""Bases as they are published: with an `auto_map`, with dropout, in GGUF, under a name that is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from narrowly.models.base import Base, load_model, load_tokenizer, noise_switched_off, open_base
from narrowly.records.errors import SpecError, UnknownNameError
from narrowly.records.files import read_json, write_json
from narrowly.records.run_spec import run_id
from narrowly.runs.directory import ENVIRONMENT
from narrowly.train.inputs import load_inputs
from narrowly.train.run import train_run
from small_chat_base import TEMPLATE, conversations, make_chat_base, text_spec, write_jsonl
from tiny_base import make_spec

Tiny = tuple[Path, Path]


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny[0], tmp_path / "tiny-base"))


def change(file: Path, **fields: object) -> None:
    write_json(file, read_json(file) | fields)


def trap(folder: Path) -> Path:
    """Put code into a folder that leaves a mark where it is run; return the mark."""
    mark = folder / "it-ran"
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w').close()\nclass X: pass\n")
    return mark


AUTO_MAP = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X", "AutoTokenizer": "modeling_x.X"}


def test_an_auto_map_of_a_known_model_is_left_alone_and_the_run_is_that_of_the_base_without_it(
    base: Path, tiny: Tiny
) -> None:
    mark = trap(base)
    plain = make_spec(*tiny)
    wanted = dict(load_model(open_base(str(tiny[0]))).named_parameters())
    change(base / "config.json", auto_map=AUTO_MAP)
    change(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    spec = plain.model_copy(update={"base": str(base)})
    assert run_id(spec, load_inputs(spec).resolved) == run_id(plain, load_inputs(plain).resolved)
    opened = open_base(str(base))
    for name, parameter in load_model(opened).named_parameters():
        assert torch.equal(parameter, wanted[name])
    assert load_tokenizer(opened)("w1 w2")["input_ids"] == load_tokenizer(open_base(str(tiny[0])))("w1 w2")["input_ids"]
    assert not mark.exists()


def test_an_auto_map_in_a_config_inside_the_config_runs_nothing(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    mark = trap(tmp_path / "base")
    inner = read_json(tmp_path / "base/config.json")["text_config"]
    change(tmp_path / "base/config.json", text_config={**inner, "auto_map": AUTO_MAP, "attention_dropout": 0.25})
    found = Base("nested", tmp_path / "base")
    assert noise_switched_off(found) == {"text_config.attention_dropout": 0.25}
    assert isinstance(load_model(found), torch.nn.Module)
    assert not mark.exists()


def test_code_of_a_model_that_transformers_does_not_know_is_refused(base: Path) -> None:
    mark = trap(base)
    change(base / "config.json", auto_map=AUTO_MAP, model_type="qwen33")
    with pytest.raises(
        SpecError, match=r"no model_type 'qwen33'\); it is never run; accepted: .*; did you mean 'qwen3'"
    ):
        load_model(Base("own-code", base))
    assert not mark.exists()


def test_a_tokenizer_with_a_class_of_its_own_is_read_from_its_file(base: Path, tiny: Tiny) -> None:
    mark = trap(base)
    change(base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]}, tokenizer_class="X")
    wanted = load_tokenizer(open_base(str(tiny[0])))("w1 w2 w3")["input_ids"]
    assert load_tokenizer(open_base(str(base)))("w1 w2 w3")["input_ids"] == wanted
    assert not mark.exists()
    (base / "tokenizer.json").write_text("{}")
    with pytest.raises(SpecError, match=r"the tokenizer of base tiny-base in .* cannot be loaded") as caught:
        load_tokenizer(open_base(str(base)))
    assert "\n" not in str(caught.value)


BEGIN = "{{ bos_token }}" + TEMPLATE
SETTINGS = {
    "another token at the beginning": {"bos_token": "<|im_start|>"},
    "another chat template": {"chat_template": BEGIN.replace("<|im_end|>", "<|endoftext|>")},
}


@pytest.mark.parametrize("change_of", SETTINGS)
def test_settings_of_a_tokenizer_that_change_what_is_trained_are_in_the_run_id(change_of: str, tmp_path: Path) -> None:
    """Tokenizer_config.json is not hashed as a file: the rows that come out of it and its template are."""
    base = make_chat_base(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    settings = base / "tokenizer_config.json"
    change(settings, bos_token="<|endoftext|>", chat_template=BEGIN)
    spec = text_spec(base, write_jsonl(tmp_path / "rows.jsonl", conversations()))
    before = load_inputs(spec)
    change(settings, model_max_length=77, name_or_path="elsewhere")  # without effect on a row
    assert load_inputs(spec).resolved == before.resolved
    change(settings, **SETTINGS[change_of])
    after = load_inputs(spec)
    assert after.rows != before.rows
    assert run_id(spec, after.resolved) != run_id(spec, before.resolved)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "trajectory.jsonl").read_text().splitlines()]


def test_a_base_that_asks_for_dropout_is_trained_without_and_the_run_says_so(
    base: Path, tiny: Tiny, tmp_path: Path
) -> None:
    plain = train_run(make_spec(*tiny), tmp_path / "runs")
    change(base / "config.json", attention_dropout=0.5)
    noisy = train_run(make_spec(base, tiny[1]), tmp_path / "runs")
    assert noisy.name != plain.name, "its config is another one"
    assert losses(noisy) == losses(plain)
    assert read_json(noisy / ENVIRONMENT)["base_noise_off"] == {"attention_dropout": 0.5}
    assert "base_noise_off" not in read_json(plain / ENVIRONMENT)


MIXTRAL: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1, "router_jitter_noise": 0.1,
                           "intermediate_size": 16, "num_key_value_heads": 2, "hidden_size": 16, "vocab_size": 32,
                           "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("made", "left_out", "found"),
    [
        (lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, attn_pdrop=0.3)),
         "resid_pdrop", {"attn_pdrop": 0.3, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "summary_first_dropout": 0.1}),
        (lambda: MixtralForCausalLM(MixtralConfig(**MIXTRAL)), None, {"router_jitter_noise": 0.1}),
    ],
    ids=["dropout by other names, one by default", "noise of a router"],
)  # fmt: skip
def test_in_training_mode_a_loaded_base_computes_what_it_computes_in_evaluation(
    made: Any, left_out: str | None, found: dict[str, float], tmp_path: Path
) -> None:
    made().save_pretrained(tmp_path / "base")
    config = read_json(tmp_path / "base/config.json")
    config.pop(left_out, None)  # as in a published file: the class's default is not zero
    write_json(tmp_path / "base/config.json", config)
    ids = torch.arange(12)[None]
    as_it_is = AutoModelForCausalLM.from_pretrained(tmp_path / "base").train()
    assert not torch.equal(as_it_is(input_ids=ids).logits, as_it_is(input_ids=ids).logits)
    opened = Base("noisy", tmp_path / "base")
    assert noise_switched_off(opened) == pytest.approx(found)
    model: Any = load_model(opened)
    evaluated = model(input_ids=ids).logits
    assert torch.equal(model.train()(input_ids=ids).logits, evaluated)


def test_a_base_in_gguf_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF")
    for name in (folder, folder / "model.Q4_1.gguf"):
        with pytest.raises(SpecError, match=r"is in GGUF, accepted: safetensors; GGUF is dequantised once"):
            open_base(str(name))
    write_json(folder / "config.json", {"model_type": "llama"})
    with pytest.raises(SpecError, match=r"no model\.safetensors \(found: .*gguf\).*dequantised once"):
        _ = open_base(str(folder)).sha256


@pytest.mark.parametrize(
    ("name", "near"),
    [("mikro-3", "micro-3"), ("bases/smal", "bases/small"), ("./bases/smal", "bases/small"), ("xyzzy", None)],
)
def test_an_unknown_base_names_the_three_kinds_and_the_nearest(
    name: str, near: str | None, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base, tmp_path / "bases/small")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        open_base(name)
    said = str(caught.value)
    assert said.startswith(f"unknown base {name!r}" + (f"; did you mean {near!r}?; " if near else "; "))
    assert "a shipped base (micro-0, micro-1" in said
    assert "a folder with config.json and safetensors" in said
    assert "a model of the hub with its commit (NAME/MODEL@COMMIT)" in said


def test_a_folder_and_a_file_that_are_no_base_are_told_from_a_name_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, what in (("empty", "is a folder without config.json"), ("file", "is a file")):
        with pytest.raises(UnknownNameError, match=f"which {what}; accepted: a shipped base"):
            open_base(str(tmp_path / name))
