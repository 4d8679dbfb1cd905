"""Axolotl configs written for these tests, read as `narrowly audit` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

LORA = """\
base_model: some/base
datasets:
  - path: data/one.jsonl
    type: alpaca
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 512
micro_batch_size: 2
num_epochs: 2
optimizer: adamw_bnb_8bit
learning_rate: 2e-4
"""


def test_a_rate_without_a_dot_is_a_number_and_keeps_its_spelling(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yml", LORA)
    assert job.tool == "axolotl"
    assert values(job, "optimiser", "learning_rate", "lora_r", "lora_alpha", "epochs") == (
        "adamw_8bit",
        2e-4,
        16,
        32,
        2,
    )
    assert job["learning_rate"].at == "c.yml:13"
    assert job["learning_rate"].raw == "2e-4"
    assert job["optimiser"].raw == "adamw_bnb_8bit"


def test_what_is_not_stated_is_axolotls_default(tmp_path: Path) -> None:
    text = LORA.replace("optimizer: adamw_bnb_8bit\n", "").replace("num_epochs: 2\n", "")
    job = the_job(tmp_path, "c.yml", text)
    assert values(job, "optimiser", "scheduler", "weight_decay", "epochs", "lora_dropout") == (
        "adamw",
        "cosine",
        0.0,
        1.0,
        0.0,
    )
    assert job["optimiser"].provenance == "default"
    assert "axolotl" in job["optimiser"].reason


def test_a_missing_rate_is_unknown_since_axolotl_refuses_it(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yml", LORA.replace("learning_rate: 2e-4\n", ""))
    assert job["learning_rate"].provenance == "unknown"
    assert "refuses" in job["learning_rate"].reason


def test_no_adapter_is_full_fine_tuning_without_lora_values(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yml", LORA.replace("adapter: lora\n", "adapter:\n"))
    assert job.value("adapter") == "full"
    assert job["lora_r"].value is None
    assert job["lora_r"].provenance == "default"


@pytest.mark.parametrize(
    ("more", "scale"),
    [("", "match_rms_adamw"), ("fsdp_version: 2\nfsdp_config:\n  reshard_after_forward: true\n", "spectral_norm")],
)
def test_muon_has_another_scale_rule_on_a_device_mesh(tmp_path: Path, more: str, scale: str) -> None:
    job = the_job(tmp_path, "c.yml", LORA.replace("adamw_bnb_8bit", "muon") + more)
    assert values(job, "optimiser", "muon_scale") == ("muon", scale)


def test_muon_of_one_process_drops_the_vectors_of_dora(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yml", LORA.replace("adamw_bnb_8bit", "muon") + "peft_use_dora: true\n")
    assert "muon_drops" in job.marks


def test_a_deepspeed_block_beside_the_config_wins(tmp_path: Path) -> None:
    block = '{"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lion", "params": {"lr": "auto"}}, "bf16": {}}'
    job = the_job(tmp_path, "c.yml", LORA + "deepspeed: ds.json\n", ds__json=block)
    assert job["optimiser"].value == "lion"
    assert job["optimiser"].provenance == "overridden"
    assert job.marks["declared_optimiser"].value == "adamw_8bit"
    assert job.value("learning_rate") == 2e-4  # auto takes the host's


def test_lora_plus_ignores_weight_decay_in_old_versions_alone(tmp_path: Path) -> None:
    text = LORA + "loraplus_lr_ratio: 16\nweight_decay: 0.1\n"
    assert "weight_decay_ignored" not in the_job(tmp_path, "c.yml", text).marks
    old = the_job(tmp_path, "c.yml", text, requirements__txt="axolotl==0.19.0\n")
    assert old.marks["weight_decay_ignored"].value == 0.1


def test_anchors_and_merge_keys_are_followed(tmp_path: Path) -> None:
    text = LORA.replace("learning_rate: 2e-4\n", "") + "x: &x\n  learning_rate: 5e-5\n<<: *x\n"
    assert the_job(tmp_path, "c.yml", text).value("learning_rate") == 5e-5


@pytest.mark.parametrize(
    "text",
    [
        "base_model: a/b\nmodels:\n  - model: c\nmerge_method: slerp\nlearning_rate: 1\n",
        "base_model: a/b\ndatasets: [x]\n",
        "services:\n  web:\n    image: base_model\n",
    ],
)
def test_what_trains_nothing_yields_no_job(tmp_path: Path, text: str) -> None:
    assert jobs_of(tmp_path, "c.yml", text) == []


def test_few_keys_that_only_axolotl_has_name_it(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yml", "base_model: m\nadapter: lora\noptimizer: lion_pytorch\nlearning_rate: 1e-5\n")
    assert (job.tool, *values(job, "optimiser", "learning_rate")) == ("axolotl", "lion", 1e-5)
