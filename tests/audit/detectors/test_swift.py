"""ms-swift settings in YAML and JSON; the registry `optimizer` counts before `optim` (4.6.0)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

SFT = """\
model: some/model
tuner_type: lora
dataset:
  - some/data#500
num_train_epochs: 1
per_device_train_batch_size: 1
lora_rank: 16
output_dir: out
"""


@pytest.mark.parametrize(("tuner", "rate"), [("lora", 1e-4), ("full", 1e-5)])
def test_the_default_rate_follows_the_tuner(tmp_path: Path, tuner: str, rate: float) -> None:
    job = the_job(tmp_path, "c.yaml", SFT.replace("tuner_type: lora", f"tuner_type: {tuner}"))
    assert values(job, "optimiser", "learning_rate", "weight_decay", "scheduler", "beta2") == (
        "adamw",
        rate,
        0.1,
        "cosine",
        0.95,
    )
    assert job.value("lora_r") == (16 if tuner == "lora" else None)


def test_defaults_are_those_of_the_pinned_version(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", SFT, requirements__txt="ms-swift==3.1.0\n")
    assert job.value("beta2") == 0.999
    assert "3.1.0" in job["beta2"].reason


@pytest.mark.parametrize("key", ["train_type", "sft_type"])
def test_older_names_of_the_tuner_are_read(tmp_path: Path, key: str) -> None:
    assert the_job(tmp_path, "c.yaml", SFT.replace("tuner_type", key)).value("lora_r") == 16


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("optimizer: muon\noptim: adamw_torch\n", "muon"),
        ("optimizer: galore\n", "galore_adamw"),
        ("use_galore: true\n", "galore_adamw"),
        ("optimizer: lorap\noptim: lion_32bit\n", "lion"),
        ("optimizer: default\noptim: adafactor\n", "adafactor"),
    ],
)
def test_the_registry_counts_before_optim(tmp_path: Path, more: str, found: str) -> None:
    assert the_job(tmp_path, "c.yaml", SFT + more).value("optimiser") == found


def test_a_name_outside_the_registry_is_unknown(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", SFT + "optimizer: ours\n")
    assert job["optimiser"].provenance == "unknown"
    assert job.marks["custom_optimiser"].value == "ours"


def test_the_args_file_of_a_run_is_a_saved_job(tmp_path: Path) -> None:
    said = {
        "model": "m",
        "tuner_type": "lora",
        "dataset": ["d"],
        "learning_rate": 0.0001,
        "lora_rank": 8,
        "output_dir": "o",
    }
    job = the_job(tmp_path, "args.json", json.dumps(said, indent=1))
    assert (job.kind, job.value("learning_rate")) == ("saved", 1e-4)
    assert job["learning_rate"].at == "args.json:7"


def test_megatron_keys_have_their_own_names(tmp_path: Path) -> None:
    text = "model: m\ntuner_type: lora\ndataset: d\nlr: 5e-5\ntrain_iters: 100\nmicro_batch_size: 1\n"
    assert values(the_job(tmp_path, "c.yaml", text), "optimiser", "learning_rate", "max_steps") == ("adamw", 5e-5, 100)


def test_inference_yields_no_job(tmp_path: Path) -> None:
    assert jobs_of(tmp_path, "c.yaml", "model: m\ninfer_backend: vllm\nmax_new_tokens: 64\nval_dataset: d\n") == []


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("optim: adafactor\n", "galore_adafactor"),
        ("optim: adamw_bnb_8bit\n", "galore_adamw_8bit"),
        ("galore_quantization: true\n", "q_galore_adamw_8bit"),
    ],
)
def test_galore_follows_optim_and_its_quantisation(tmp_path: Path, more: str, found: str) -> None:
    assert the_job(tmp_path, "c.yaml", SFT + "use_galore: true\n" + more).value("optimiser") == found
