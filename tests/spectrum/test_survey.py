"""Adapters that are not plain LoRA throughout: each kind, live and saved, is handled or left out with its reason."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    Phi3Config,
    Phi3ForCausalLM,
)

from narrowly.records.errors import AdapterError
from narrowly.spectrum import (
    SpectralPenalty,
    pairs_from_folder,
    pairs_from_model,
    singular_values,
    survey_folder,
    survey_model,
)
from narrowly.spectrum.folder import survey_chunks
from narrowly.spectrum.metrics import folder_spectrum, spectrum_table
from tiny_adapters import WEIGHTS, adapted, change_config, change_tensors, gpt2, moe, saved, tiny_base, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


def phi3() -> torch.nn.Module:
    config = Phi3Config(
        vocab_size=32, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Phi3ForCausalLM(config).eval()


def both(model: PeftModel, folder) -> list:
    """Return the surveys of a live model and of its saved folder."""
    model.save_pretrained(folder)
    return [survey_model(model), survey_folder(folder)]


EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


@pytest.mark.parametrize(
    ("base", "fields"),
    [(tiny_base, {"target_modules": ["embed_tokens", "q_proj"]}), (moe, EXPERTS)],
    ids=["embedding", "experts"],
)
def test_embeddings_and_experts_are_read_but_not_trained_under_a_penalty(base, fields) -> None:
    """A penalty moves whole parameters by the inputs that they multiply; these are looked up, or slices of two."""
    model = adapted(base(), **fields)
    assert survey_model(model).skipped == []
    for refuse in (lambda: pairs_from_model(model), lambda: SpectralPenalty(model, lam=0.1)):
        with pytest.raises(AdapterError, match=r"accepted: plain LoRA or rsLoRA") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_dora_throughout_leaves_no_pair_and_says_why(tmp_path) -> None:
    model = tiny_model(use_dora=True, target_modules=["q_proj"])
    model.save_pretrained(tmp_path)
    for read in (lambda: survey_model(model), lambda: survey_folder(tmp_path), lambda: folder_spectrum(tmp_path)):
        with pytest.raises(AdapterError, match=r"no module whose update is s\*B\*A, 2 skipped; .*q_proj \(DoRA"):
            read()


def test_one_dora_module_among_plain_ones_is_left_out_of_a_folder(tmp_path) -> None:
    folder = saved(tmp_path)
    name = "model.layers.0.mlp.up_proj"
    magnitude = {f"base_model.model.{name}.lora_magnitude_vector": torch.ones(40)}
    save_file(load_file(folder / WEIGHTS) | magnitude, folder / WEIGHTS)
    survey = survey_folder(folder)
    assert len(survey.pairs) == 13
    assert [(one.name, one.reason[:4]) for one in survey.skipped] == [(name, "DoRA")]


def test_modules_saved_in_full_are_listed_beside_the_pairs(tmp_path) -> None:
    live, stored = both(tiny_model(modules_to_save=["lm_head"]), tmp_path)
    assert [one.name for one in live.skipped] == ["lm_head"]
    assert [one.name for one in stored.skipped] == ["lm_head.weight"]
    assert "modules_to_save" in live.skipped[0].reason
    assert len(live.pairs) == len(stored.pairs) == 14


def test_a_transposed_layer_has_the_singular_values_of_the_update_that_peft_adds(tmp_path) -> None:
    """GPT-2's Conv1D stores its weight as inputs x outputs (fan_in_fan_out)."""
    model = adapted(gpt2(), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    before = {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}
    surveys = both(model, tmp_path)
    model.merge_adapter()
    for survey in surveys:
        assert survey.skipped == []
        for pair in survey.pairs:
            layer = layers[f"base_model.model.{pair.name}"]
            added = layer.get_base_layer().weight.detach() - before[f"base_model.model.{pair.name}"]
            assert added.shape == (pair.A_R_I.shape[1], pair.B_O_R.shape[0])
            torch.testing.assert_close(pair.scale * pair.B_O_R @ pair.A_R_I, added.T, rtol=0, atol=1e-6)
            torch.testing.assert_close(
                singular_values(pair), torch.linalg.svdvals(added)[: pair.rank], rtol=1e-4, atol=1e-6
            )


def test_a_fused_projection_is_one_module_with_one_pair(tmp_path) -> None:
    for survey in both(adapted(phi3(), target_modules=["qkv_proj", "gate_up_proj"]), tmp_path):
        assert survey.skipped == []
        assert {pair.name: pair.B_O_R.shape[0] for pair in survey.pairs} == {
            "model.layers.0.self_attn.qkv_proj": 72,
            "model.layers.0.mlp.gate_up_proj": 80,
        }


def test_a_pair_on_a_tied_weight_acts_in_its_own_module_only_until_it_is_merged(tmp_path) -> None:
    model = adapted(tiny_base(), target_modules=["lm_head", "q_proj"])
    inner = model.base_model.model
    assert inner.lm_head.base_layer.weight is inner.model.embed_tokens.weight
    before = inner.model.embed_tokens.weight.detach().clone()
    for survey in both(model, tmp_path):
        (pair,) = [pair for pair in survey.pairs if pair.name == "lm_head"]
        torch.testing.assert_close(
            pair.scale * pair.B_O_R @ pair.A_R_I, inner.lm_head.get_delta_weight("default"), rtol=1e-5, atol=1e-6
        )
    reasons = {one.name: one.reason for one in survey.skipped}
    assert "base's own weight" in reasons["lm_head.base_layer.weight"]
    assert torch.equal(inner.model.embed_tokens(torch.arange(32)), before)
    model.merge_adapter()
    assert float((inner.model.embed_tokens.weight - before).norm()) > 0.01


def test_a_module_that_is_called_in_two_places_has_one_pair() -> None:
    base = tiny_base()
    base.model.layers[1].mlp.up_proj = base.model.layers[0].mlp.up_proj
    survey = survey_model(adapted(base, target_modules=["up_proj"]))
    assert [pair.name for pair in survey.pairs] == ["model.layers.0.mlp.up_proj"]
    assert survey.skipped == []


def test_two_modules_that_share_both_factors_count_once_or_are_refused() -> None:
    model = adapted(tiny_base(), target_modules=["up_proj"])
    first, second = (model.base_model.model.model.layers[i].mlp.up_proj for i in (0, 1))
    second.lora_A, second.lora_B = first.lora_A, first.lora_B
    survey = survey_model(model)
    assert [pair.name for pair in survey.pairs] == ["model.layers.0.mlp.up_proj"]
    assert "shares both factors with model.layers.0.mlp.up_proj" in survey.skipped[0].reason
    with pytest.raises(AdapterError, match="shares both factors"):
        pairs_from_model(model)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda f: change_tensors(f, layers__0__mlp__up_proj__lora_B__weight=None), "no lora_B.weight"),
        (lambda f: change_tensors(f, layers__0__mlp__up_proj__lora_B__weight=lambda t: t[:, :3].clone()), "rank mism"),
        (lambda f: change_tensors(f, layers__0__mlp__up_proj__lora_A__weight=lambda t: t[:3].clone()), "says r = 4"),
        (lambda f: change_config(f, rank_pattern={"0.mlp.up_proj": 7}), "says r = 7"),
        (lambda f: change_tensors(f, layers__0__mlp__up_proj__lora_B__weight=lambda t: t[None].clone()), "(1, 40, 4)"),
        (lambda f: change_tensors(f, layers__0__mlp__up_proj__lora_B__weight=lambda t: t.fill_(math.nan)), "160 NaN"),
    ],
    ids=["missing", "ranks differ", "A is short", "config", "3-D", "NaN"],
)
def test_a_broken_module_is_left_out_of_what_is_read_and_refused_by_what_writes(tmp_path, break_it, reason) -> None:
    folder = saved(tmp_path)
    break_it(folder)
    rows, skipped = folder_spectrum(folder)
    assert len(rows) == 13
    assert [one.name for one in skipped] == ["model.layers.0.mlp.up_proj"]
    assert reason in skipped[0].reason
    with pytest.raises(AdapterError, match=r"model\.layers\.0\.mlp\.up_proj"):
        pairs_from_folder(folder)


def test_a_live_nan_is_left_out_of_a_survey_by_name() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.base_model.model.model.layers[1].mlp.up_proj.lora_A["default"].weight[0, 0] = math.nan
    survey = survey_model(model)
    assert len(survey.pairs) == 13
    assert [(one.name, one.reason[:18]) for one in survey.skipped] == [
        ("model.layers.1.mlp.up_proj", "lora_A holds 1 NaN")
    ]


def test_a_folder_read_in_chunks_gives_the_spectra_of_the_live_model(tmp_path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    chunks = list(survey_chunks(tmp_path, modules=3))
    assert [len(chunk.pairs) for chunk in chunks] == [0, 3, 3, 3, 3, 2]
    live = {row["module"]: row for row in spectrum_table(pairs_from_model(model))}
    stored = {row["module"]: row for row in folder_spectrum(tmp_path)[0]}
    assert live.keys() == stored.keys()
    for name, row in live.items():
        assert stored[name]["singular_values"] == pytest.approx(row["singular_values"], rel=1e-6)
    # what was read stays readable after its mapping of the file is closed
    copies = [copy.deepcopy(pair) for chunk in chunks for pair in chunk.pairs]
    assert all(torch.isfinite(pair.A_R_I).all() for pair in copies)


def test_target_parameters_that_are_no_list_are_refused(tmp_path) -> None:
    folder = saved(tmp_path)
    change_config(folder, target_parameters="mlp.experts.gate_up_proj")
    with pytest.raises(AdapterError, match="target_parameters is a str, accepted: a list"):
        survey_folder(folder)
