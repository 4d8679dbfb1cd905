"""LLaMA-Factory configs of both generations; the order of the switches is that of create_custom_optimizer in 0.9.5."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

V0 = """\
model_name_or_path: some/model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
dataset: one,two
template: qwen
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
optim: adamw_torch
"""
V1 = """\
model: some/model
model_class: llm
peft_config:
  name: lora
  r: 16
  lora_alpha: 32
train_dataset: data/one.yaml
cutoff_len: 512
micro_batch_size: 1
learning_rate: 1.0e-5
max_steps: 10
"""


def test_v0_takes_its_keys_and_twice_the_rank_as_alpha(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", V0)
    assert values(job, "optimiser", "learning_rate", "lora_r", "lora_alpha", "lora_dropout", "lora_targets") == (
        "adamw",
        1e-4,
        8,
        16,
        0.0,
        "all",
    )
    assert job.value("datasets") == ["one", "two"]


@pytest.mark.parametrize(
    ("switches", "wins"),
    [
        ("use_galore: true\nuse_apollo: true\n", "galore_adamw"),
        ("use_apollo: true\nuse_badam: true\n", "apollo_adamw"),
        ("use_badam: true\nuse_adam_mini: true\n", "badam"),
        ("use_adam_mini: true\nuse_muon: true\n", "adam_mini"),
        ("use_muon: true\n", "muon"),
        ("use_muon: false\n", "adamw"),
    ],
)
def test_the_first_switch_that_is_on_decides(tmp_path: Path, switches: str, wins: str) -> None:
    text = V0.replace("finetuning_type: lora\nlora_rank: 8\n", "finetuning_type: full\n") + switches
    job = the_job(tmp_path, "c.yaml", text)
    assert job.value("optimiser") == wins
    assert job["optimiser"].provenance == ("explicit" if wins == "adamw" else "overridden")
    assert ("ignored_key" in job.marks) == (switches.count("true") == 2)


def test_lora_plus_silently_wins_over_muon(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", V0 + "loraplus_lr_ratio: 16.0\nuse_muon: true\n")
    assert values(job, "optimiser", "lora_plus_ratio") == ("adamw", 16.0)
    assert job.marks["ignored_key"].value == "use_muon"
    assert job.marks["declared_optimiser"].value == "muon"


def test_galore_with_lora_is_refused_at_start(tmp_path: Path) -> None:
    assert "rejected" in the_job(tmp_path, "c.yaml", V0 + "use_galore: true\n").marks


def test_v0_muon_trains_lora_with_moonlights_scale(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", V0 + "use_muon: true\n")
    assert values(job, "optimiser", "muon_scale") == ("muon", "match_rms_adamw")
    assert "muon_not_on_lora" not in job.marks


def test_v1_muon_with_lora_is_adamw(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", V1 + "optim_config:\n  name: muon\n  lr: 0.02\n")
    assert job.value("optimiser") == "adamw"
    assert job["optimiser"].provenance == "overridden"
    assert job.marks["muon_not_on_lora"].value == "adamw"
    assert job.marks["ignored_key"].value == "optim_config.lr"
    assert job.value("learning_rate") == 1e-5


def test_v1_muon_without_lora_is_muon(tmp_path: Path) -> None:
    text = V1.replace("peft_config:\n  name: lora\n  r: 16\n  lora_alpha: 32\n", "")
    assert the_job(tmp_path, "c.yaml", text + "optim_config:\n  name: muon\n").value("optimiser") == "muon"


def test_v1_without_optimiser_is_torchs_adamw_at_a_constant_rate(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", V1.replace("learning_rate: 1.0e-5\n", ""))
    assert values(job, "optimiser", "learning_rate", "weight_decay", "scheduler") == ("adamw", 1e-4, 0.01, "constant")


def test_a_deepspeed_block_wins_and_its_auto_takes_the_hosts_rate(tmp_path: Path) -> None:
    block = '{"zero_optimization": {"stage": 3}, "bf16": {}, "optimizer": {"type": "SGD", "params": {"lr": 0.5}}}'
    job = the_job(tmp_path, "sub/c.yaml", V0 + "deepspeed: conf/ds.json\n", conf___ds__json=block)
    assert values(job, "optimiser", "learning_rate") == ("sgd", 0.5)
    assert job["learning_rate"].provenance == "overridden"
    assert job["learning_rate"].at == "conf/ds.json:1"


@pytest.mark.parametrize(
    "text",
    [
        "model_name_or_path: a\nadapter_name_or_path: b\ntemplate: qwen\ninfer_backend: vllm\n",
        "model_name_or_path: a\ntemplate: qwen\nfinetuning_type: lora\nexport_dir: out\nexport_size: 5\n",
        V0.replace("do_train: true", "do_predict: true"),
        "model: a\npeft_config:\n  name: lora\n  export_dir: x\n",
    ],
)
def test_serving_merging_and_prediction_yield_no_job(tmp_path: Path, text: str) -> None:
    assert jobs_of(tmp_path, "c.yaml", text) == []


def test_stage_and_method_may_be_left_to_their_defaults(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", V0.replace("stage: sft\n", "").replace("finetuning_type: lora\n", ""))
    assert (job.tool, *values(job, "adapter", "lora_r")) == ("llamafactory", "lora", 8)
