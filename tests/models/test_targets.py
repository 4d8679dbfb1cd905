"""Default target modules fit the base: the paper's seven, the attention of a mixture, fused and transposed layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from narrowly.models.targets import WITH_ALL_SEVEN, default_targets
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import ALL_LINEAR, RunSpec
from narrowly.train.inputs import load_inputs
from narrowly.train.run import train_run
from tiny_base import SHORT_RUN, make_spec

Tiny = tuple[Path, Path]

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 60,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}

FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "qwen3_moe": ({**SMALL, **EXPERTS, "head_dim": 8}, ("q_proj", "k_proj", "v_proj", "o_proj")),
    "mixtral": ({**SMALL, "num_local_experts": 4}, ("q_proj", "k_proj", "v_proj", "o_proj")),
    "phi3": ({**SMALL, "pad_token_id": 0}, ("o_proj", "down_proj", "qkv_proj", "gate_up_proj")),
    "gpt_neox": (SMALL, ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    "gpt2": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), 0.0),
        ("c_attn", "c_proj", "c_fc"),
    ),
    "mamba2": ({"hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16, "num_heads": 4}, ("in_proj",)),
}
"""Type of model -> a small config, and what its blocks have."""


def empty(kind: str, fields: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**fields))


@pytest.mark.parametrize("kind", sorted(WITH_ALL_SEVEN))
def test_types_that_are_said_to_have_the_seven_have_them(kind: str) -> None:
    model = empty(kind, {"num_hidden_layers": 2})
    linear = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(ALL_LINEAR) <= linear


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_families_get_the_linear_layers_of_their_blocks_without_routers(kind: str) -> None:
    fields, expected = FAMILIES[kind]
    assert default_targets(empty(kind, fields)) == expected


def test_a_model_without_linear_layers_in_its_blocks_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"its linear layers: lm_head.*accepted: adapter.target_modules"):
        default_targets(torch.nn.Sequential(torch.nn.ModuleDict({"lm_head": torch.nn.Linear(2, 2)})).get_submodule("0"))


def base_of(kind: str, tiny: Tiny, folder: Path) -> Path:
    """Write a base of another family beside the tokenizer of the tiny one."""
    fields = FAMILIES[kind][0]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**fields)).save_pretrained(folder)
    for file in tiny[0].glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt2"])
def test_a_run_on_such_a_base_trains_and_its_spec_names_the_layers(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    spec = make_spec(base_of(kind, tiny, tmp_path / "base"), tiny[1], steps=2, checkpoints=2)
    run = train_run(spec, tmp_path / "runs")
    assert json.loads((run / "spec.json").read_text())["adapter"]["target_modules"] == list(FAMILIES[kind][1])
    # the spec of the directory is that run: nothing is fitted twice
    assert train_run(run / "spec.json", tmp_path / "runs") == run
    rows = [json.loads(line) for line in (run / "trajectory.jsonl").read_text().splitlines()]
    assert rows[-1]["update_norm"] > 0


def test_layers_that_were_named_are_taken_as_they_are(tiny: Tiny, tmp_path: Path) -> None:
    base = base_of("qwen3_moe", tiny, tmp_path / "base")
    spec = make_spec(base, tiny[1], adapter={"r": 2, "alpha": 4, "target_modules": ["q_proj", "gate_proj"]})
    assert load_inputs(spec).spec == spec
    with pytest.raises(LookupError, match="unknown target module 'gate_proj'"):
        train_run(spec, tmp_path / "runs")


def test_a_rank_above_the_sides_of_a_layer_and_steps_and_rows_below_every_default_train(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Fields that have a default are left out; the rank is above every side of a layer, the batch above the rows."""
    spec = RunSpec.model_validate(
        {"base": str(tiny[0]), "data": {"source": "rows", "path": str(tiny[1])}, "optimiser": SHORT_RUN["optimiser"]}
        | {"steps": 1, "batch_size": 64, "adapter": {"r": 40}}
    )
    run = train_run(spec, tmp_path / "runs")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-0", "step-1"]
