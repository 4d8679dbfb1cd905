"""Configs of the tools of the second wave, and of torchtune, NeMo, Lightning; one fixture each, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

TORCHTUNE = """\
model:
  _component_: torchtune.models.llama3.lora_llama3_8b
  lora_attn_modules: ['q_proj', 'v_proj']
  apply_lora_to_mlp: true
  lora_rank: 8
  lora_alpha: 16
optimizer:
  _component_: bitsandbytes.optim.PagedAdamW8bit
  lr: 3e-4
epochs: 1
batch_size: 2
"""
VERL = """\
actor_rollout_ref:
  model: {path: some/model, lora_rank: 0}
  actor:
    strategy: fsdp
    optim:
      lr: 1e-6
critic:
  optim:
    lr: 2e-5
trainer:
  total_epochs: 3
"""
MLX = """\
model: some/model
train: true
fine_tune_type: lora
data: some/data
iters: 600
learning_rate: 1e-5
lora_parameters:
  keys: ["self_attn.q_proj"]
  rank: 4
  scale: 20.0
"""
AUTOTRAIN = """\
task: llm-sft
base_model: some/model
project_name: ours
data:
  path: some/data
params:
  epochs: 2
  lr: 1e-5
  peft: true
"""
KOHYA = """\
[model]
pretrained_model_name_or_path = "m.safetensors"
[network]
network_module = "networks.lora"
network_dim = 16
[optimizer]
optimizer_type = "AdamW8bit"
learning_rate = 1e-4
optimizer_args = ["weight_decay=0.05", "betas=(0.9,0.99)"]
[training]
max_train_epochs = 10
"""
TORCHTITAN = """\
[model]
name = "llama3"
flavor = "8B"
[optimizer]
name = "AdamW"
lr = 3e-4
[training]
steps = 1000
"""
NEMO = """\
trainer:
  max_epochs: 2
  max_steps: 100
model:
  restore_from_path: m.nemo
  peft:
    peft_scheme: lora
    lora_tuning: {adapter_dim: 32, target_modules: [attention_qkv]}
  optim:
    name: distributed_fused_adam
    lr: 1e-4
    weight_decay: 0.01
"""
AUTOMODEL = """\
step_scheduler:
  num_epochs: 2
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained
  pretrained_model_name_or_path: some/model
peft:
  _target_: nemo_automodel.components._peft.lora.PeftConfig
  dim: 8
optimizer:
  _target_: torch.optim.Adam
  lr: 1.0e-5
"""
LIGHTNING = """\
trainer:
  max_epochs: 5
model:
  class_path: ours.Module
optimizer:
  class_path: torch.optim.SGD
  init_args: {lr: 0.1, momentum: 0.9}
"""
LITGPT = """\
checkpoint_dir: checkpoints/m
out_dir: out
lora_r: 32
lora_alpha: 16
lora_query: true
lora_value: true
train:
  global_batch_size: 8
  micro_batch_size: 2
  epochs: 4
optimizer:
  class_path: torch.optim.AdamW
  init_args: {lr: 0.0002, weight_decay: 0.0}
"""
OPENRLHF = """\
pretrain: some/model
reward_pretrain: other/model
actor_learning_rate: 5e-7
critic_learning_rate: 9e-6
micro_train_batch_size: 4
zero_stage: 2
"""
UNSLOTH = """\
model: unsloth/some
data: {dataset: some/data}
training:
  training_type: lora
  num_epochs: 1
  max_steps: 0
lora: {lora_r: 64, lora_alpha: 16}
"""


@pytest.mark.parametrize(
    ("name", "text", "tool", "optimiser", "rate", "rank", "epochs"),
    [
        ("c.yaml", TORCHTUNE, "torchtune", "paged_adamw_8bit", 3e-4, 8, 1),
        ("c.yaml", MLX, "mlx-lm", "adam", 1e-5, 4, None),
        ("c.yaml", AUTOTRAIN, "autotrain", "adamw", 1e-5, 16, 2),
        ("c.toml", KOHYA, "kohya", "adamw_8bit", 1e-4, 16, 10),
        ("c.toml", TORCHTITAN, "torchtitan", "adamw", 3e-4, None, None),
        ("c.yaml", NEMO, "nemo", "adamw", 1e-4, 32, 2),
        ("c.yaml", AUTOMODEL, "nemo-automodel", "adam", 1e-5, 8, 2),
        ("c.yaml", LIGHTNING, "lightning", "sgd", 0.1, None, 5),
        ("c.yaml", LITGPT, "lightning", "adamw", 2e-4, 32, 4),
        ("c.yaml", OPENRLHF, "openrlhf", "adamw", 5e-7, None, 1),
        ("c.yaml", UNSLOTH, "unsloth", "adamw_8bit", 2e-4, 64, 1),
    ],
)
def test_each_tool_is_known_by_its_layout(
    tmp_path: Path, name: str, text: str, tool: str, optimiser: str, rate: float, rank: int | None, epochs: int | None
) -> None:
    job = the_job(tmp_path, name, text)
    assert (job.tool, *values(job, "optimiser", "learning_rate", "lora_r", "epochs")) == (
        tool,
        optimiser,
        rate,
        rank,
        epochs,
    )


def test_verl_has_a_job_for_the_actor_and_for_a_stated_critic(tmp_path: Path) -> None:
    actor, critic = jobs_of(tmp_path, "c.yaml", VERL)
    assert (actor.name, *values(actor, "optimiser", "learning_rate", "epochs")) == ("actor", "adamw", 1e-6, 3)
    assert (critic.name, *values(critic, "optimiser", "learning_rate")) == ("critic", "adamw", 2e-5)


def test_kohyas_optimiser_arguments_are_read(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.toml", KOHYA)
    assert values(job, "weight_decay", "beta2", "lora_alpha") == (0.05, 0.99, 1)
    assert job["learning_rate"].at == "c.toml:8"


def test_mlx_has_no_alpha_and_writes_a_file_with_pefts_name(tmp_path: Path) -> None:
    said = {"model": "m", "train": True, "iters": 10, "lora_parameters": {"rank": 8}, "learning_rate": 1e-5,
            "adapter_path": "a", "num_layers": 16}  # fmt: skip
    job = the_job(tmp_path, "adapter_config.json", json.dumps(said))
    assert (job.tool, job.kind, job.value("lora_alpha")) == ("mlx-lm", "saved", None)
    assert "no alpha" in job["lora_alpha"].reason


def test_autotrain_defaults_depend_on_the_task(tmp_path: Path) -> None:
    text = AUTOTRAIN.replace("llm-sft", "text-classification").replace("  lr: 1e-5\n", "").replace("  epochs: 2\n", "")
    assert values(the_job(tmp_path, "c.yaml", text), "learning_rate", "epochs") == (5e-5, 3)


def test_what_a_lightning_module_decides_is_unknown(tmp_path: Path) -> None:
    text = LIGHTNING[: LIGHTNING.index("optimizer:")]
    job = the_job(tmp_path, "c.yaml", text)
    assert job["optimiser"].provenance == "unknown"
    assert "custom_optimiser" in job.marks


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", MLX.replace("train: true", "train: false")),
        ("c.yaml", "model: m\nmax_tokens: 20\ntemp: 0.7\n"),
        ("c.yaml", TORCHTUNE[: TORCHTUNE.index("optimizer:")] + "temperature: 0.6\n"),
        ("docker-compose.yml", "services:\n  trainer:\n    image: x\n    environment:\n      LEARNING_RATE: 1e-4\n"),
        ("ci.yml", "on: push\njobs:\n  train:\n    steps:\n      - run: make optimizer learning_rate=1\n"),
        ("c.yaml", "tasks: [mmlu]\nmodel_args: {pretrained: m}\nbatch_size: 8\nnum_fewshot: 5\n"),
        (
            "serve.yaml",
            "model: m\ntensor_parallel_size: 2\nmax_model_len: 4096\nenable_lora: true\nmax_lora_rank: 64\n",
        ),
        ("package.json", '{"name": "optimizer", "scripts": {"train": "x"}, "dependencies": {"lr": "1"}}'),
    ],
)
def test_what_trains_nothing_yields_no_job(tmp_path: Path, name: str, text: str) -> None:
    assert jobs_of(tmp_path, name, text) == []


BASE = """\
policy:
  model_name: some/model
  megatron_cfg:
    enabled: false
    optimizer: {optimizer: adam, lr: 5.0e-6}
  optimizer:
    name: torch.optim.AdamW
    kwargs: {lr: 1.0e-6, weight_decay: 0.01}
grpo:
  max_num_steps: 100
"""


def test_a_nemo_rl_recipe_is_laid_over_its_base(tmp_path: Path) -> None:
    text = "defaults: ../base.yaml\npolicy:\n  optimizer:\n    kwargs: {lr: 3.0e-7}\n"
    job = the_job(tmp_path, "recipes/c.yaml", text, base__yaml=BASE)
    assert values(job, "optimiser", "learning_rate", "weight_decay", "max_steps") == ("adamw", 3e-7, 0.01, 100)
    assert job["learning_rate"].provenance == "explicit"
    assert (job["optimiser"].provenance, job["optimiser"].at) == ("inherited", "base.yaml:7")


def test_megatrons_adam_is_adamw_and_counts_where_megatron_is_on(tmp_path: Path) -> None:
    text = "defaults: base.yaml\npolicy:\n  megatron_cfg:\n    enabled: true\n  optimizer: null\n"
    job = the_job(tmp_path, "c.yaml", text, base__yaml=BASE)
    assert values(job, "optimiser", "learning_rate") == ("adamw", 5e-6)
    assert job["optimiser"].raw == "adam"


def test_a_recipe_without_its_base_is_unknown(tmp_path: Path) -> None:
    job = the_job(tmp_path, "c.yaml", "defaults: gone.yaml\npolicy: {model_name: m}\ncheckpointing: {enabled: true}\n")
    assert "gone.yaml is not beside" in job["optimiser"].reason


def test_the_section_of_a_subcommand_is_looked_into(tmp_path: Path) -> None:
    text = "fit:\n" + "".join(f"  {line}\n" for line in LIGHTNING.splitlines())
    assert values(the_job(tmp_path, "c.yaml", text), "optimiser", "learning_rate") == ("sgd", 0.1)


def test_a_short_mlx_config_that_trains_is_a_job(tmp_path: Path) -> None:
    text = "model: m\ntrain: true\ndata: d\niters: 10\nlora_parameters: {rank: 4}\n"
    assert values(the_job(tmp_path, "c.yaml", text), "optimiser", "learning_rate", "max_steps") == ("adam", 1e-5, 10)


def test_two_tables_of_toml_that_torchtitan_has_name_it(tmp_path: Path) -> None:
    text = '[training]\nsteps = 100\n[optimizer]\nname = "Adam"\nlr = 8e-4\n'
    job = the_job(tmp_path, "t.toml", text)
    assert (job.tool, *values(job, "optimiser", "learning_rate", "max_steps")) == ("torchtitan", "adam", 8e-4, 100)


@pytest.mark.parametrize(
    ("model", "pin", "rate", "schedule"),
    [
        ("partial_pretrain", "0.7.0", 1e-5, "cosine"),
        ("path", "0.7.0", 1e-3, "constant"),
        ("path", "0.5.0", 1e-5, "cosine"),
    ],
)
def test_the_two_sft_trainers_of_verl_have_their_own_defaults(
    tmp_path: Path, model: str, pin: str, rate: float, schedule: str
) -> None:
    text = (
        f"# for verl.trainer.sft_trainer\ndata:\n  train_files: d\nmodel:\n  {model}: m\noptim:\n  weight_decay: 0.1\n"
    )
    job = the_job(tmp_path, "c.yaml", text, requirements__txt=f"verl=={pin}\n")
    assert values(job, "optimiser", "learning_rate", "scheduler", "epochs") == ("adamw", rate, schedule, 4)
