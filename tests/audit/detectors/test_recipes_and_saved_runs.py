"""YAML of Transformers' and TRL's arguments, nested configs, saved runs, hosted requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

RECIPE = """\
model_name_or_path: some/model
use_peft: true
lora_r: 16
lora_alpha: 32
dataset_name: some/data
learning_rate: 2.0e-04
num_train_epochs: 1
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
lr_scheduler_type: cosine
packing: true
"""


def test_a_recipe_keeps_what_it_states(tmp_path: Path) -> None:
    job = the_job(tmp_path, "recipes/sft/config.yaml", RECIPE)
    assert (job.tool, *values(job, "learning_rate", "lora_r", "scheduler", "epochs")) == ("trl", 2e-4, 16, "cosine", 1)


def test_peft_that_is_off_makes_its_settings_idle(tmp_path: Path) -> None:
    job = the_job(tmp_path, "recipes/sft/config.yaml", RECIPE.replace("use_peft: true", "use_peft: false"))
    assert job["lora_r"].value is None


def test_sections_of_a_nested_config_are_jobs_with_the_lora_beside_them(tmp_path: Path) -> None:
    text = """\
        model: {name: some/model}
        lora: {r: 4, lora_alpha: 8}
        training:
          output_dir: out
          per_device_train_batch_size: 1
          num_train_epochs: 2
          learning_rate: 1e-4
          optim: adamw_8bit
        """
    job = the_job(tmp_path, "conf/train.yaml", text)
    assert (job.name, *values(job, "optimiser", "learning_rate", "lora_r")) == ("training", "adamw_8bit", 1e-4, 4)


def test_a_lion_block_of_deepspeed_wins_over_optim(tmp_path: Path) -> None:
    block = '{"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lion", "params": {"lr": "auto"}}, "fp16": {}}'
    text = RECIPE + "optim: adamw_torch\ndeepspeed: ds.json\n"
    job = the_job(tmp_path, "recipes/sft/config.yaml", text, ds__json=block)
    assert values(job, "optimiser", "learning_rate") == ("lion", 2e-4)
    assert job.marks["declared_optimiser"].value == "adamw"


def test_evaluation_alone_yields_no_job(tmp_path: Path) -> None:
    assert jobs_of(tmp_path, "c.yaml", RECIPE + "do_train: false\n") == []


def test_hydra_targets_and_interpolations_are_followed(tmp_path: Path) -> None:
    text = """\
        lr: 0.003
        model:
          optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: "${lr}", weight_decay: 0.1}
        trainer: {max_epochs: 7}
        """
    job = the_job(tmp_path, "conf/train.yaml", text)
    assert values(job, "optimiser", "learning_rate", "weight_decay", "epochs") == ("adamw", 0.003, 0.1, 7)


def test_a_rate_from_the_environment_is_unknown(tmp_path: Path) -> None:
    text = "optimizer: {_target_: torch.optim.AdamW, lr: '${oc.env:LR}'}\nepochs: 1\n"
    job = the_job(tmp_path, "c.yaml", text)
    assert job["learning_rate"].provenance == "unknown"


def test_a_defaults_list_leads_to_the_group_beside_it(tmp_path: Path) -> None:
    text = "defaults:\n  - optimizer: lion\n  - _self_\nepochs: 3\n"
    group = "_target_: lion_pytorch.Lion\nlr: 3e-5\n"
    job = the_job(tmp_path, "conf/config.yaml", text, conf___optimizer___lion__yaml=group)
    assert values(job, "optimiser", "learning_rate", "epochs") == ("lion", 3e-5, 3)
    assert job["optimiser"].provenance == "inherited"
    assert job["learning_rate"].at == "conf/optimizer/lion.yaml:2"


def test_a_trainer_state_names_no_optimiser_and_no_rate(tmp_path: Path) -> None:
    state = {
        "global_step": 10,
        "max_steps": 10,
        "num_train_epochs": 2,
        "log_history": [{"learning_rate": 1e-4, "step": 5}],
    }
    job = the_job(tmp_path, "out/trainer_state.json", json.dumps(state))
    assert job.kind == "saved"
    assert job["optimiser"].provenance == job["learning_rate"].provenance == "unknown"
    assert "0.0001" in job["learning_rate"].reason
    assert values(job, "epochs", "max_steps") == (2, 10)


def test_an_adapter_says_its_lora_and_nothing_of_its_training(tmp_path: Path) -> None:
    said = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "use_rslora": True}
    job = the_job(tmp_path, "a/adapter_config.json", json.dumps(said))
    assert (job.tool, *values(job, "lora_r", "lora_alpha", "lora_targets", "use_rslora")) == (
        "peft",
        8,
        16,
        ["q_proj"],
        True,
    )
    assert job["optimiser"].provenance == "unknown"


@pytest.mark.parametrize(
    ("body", "host", "rate"),
    [
        ({"model": "gpt", "training_file": "f", "method": {"type": "supervised"}}, "openai", None),
        ({"model": "m", "training_file": "f", "lora": True, "learning_rate": 1e-5, "n_epochs": 3}, "together", 1e-5),
        ({"model": "m", "training_files": ["f"], "hyperparameters": {"learning_rate": 1e-4}}, "mistral", 1e-4),
    ],
)
def test_a_hosted_request_discloses_no_optimiser(
    tmp_path: Path, body: dict[str, object], host: str, rate: float | None
) -> None:
    job = the_job(tmp_path, "job.json", json.dumps(body))
    assert (job.tool, job.kind, job.value("learning_rate")) == (host, "hosted", rate)
    assert job["optimiser"].provenance == "unknown"
    assert job.marks["hosted"].value == host


def test_openais_multiplier_is_no_rate(tmp_path: Path) -> None:
    said = {"learning_rate_multiplier": 2, "n_epochs": "auto"}
    body = {"model": "gpt", "training_file": "f", "method": {"type": "dpo", "dpo": {"hyperparameters": said}}}
    job = the_job(tmp_path, "job.json", json.dumps(body))
    assert job.value("learning_rate_multiplier") == 2
    assert job["learning_rate"].provenance == job["epochs"].provenance == "unknown"


def test_a_tinker_config_is_adamw_with_its_rate(tmp_path: Path) -> None:
    said = {
        "log_path": "l",
        "model_name": "m",
        "dataset_builder": {},
        "learning_rate": 2e-4,
        "lora_rank": 16,
        "save_every": 5,
    }
    job = the_job(tmp_path, "run/config.json", json.dumps(said))
    assert (job.tool, *values(job, "optimiser", "learning_rate", "lora_r")) == ("tinker", "adamw", 2e-4, 16)


def test_settings_with_bare_names_of_lora_are_read(tmp_path: Path) -> None:
    said = {
        "model": "some/model", "training_file": "data/one.jsonl", "is_peft": True, "r": 32, "lora_alpha": 64,
        "epochs": 1, "max_steps": None, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8,
        "learning_rate": 1e-5, "optim": "adamw_8bit", "weight_decay": 0.01, "lr_scheduler_type": "linear",
    }  # fmt: skip
    job = the_job(tmp_path, "train.json", json.dumps(said))
    assert values(job, "optimiser", "learning_rate", "lora_r", "lora_alpha", "epochs", "datasets") == (
        "adamw_8bit",
        1e-5,
        32,
        64,
        1,
        ["data/one.jsonl"],
    )


def test_the_old_switch_for_adafactor_counts_before_optim(tmp_path: Path) -> None:
    job = the_job(tmp_path, "sft/c.yaml", RECIPE + "optim: adamw_torch\nadafactor: true\n")
    assert job.value("optimiser") == "adafactor"


def test_use_peft_without_a_rank_takes_trls(tmp_path: Path) -> None:
    text = RECIPE.replace("lora_r: 16\nlora_alpha: 32\n", "")
    assert values(the_job(tmp_path, "sft/c.yaml", text), "lora_r", "lora_alpha", "lora_dropout") == (16, 32, 0.05)


def test_lora_and_length_of_a_deeply_nested_config_are_found(tmp_path: Path) -> None:
    text = """\
        model: {name: some/model, lora: {r: 64, alpha: 32}}
        training:
          optimization: {learning_rate: 3e-4, optimizer: adamw_8bit, warmup_ratio: 0.1, max_grad_norm: 1.0}
          epochs: {num_train_epochs: 3}
        """
    job = the_job(tmp_path, "c.yaml", text)
    assert values(job, "optimiser", "learning_rate", "lora_r", "lora_alpha", "epochs") == (
        "adamw_8bit",
        3e-4,
        64,
        32,
        3,
    )
