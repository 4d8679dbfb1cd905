"""Every LoRA variant of the pinned PEFT: read as the change that the layer makes, or left out with the reason."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.config import ArrowConfig, BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file

from narrowly.cli.app import execute
from narrowly.records.errors import AdapterError
from narrowly.spectrum import LoraPair, Survey, pairs_from_folder, survey_folder, survey_model
from narrowly.spectrum.folder import survey_chunks
from narrowly.spectrum.pairs import lora_layers
from narrowly.spectrum.peft_fields import HARMLESS, NOT_PLAIN, PLAIN_STARTS, READ, STARTS_THAT_CHANGE_THE_BASE
from tiny_adapters import WEIGHTS, adapted, change_config, gpt2, gpt_oss, moe, saved, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore")


@torch.no_grad()
def change_of(layer: Any) -> torch.Tensor:
    """Return what a layer adds to its base for every unit vector or token, outputs x inputs: measured, not read.

    Of a parameter of experts it is what the parameter becomes, one matrix per expert.
    """
    if hasattr(layer, "parameter_name"):
        before = layer.get_param().detach().clone()
        with layer._activate_lora(layer.active_adapters):
            return layer.get_param() - before
    if isinstance(layer.get_base_layer(), torch.nn.Embedding):
        tokens = torch.arange(layer.get_base_layer().num_embeddings)
        return (layer(tokens) - layer.get_base_layer()(tokens)).T
    inputs = next(iter(layer.lora_A.values())).in_features
    unit_I_I = torch.eye(inputs)
    return (layer(unit_I_I) - layer.get_base_layer()(unit_I_I)).T


def changes_of(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the measured change of every adapted matrix by name, that of each expert by itself."""
    changes = {}
    for path, layer, _ in lora_layers(model):
        change = change_of(layer)
        if change.ndim == 2:
            changes[path] = change
            continue
        for expert, matrix in enumerate(change):
            owner = path.replace(".base_layer", "")
            if layer.get_base_layer().__class__.__name__ == "GptOssExperts":  # inputs x outputs
                matrix = matrix.T
            changes[f"{owner}.{expert}.{layer.parameter_name}"] = matrix
    return changes


def read(model: PeftModel, folder: Path) -> list[Survey]:
    """Return what is read of a live model and of its saved folder, also where that is no pair at all."""
    model.save_pretrained(folder)
    stored = Survey([], [])
    for chunk in survey_chunks(folder):
        stored.pairs.extend(chunk.pairs)
        stored.skipped.extend(chunk.skipped)
    try:
        live = survey_model(model)
    except AdapterError as error:
        live = Survey([], [error])  # type: ignore[list-item]
    return [live, stored]


def arrow() -> ArrowConfig:
    """Return the config as PEFT's create_arrow_model fills it in."""
    config = ArrowConfig()
    config.task_adapter_names, config.gks_adapter_names = ["task_0"], []
    return config


EXPERTS: dict[str, Any] = {
    "target_modules": [],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
}
TARGETS: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
PLAIN: dict[str, tuple[Any, dict[str, Any], int]] = {
    "plain": (tiny_base, TARGETS, 4),
    "rslora": (tiny_base, TARGETS | {"use_rslora": True}, 4),
    "rank 1": (tiny_base, TARGETS | {"r": 1}, 4),
    "an alpha that is a float": (tiny_base, TARGETS | {"lora_alpha": 12.5}, 4),
    "rank pattern": (tiny_base, TARGETS | {"rank_pattern": {"down_proj": 2}}, 4),
    "alpha pattern": (tiny_base, TARGETS | {"alpha_pattern": {"layers.1.mlp.down_proj": 3}}, 4),
    "both patterns, rslora": (
        tiny_base, TARGETS | {"rank_pattern": {"q_proj": 6}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True}, 4,
    ),
    "dropout": (tiny_base, TARGETS | {"lora_dropout": 0.5}, 4),
    "bias all": (tiny_base, TARGETS | {"bias": "all"}, 4),
    "bias lora_only": (tiny_base, TARGETS | {"bias": "lora_only"}, 4),
    "start false": (tiny_base, TARGETS | {"init_lora_weights": False}, 4),
    "start gaussian": (tiny_base, TARGETS | {"init_lora_weights": "gaussian"}, 4),
    "start eva": (tiny_base, TARGETS | {"init_lora_weights": "eva"}, 4),
    "start orthogonal": (tiny_base, TARGETS | {"init_lora_weights": "orthogonal"}, 4),
    "start mica": (tiny_base, TARGETS | {"init_lora_weights": "mica"}, 4),
    "velora": (tiny_base, TARGETS | {"velora_config": VeloraConfig(num_groups=2)}, 4),
    "layers_to_transform": (tiny_base, TARGETS | {"layers_to_transform": [1]}, 2),
    "layer_replication": (tiny_base, TARGETS | {"layer_replication": [[0, 2], [1, 2]]}, 6),
    "exclude_modules": (tiny_base, TARGETS | {"exclude_modules": ["layers.0.mlp.down_proj"]}, 3),
    "all-linear": (tiny_base, {"target_modules": "all-linear"}, 14),
    "modules_to_save": (tiny_base, TARGETS | {"modules_to_save": ["lm_head"]}, 4),
    "trainable tokens": (tiny_base, TARGETS | {"trainable_token_indices": [1, 2]}, 4),
    "trainable tokens by layer": (tiny_base, TARGETS | {"trainable_token_indices": {"embed_tokens": [0, 5]}}, 4),
    "an embedding and the output saved in full": (
        tiny_base, TARGETS | {"modules_to_save": ["embed_tokens", "lm_head"], "ensure_weight_tying": False}, 4,
    ),
    "embedding": (tiny_base, {"target_modules": ["embed_tokens", "q_proj"]}, 3),
    "embedding, rslora, a rank and a float alpha of its own": (
        tiny_base,
        {
            "target_modules": ["embed_tokens", "q_proj"],
            "use_rslora": True,
            "rank_pattern": {"embed_tokens": 2},
            "alpha_pattern": {"embed_tokens": 2.5},
        },
        3,
    ),
    "embedding, start mica": (tiny_base, {"target_modules": ["embed_tokens"], "init_lora_weights": "mica"}, 1),
    "embedding and output layer": (tiny_base, {"target_modules": ["embed_tokens", "lm_head"]}, 2),
    "experts": (moe, {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}, 4),
    "both parameters of experts": (moe, EXPERTS, 8),
    "experts, rslora, patterns": (
        moe,
        EXPERTS
        | {
            "use_rslora": True,
            "rank_pattern": {"mlp.experts.down_proj": 2, "experts.gate_up_proj": 3},
            "alpha_pattern": {"mlp.experts.gate_up_proj": 2.5},
        },
        8,
    ),
    "experts stored the other way round": (
        gpt_oss, EXPERTS | {"rank_pattern": {"mlp.experts.down_proj": 2}}, 8,
    ),
    "experts and their router": (
        moe,
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight", "mlp.experts.gate_up_proj"]},
        6,
    ),
    "output layer": (tiny_base, {"target_modules": ["lm_head", "q_proj"]}, 3),
    "transposed layers": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}, 3),
    "router": (moe, {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}, 2),
    "router of a rank of its own": (
        moe,
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.gate.weight"],
            "rank_pattern": {"mlp.gate.weight": 2},
            "alpha_pattern": {"mlp.gate.weight": 3},
        },
        2,
    ),
}  # fmt: skip
"""Name -> base, fields and number of modules whose update is s*B*A."""

OTHERS: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "dora": (tiny_base, TARGETS | {"use_dora": True}, "DoRA", "DoRA"),
    "lora_bias": (gpt2, {"target_modules": ["c_attn"], "lora_bias": True}, "lora_bias", "lora_bias"),
    "kasa": (tiny_base, TARGETS | {"kasa_config": KasaConfig()}, "KasaLinearVariant", "KaSA: a diagonal"),
    "alora": (tiny_base, TARGETS | {"alora_invocation_tokens": [3, 4]}, "ALoraLinearVariant", "aLoRA: the update acts"),
    "monteclora": (
        tiny_base, TARGETS | {"monteclora_config": MontecloraConfig()}, "MontecloraLinearVariant", "MonteCLoRA",
    ),
    "bdlora": (
        tiny_base,
        TARGETS | {"use_bdlora": BdLoraConfig(["down_proj"], ["q_proj"], nblocks=2)},
        "BdLoraLinearVariant",
        "BD-LoRA: one factor is block-diagonal",
    ),
    "arrow": (tiny_base, TARGETS | {"arrow_config": arrow()}, "ArrowLinearVariant", "Arrow: a router"),
    "dora on an embedding": (tiny_base, {"target_modules": ["embed_tokens"], "use_dora": True}, "DoRA", "DoRA"),
}  # fmt: skip
"""Name -> base, fields, and the reason by which every module is left out, live and of a folder."""


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_read_as_a_pair_is_the_measured_change_of_its_layer(name: str, tmp_path: Path) -> None:
    base, fields, modules = PLAIN[name]
    model = adapted(base(), **fields)
    changes = changes_of(model)
    for survey in read(model, tmp_path):
        assert len(survey.pairs) == modules
        assert all(one.beside for one in survey.skipped)
        for pair in survey.pairs:
            update = pair.scale * pair.B_O_R.detach() @ pair.A_R_I.detach()
            torch.testing.assert_close(update, changes[pair.name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_a_variant_whose_update_is_not_that_of_its_factors_is_left_out_with_the_reason(
    name: str, tmp_path: Path
) -> None:
    base, fields, live_reason, stored_reason = OTHERS[name]
    model = adapted(base(), **fields)
    live, stored = read(model, tmp_path)
    assert live.pairs == stored.pairs == []
    assert live_reason in str(live.skipped[0])
    reasons = {one.name: one.reason for one in stored.skipped}
    for module, _, _ in lora_layers(model):
        assert stored_reason in reasons[module]
    for refuse in (lambda: survey_folder(tmp_path), lambda: pairs_from_folder(tmp_path)):
        with pytest.raises(AdapterError, match=r"no module whose update is s\*B\*A|accepted: plain LoRA") as caught:
            refuse()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_a_start_that_changes_the_base_is_refused_live_and_of_a_folder(start: str, tmp_path: Path) -> None:
    model = adapted(tiny_base(), init_lora_weights=start, **TARGETS)
    model.save_pretrained(tmp_path)
    for refuse in (lambda: survey_model(model), lambda: survey_folder(tmp_path)):
        with pytest.raises(AdapterError, match=rf"init_lora_weights is '{start}', which changes the base weights too"):
            refuse()


def test_every_field_of_the_pinned_lora_config_is_read_or_harmless_or_must_be_empty() -> None:
    """Where this fails, PEFT has a new field: look at what it does to the update and put it into one group."""
    fields = [field.name for field in dataclasses.fields(LoraConfig)]
    groups = [*READ, *HARMLESS, *NOT_PLAIN]
    assert sorted(groups) == sorted(fields)


def test_every_start_of_the_pinned_lora_config_is_known() -> None:
    hint = typing.get_type_hints(LoraConfig)["init_lora_weights"]
    words = [word for part in typing.get_args(hint) for word in typing.get_args(part)]
    assert "mica" in words
    for word in words:
        assert (word in PLAIN_STARTS) != word.startswith(STARTS_THAT_CHANGE_THE_BASE), word


def test_a_field_of_a_newer_peft_is_refused_where_it_is_set_and_ignored_where_it_is_empty(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_config(folder, use_newlora=None)
    assert len(pairs_from_folder(folder)) == 14
    change_config(folder, use_newlora={"blocks": 2})
    with pytest.raises(AdapterError, match=r"use_newlora in adapter_config\.json is not known here"):
        survey_folder(folder)


def test_a_start_of_a_newer_peft_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change_config(folder, init_lora_weights="newstart")
    with pytest.raises(AdapterError, match=r"'newstart', which is not known here; accepted: true, false, eva"):
        survey_folder(folder)


@pytest.mark.parametrize("field", NOT_PLAIN)
def test_a_variant_with_its_defaults_counts_as_set(field: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    for empty in (None, False):
        change_config(folder, **{field: empty})
        assert len(pairs_from_folder(folder)) == 14
    for given in ({}, True, [5]):
        change_config(folder, **{field: given})
        with pytest.raises(AdapterError, match=r"no module whose update is s\*B\*A"):
            survey_folder(folder)


@pytest.mark.parametrize(
    ("suffix", "words"), [("lora_diag", "KaSA"), ("lora_newlora.weight", "a kind of LoRA that is not known here")]
)
def test_a_tensor_of_a_variant_tells_it_where_the_config_does_not(suffix: str, words: str, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    name = "model.layers.0.mlp.up_proj"
    save_file(load_file(folder / WEIGHTS) | {f"base_model.model.{name}.{suffix}": torch.ones(4)}, folder / WEIGHTS)
    survey = survey_folder(folder)
    assert len(survey.pairs) == 13
    assert [one.name for one in survey.skipped] == [name]
    assert words in survey.skipped[0].reason


def test_the_command_prints_no_number_of_a_kasa_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapted(tiny_base(), kasa_config=KasaConfig(), **TARGETS).save_pretrained("adapter")
    capsys.readouterr()
    for options in ([], ["--json"]):
        assert execute(["spectrum", "adapter", *options]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "no module whose update is s*B*A" in said.err
        assert "KaSA: a diagonal stands between B and A" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_pair_of_a_router_has_the_scale_of_its_parameter(tmp_path: Path) -> None:
    base, fields, _ = PLAIN["router of a rank of its own"]
    live, stored = read(adapted(base(), **fields), tmp_path)

    def router(pairs: list[LoraPair]) -> LoraPair:
        return next(pair for pair in pairs if pair.name == "model.layers.0.mlp.gate")

    assert router(live.pairs).scale == router(stored.pairs).scale == 1.5
    assert router(live.pairs).rank == router(stored.pairs).rank == 2
