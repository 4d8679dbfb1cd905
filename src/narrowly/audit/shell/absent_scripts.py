"""Turn the flags of a training script that is not among the files read into a job: what they say, the rest unknown."""

from __future__ import annotations

import re

from narrowly.audit.detectors import llamafactory, swift, trl_recipes, verl
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, unknown
from narrowly.audit.shell.configured import JobOf, with_config
from narrowly.audit.shell.flags import Flags
from narrowly.audit.trees import Document, UnreadableError

_SWIFT_FLAGS = ("tuner_type", "train_type", "sft_type")
_TRAINING = (
    "per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "learning_rate", "optim", "output_dir",
    "gradient_accumulation_steps", "weight_decay", "warmup_ratio", "logging_steps", "save_strategy", "save_steps",
    "bf16",
    "save_total_limit", "evaluation_strategy", "eval_strategy", "report_to", "fp16", "gradient_checkpointing",
)  # fmt: skip
_TRL_SCRIPTS = {
    "sft": "SFTConfig", "dpo": "DPOConfig", "kto": "KTOConfig", "orpo": "ORPOConfig", "cpo": "CPOConfig",
    "grpo": "GRPOConfig", "rloo": "RLOOConfig", "gkd": "GKDConfig", "reward_modeling": "RewardConfig",
    "sft_vlm": "SFTConfig", "dpo_vlm": "DPOConfig", "ppo": "PPOConfig",
}  # fmt: skip
"""Scripts of TRL and of the alignment handbook, by the class of their arguments."""
_TRAINS = re.compile(r"train|fine_?-?tun|sft|dpo|ppo|grpo|orpo|kto|reward|pretrain|lora|run_clm", re.IGNORECASE)
_ADAPTER = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets", "use_rslora")
_NO_PEFT = re.compile(r"(?:^|/)(?:trl/scripts|examples/scripts)/\w+\.py\Z|(?:^|/)run_(?:clm|mlm|plm|fim|glue|qa)\.py\Z")
"""Examples of TRL and Transformers, which train every weight unless `--use_peft` is given."""
_BARE = {
    "optimiser": ("optim", "optimizer"), "learning_rate": ("learning_rate", "lr"),
    "weight_decay": ("weight_decay", "wd"),
    "scheduler": ("lr_scheduler_type", "lr_scheduler"), "epochs": ("num_train_epochs", "epochs", "num_epochs"),
    "max_steps": ("max_steps", "max_train_steps"), "lora_r": ("lora_r", "lora_rank"), "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
}  # fmt: skip
"""Flags whose names alone say what they set, in scripts that are not at hand."""


def job_by_flags(flags: Flags, script: str, file: SourceFile, repository: Repository) -> list[Job]:
    """Return the job that the flags of a script tell where the script itself is not at hand."""
    if re.search(r"generat|eval|merge|infer|convert|serve", script.rsplit("/", 1)[-1]):
        return []
    names = {name.replace("-", "_") for name in flags.named}
    others = {"template", "finetuning_type"}
    if names & set(_SWIFT_FLAGS) and names & {"dataset", "model", "model_type"} and not names & others:
        return with_config(swift.job_of, flags, file, repository)
    if "finetuning_type" in names and names & {"stage", "template", "do_train"}:
        return with_config(llamafactory.job_of, flags, file, repository)
    if script.endswith(("verl.py", "main_ppo.py")) or any(
        key.startswith("actor_rollout_ref") for key in flags.overrides
    ):
        return with_config(verl.job_of, flags, file, repository, dotted=True)
    stated = [name for name in _TRAINING if name in names]
    named = names & {"per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "optim"}
    known = len(stated) >= 3 and named and "no_trainer" not in script and "per_gpu_train_batch_size" not in names
    if known or _names_a_recipe(flags, script, file, repository):
        return [_maybe_adapter(job, script) for job in with_config(_of_script(script), flags, file, repository)]
    return _bare_flags(flags, script, names, file)


def _maybe_adapter(job: Job, script: str) -> Job:
    """Say that a script which is not at hand may add an adapter, where neither flags nor a recipe speak of one."""
    if not _NO_PEFT.search(script) and all(job[name].provenance in ("default", "unknown") for name in _ADAPTER):
        for name in (*_ADAPTER, "adapter"):
            job.set(name, unknown(f"{script} is not among the files read, and may add an adapter"))
    return job


def _names_a_recipe(flags: Flags, script: str, file: SourceFile, repository: Repository) -> bool:
    """Tell whether a script that trains is given a recipe of Transformers' arguments that lies beside."""
    if not _TRAINS.search(script.rsplit("/", 1)[-1]):
        return False
    for word in flags.positional:
        found = repository.find(word.text, file) if word.text.endswith((".yaml", ".yml", ".json")) else None
        try:
            if found is not None and any(trl_recipes.is_trainer(one) for one in found.documents):
                return True
        except UnreadableError:
            continue
    return False


def _bare_flags(flags: Flags, script: str, names: set[str], file: SourceFile) -> list[Job]:
    """Return the job of a script that is not at hand and is told how to train: its optimiser is unknown."""
    told = names & {"learning_rate", "lr"} and names & {
        "max_steps", "epochs", "num_epochs", "num_train_epochs", "batch_size", "output_dir", "train_batch_size",
        "per_device_train_batch_size", "max_train_steps", "num_train_steps", "weight_decay", "lr_scheduler_type",
    }  # fmt: skip
    if not told or not _TRAINS.search(script.rsplit("/", 1)[-1]):
        return []
    job = Job("transformers" if "learning_rate" in names else "torch", file.shown, name=script, cli_overridable=True)
    absent = unknown(f"{script} is not among the files read")
    for name in ("optimiser", "learning_rate", "weight_decay", "scheduler", "epochs", "max_steps", *_ADAPTER):
        job.set(name, absent)
    document = flags.document(file.shown)
    for name, keys in _BARE.items():
        job.set(name, document.field(name, *keys))
    return [job]


def _of_script(script: str) -> JobOf:
    def job_of(document: Document, source: SourceFile, where: Repository) -> Job:
        stem = script.rsplit("/", 1)[-1].removesuffix(".py").removeprefix("run_")
        return trl_recipes.job_of(document, source, where, of=_TRL_SCRIPTS.get(stem, ""))

    return job_of
