"""Adapters that mlx-lm, torchtune and Tinker write: read as the change that their own layers make, edited in place.

The tools cannot be installed everywhere, so each folder is written here as its tool's source says, and the expected
change is the formula of that source, with explicit sums. mlx-lm's formulas were held to its own layers on a CPU once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from narrowly.cli.app import execute
from narrowly.records.errors import AdapterError
from narrowly.spectrum import apply_edit, edit_adapter_folder, pairs_from_folder, survey_folder
from spectrum_cases import dense
from tiny_adapters import CONFIG, WEIGHTS, change_config, saved
from ulps import ulps_of_largest

R, SCALE, EXPERTS = 4, 20.0, 3


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], name: str = WEIGHTS) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / name)
    return folder


def changes_read(folder: Path) -> dict[str, torch.Tensor]:
    return {pair.name: pair.scale * pair.B_O_R @ pair.A_R_I for pair in pairs_from_folder(folder)}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], ulps: float = 4) -> None:
    """Compare updates by name; an edit goes through a decomposition in float32, which costs some more ulps."""
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert ulps_of_largest(found[name], change) <= ulps


# ------------------------------------------------------------------------------------------------- mlx-lm

MLX = {"fine_tune_type": "lora", "model": "mlx/base", "num_layers": 1, "seed": 0, "train": True,
       "lora_parameters": {"rank": R, "scale": SCALE, "dropout": 0.0}}  # fmt: skip
MLX_WEIGHTS = "adapters.safetensors"


def mlx_tensors() -> dict[str, torch.Tensor]:
    return {
        "model.embed_tokens.lora_a": noise(15, R, seed=1),
        "model.embed_tokens.lora_b": noise(R, 12, seed=2),
        "model.layers.0.self_attn.q_proj.lora_a": noise(12, R, seed=3),
        "model.layers.0.self_attn.q_proj.lora_b": noise(R, 20, seed=4),
        "model.layers.0.mlp.switch_mlp.up_proj.lora_a": noise(EXPERTS, R, 12, seed=5),
        "model.layers.0.mlp.switch_mlp.up_proj.lora_b": noise(EXPERTS, 10, R, seed=6),
    }


def mlx_changes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `fuse` adds (mlx-lm 0.32.2, tuner/lora.py): scale * lora_b^T lora_a^T, of experts scale * lora_b lora_a."""
    changes = {}
    for name in ("model.embed_tokens", "model.layers.0.self_attn.q_proj"):
        changes[name] = SCALE * tensors[f"{name}.lora_b"].T @ tensors[f"{name}.lora_a"].T
    a, b = (tensors[f"model.layers.0.mlp.switch_mlp.up_proj.lora_{side}"] for side in "ab")
    for expert in range(EXPERTS):
        changes[f"model.layers.0.mlp.switch_mlp.{expert}.up_proj"] = SCALE * b[expert] @ a[expert]
    return changes


def test_an_mlx_folder_is_read_as_the_change_of_its_own_layers(tmp_path: Path) -> None:
    """The scale is not divided by the rank, and adapter_config.json has PEFT's name but not its content."""
    folder = written(tmp_path / "a", MLX, mlx_tensors(), MLX_WEIGHTS)
    assert_same(changes_read(folder), mlx_changes(mlx_tensors()))


def test_an_edit_of_an_mlx_folder_is_an_mlx_folder(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", MLX, mlx_tensors(), MLX_WEIGHTS)
    edit_adapter_folder(folder, tmp_path / "b", "clip:limit=0.9")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [CONFIG, MLX_WEIGHTS, "edit.json"]
    assert (tmp_path / "b" / CONFIG).read_text() == (folder / CONFIG).read_text()
    after = load_file(tmp_path / "b" / MLX_WEIGHTS)
    assert {key: one.shape for key, one in after.items()} == {key: one.shape for key, one in mlx_tensors().items()}
    expected = {pair.name: dense(apply_edit(pair, "clip:limit=0.9")).float() for pair in pairs_from_folder(folder)}
    assert_same(mlx_changes(after), expected, ulps=16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fine_tune_type": "full"}, r"fine_tune_type is 'full', accepted: 'lora'"),
        ({"fine_tune_type": "dora"}, r"no module whose update is s\*B\*A, 3 skipped.*DoRA"),
        ({"lora_parameters": {"rank": R, "scale": 10.0, "alpha": 2 * R}}, r"alpha 8 beside scale 10 at rank 4; early"),
        ({"lora_parameters": {"rank": R}}, r"scale in lora_parameters is None, accepted: a number above 0"),
        ({"lora_parameters": {"rank": R, "scale": "20"}}, r"scale in lora_parameters is '20'"),
        ({"lora_parameters": [R]}, r"lora_parameters is \[4\], accepted: an object"),
        ({"lora_parameters": {"rank": 5, "scale": 1}}, r"\(15, 4\) and lora_b \(4, 12\) at rank 5"),
    ],
)
def test_an_mlx_folder_that_is_no_lora_or_lacks_its_scale_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "a", MLX | change, mlx_tensors(), MLX_WEIGHTS)
    with pytest.raises(AdapterError, match=words):
        survey_folder(folder)


def test_a_stack_of_more_experts_than_any_model_has_is_left_out(tmp_path: Path) -> None:
    """A small file may declare millions, each of which would become an object."""
    many = {f"layers.0.switch_mlp.up_proj.lora_{side}": torch.zeros(20_000, R, R) for side in "ab"}
    folder = written(tmp_path / "a", MLX, mlx_tensors() | many, MLX_WEIGHTS)
    assert [one.name for one in survey_folder(folder).skipped] == ["layers.0.switch_mlp.up_proj"]
    tinker = {
        f"base_model.model.layers.9.mlp.experts.w1.lora_{side}.weight": torch.zeros(20_000, R, R) for side in "AB"
    }
    folder = written(tmp_path / "b", TINKER, tinker_tensors(shared=False) | tinker)
    assert [one.name for one in survey_folder(folder).skipped if not one.beside] == ["layers.9.mlp.experts.w1"]


def test_a_dora_layer_of_mlx_is_left_out_by_its_magnitude(tmp_path: Path) -> None:
    magnitude = {"model.layers.0.self_attn.q_proj.m": noise(20)}
    folder = written(tmp_path / "a", MLX, mlx_tensors() | magnitude, MLX_WEIGHTS)
    assert [(one.name, one.reason[:4]) for one in survey_folder(folder).skipped] == [
        ("model.layers.0.self_attn.q_proj", "DoRA")
    ]


# ------------------------------------------------------------------------------------------------- Tinker

TINKER = {"r": R, "lora_alpha": 32, "target_modules": "all-linear"}


def tinker_tensors(shared: bool) -> dict[str, torch.Tensor]:
    return {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": noise(R, 12, seed=1),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": noise(20, R, seed=2),
        "base_model.model.model.layers.0.mlp.experts.w1.lora_A.weight": noise(1 if shared else EXPERTS, R, 12, seed=3),
        "base_model.model.model.layers.0.mlp.experts.w1.lora_B.weight": noise(EXPERTS, 10, R, seed=4),
        "base_model.model.model.layers.0.mlp.experts.w3.lora_A.weight": torch.zeros(0, R, 12),
        "base_model.model.model.layers.0.mlp.experts.w3.lora_B.weight": torch.zeros(0, 10, R),
        "base_model.model.model.unembed_tokens.lora_A.weight": noise(R, 12, seed=5),
        "base_model.model.model.unembed_tokens.lora_B.weight": noise(32, R, seed=6),
    }


@pytest.mark.parametrize("shared", [True, False], ids=["one A for all experts", "an A for each expert"])
def test_a_tinker_folder_is_read_expert_by_expert(shared: bool, tmp_path: Path) -> None:
    """Its stacks: tinker-cookbook 0.6.1, weights/_merge.py, expand_expert_lora_tensors and apply_merge_op."""
    tensors = tinker_tensors(shared)
    folder = written(tmp_path / "a", TINKER, tensors)
    expected = {}
    for name in ("model.layers.0.self_attn.q_proj", "model.unembed_tokens"):
        a, b = (tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
        expected[name] = 32 / R * b @ a
    a, b = (tensors[f"base_model.model.model.layers.0.mlp.experts.w1.lora_{side}.weight"] for side in "AB")
    for expert in range(EXPERTS):
        expected[f"model.layers.0.mlp.experts.{expert}.w1"] = 32 / R * b[expert] @ a[0 if shared else expert]
    assert_same(changes_read(folder), expected)
    (placeholder,) = survey_folder(folder).skipped
    assert placeholder.beside and "placeholder" in placeholder.reason


def test_experts_that_share_a_factor_cannot_be_edited_one_by_one_and_others_can(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", TINKER, tinker_tensors(shared=True))
    with pytest.raises(AdapterError, match=r"written back: .*experts\.w1 shares one factor between all of its experts"):
        edit_adapter_folder(folder, tmp_path / "b", "flatten")
    assert not (tmp_path / "b").exists()
    folder = written(tmp_path / "c", TINKER, tinker_tensors(shared=False))
    edit_adapter_folder(folder, tmp_path / "d", "scale:factor=0.5")
    before, after = changes_read(folder), changes_read(tmp_path / "d")
    assert_same(after, {name: change / 2 for name, change in before.items()}, ulps=16)


# ------------------------------------------------------------------------------------------------- torchtune


def test_a_torchtune_folder_is_read_and_its_pickle_never_opened(tmp_path: Path) -> None:
    """Its config holds four fields (recipes/lora_finetune_single_device.py); the .pt is the same in its own names."""
    folder = saved(tmp_path / "epoch_0", use_rslora=False)
    expected = changes_read(folder)
    torchtune = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "peft_type": "LORA"}
    (folder / CONFIG).write_text(json.dumps(torchtune))
    (folder / "adapter_model.pt").write_bytes(b"\x80\x02never opened")
    assert_same(changes_read(folder), expected)


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("name", ["adapter_model.pt", "adapter_model.bin"])
def test_a_torchtune_folder_with_a_pickle_alone_is_refused_with_the_way_out(
    name: str, with_config: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02never opened")
    if with_config:
        (tmp_path / CONFIG).write_text(json.dumps({"r": 4, "lora_alpha": 8, "peft_type": "LORA"}))
    with pytest.raises(AdapterError, match=rf"{name} is a pickle.*accepted: adapter_model\.safetensors \(.+\)"):
        survey_folder(tmp_path)


def test_the_folder_above_the_epochs_says_where_the_adapters_lie(tmp_path: Path) -> None:
    for epoch in ("epoch_0", "epoch_1"):
        saved(tmp_path / epoch)
    with pytest.raises(AdapterError, match=r"no adapter folder; adapters lie in epoch_0, epoch_1 inside it"):
        survey_folder(tmp_path)


# ------------------------------------------------------------------------------------------------- side by side


def test_an_mlx_adapter_and_its_peft_twin_have_one_spectrum_and_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same update in two tools' layouts, compared by the commands."""
    twin = saved(tmp_path / "peft")
    pairs = pairs_from_folder(twin)
    change_config(twin, base_model_name_or_path="org/base")
    tensors = {f"{pair.name}.lora_a": pair.A_R_I.T.contiguous() for pair in pairs}
    tensors |= {f"{pair.name}.lora_b": pair.B_O_R.T.contiguous() for pair in pairs}
    parameters = {"rank": 4, "scale": pairs[0].scale, "dropout": 0.0}
    mlx = written(tmp_path / "mlx", MLX | {"lora_parameters": parameters}, tensors, MLX_WEIGHTS)
    capsys.readouterr()
    assert execute(["diff", str(mlx), str(twin), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["modules"]) == len(pairs)
    assert found["summary"]["cosine"] == pytest.approx(1.0)
    assert "A names the base mlx/base, that of B org/base" in found["note"]
    norms = []
    for folder in (mlx, twin):
        assert execute(["spectrum", str(folder), "--json"]) == 0
        norms.append(json.loads(capsys.readouterr().out)["summary"]["update_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
