"""Turn commands of a shell script into jobs: the tool's own command line, a Python module, or a script beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from narrowly.audit.detectors import (
    autotrain,
    axolotl,
    kohya,
    llamafactory,
    mlx_lm,
    openrlhf,
    swift,
    torchtitan,
    torchtune,
    trl_recipes,
    verl,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, unknown
from narrowly.audit.shell.commands import Command, Word, commands_in
from narrowly.audit.shell.flags import IN_BASE, Flags, flags_of
from narrowly.audit.shell.heredocs import MOST_MADE, as_file, named_in, written_in
from narrowly.audit.shell.hosted_commands import hosted_command
from narrowly.audit.shell.script_runs import jobs_of_script
from narrowly.audit.trees import Document, UnreadableError

_LAUNCHERS = re.compile(
    r"(?:.*/)?(?:python[\d.]*|accelerate|accelerate-launch|torchrun|deepspeed|srun|mpirun|uv|poetry|pdm|xvfb-run|ray|bash|env"
    r"|singularity|apptainer|docker|conda|numactl|composer|\$\w+|\$\{\w+\}|horovodrun|mpiexec|coverage|pipenv|nsys)\Z"
)
_SHELL = re.compile(r"(?:.*/)?(?:ba|z|da)?sh\Z")
DEEPEST = 3
"""Shells that are started in the text of one another."""
_MODULES = {
    "verl": re.compile(r"verl\.(?!.*(?:generation|eval|merge))(?:trainer|.*main_|.*sft)"),
    "openrlhf": re.compile(r"openrlhf\.cli\.train"),
    "mlx-lm": re.compile(r"mlx_lm\.lora|mlx_lm\.dora|mlx_lm\Z"),
    "axolotl": re.compile(r"axolotl\.cli\.train|axolotl\.train"),
    "llamafactory": re.compile(r"llamafactory\.(?:cli|launcher)|llmtuner"),
    "swift": re.compile(r"swift\.cli\.(?:sft|rlhf|pt)|swift\.llm"),
    "torchtitan": re.compile(r"torchtitan\.train"),
    "autotrain": re.compile(r"autotrain"),
    "trl": re.compile(r"trl\.(?:scripts|cli)"),
}
_KOHYA = re.compile(
    r"(?:.*/)?(?:sdxl_|flux_|sd3_|lumina_|hunyuan\w*_|wan_)?(?:train_network|train_db|fine_tune|train_textual_inversion|train)\.py"
)
_KOHYA_FLAGS = ("network_module", "optimizer_type", "network_dim", "unet_lr", "text_encoder_lr")
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
JobOf = Callable[[Document, SourceFile, Repository], Job]


def jobs_in_shell(file: SourceFile, repository: Repository, text: str | None = None, first_line: int = 1) -> list[Job]:
    """Return the jobs that the commands of a shell script start.

    Args:
        file: the script, or the file that holds the commands.
        repository: where configs and scripts that they name are looked for.
        text: the commands where they are only a part of the file (`run: |` of a YAML file).
        first_line: line of the file at which `text` begins.

    Raises:
        UnreadableError: the file is not text.
    """
    jobs = []
    commands = file.text if text is None else text
    written = written_in(commands, first_line)
    made = 0
    for command in commands_in(commands):
        for word in command.words:
            word.line += first_line - 1
        command.line += first_line - 1
        taken = (
            [one for one in written if one.line <= command.line and named_in(command, one)] if made < MOST_MADE else []
        )
        before = dict(as_file(one, file, command.environment) for one in taken)
        made += len(before)
        beside = repository.with_written(before) if before else repository
        for job in command_jobs(command, file, beside):
            job.file, job.line, job.kind = file.shown, command.line, "hosted" if job.kind == "hosted" else "command"
            jobs.append(job)
    return jobs


def command_jobs(command: Command, file: SourceFile, repository: Repository, depth: int = 0) -> list[Job]:
    """Return the jobs of one command; of `bash -c "..."` those of the commands in the text."""
    words = command.words
    for position in range(1, len(words) - 1):
        text = words[position + 1].text
        if words[position].text in ("-c", "-lc") and _SHELL.fullmatch(words[position - 1].text) and depth < DEEPEST:
            return [
                job for one in commands_in(text) for job in command_jobs(_at(one, command), file, repository, depth + 1)
            ]
    name = words[0].text.rsplit("/", 1)[-1]
    own = _own_command(name, words, file, repository)
    if own is not None:
        return own
    hosted = hosted_command(name, words, file)
    if hosted is not None:
        return [hosted]
    if not _LAUNCHERS.fullmatch(words[0].text) and not words[0].text.endswith(".py"):
        return []
    for position, word in enumerate(words):
        before = words[position - 1].text if position else ""
        if before in ("-m", "--module") and word.text not in ("torch.distributed.launch", "torch.distributed.run"):
            return _module(word.text, words[position + 1 :], file, repository)
        if position and before not in ("-m", "--module"):
            inner = _own_command(word.text.rsplit("/", 1)[-1], words[position:], file, repository)
            if inner is not None and (not before.startswith("-") or "=" in before):
                return inner
        if word.text.endswith(".py"):
            return _script(word, words[position + 1 :], command, file, repository)
    return []


def _at(inner: Command, outer: Command) -> Command:
    """Return a command of the text of another with the other's line and variables."""
    for word in inner.words:
        word.line = outer.line
    return Command(inner.words, outer.line, {**outer.environment, **inner.environment})


def _own_command(name: str, words: list[Word], file: SourceFile, repository: Repository) -> list[Job] | None:
    """Return the jobs of a tool's own command, None where it is none, an empty list where it does not train."""
    sub = words[1].text if len(words) > 1 else ""
    rest = words[2:]
    if name in ("llamafactory-cli", "lmf") and sub in ("train", "sft"):
        return _with_config(llamafactory.job_of, flags_of(rest), file, repository)
    if name in ("swift", "megatron-swift") and sub in ("sft", "rlhf", "pt", "grpo", "dpo"):
        return _with_config(swift.job_of, flags_of(rest), file, repository)
    if name == "axolotl" and sub in ("train", "preprocess"):
        return _with_config(axolotl.job_of, flags_of(rest), file, repository) if sub == "train" else []
    if name == "tune" and sub == "run":
        return _with_config(torchtune.job_of, flags_of(rest), file, repository, dotted=True)
    if name == "trl" and sub in ("sft", "dpo", "grpo", "kto", "reward", "rloo"):
        return _trl(sub, flags_of(rest), file, repository)
    if name == "autotrain":
        return _with_config(autotrain.job_of, flags_of(words[1:]), file, repository)
    if name in ("mlx_lm.lora", "mlx_lm.dora") or (name == "mlx_lm" and sub == "lora"):
        return _with_config(mlx_lm.job_of, flags_of(words[1:]), file, repository)
    return None


def _with_config(
    job_of: JobOf, flags: Flags, file: SourceFile, repository: Repository, *, dotted: bool = False
) -> list[Job]:
    """Return the job of a tool with the config that the command names below its flags."""
    named = flags.text("config", "config_file", "c") or next(
        (word.text for word in flags.positional if word.text.endswith((".yaml", ".yml", ".json", ".toml"))), None
    )
    base = None
    absent = ""
    if named is not None:
        found = repository.find(named, file) or _recipe(named, job_of, file, repository)
        absent = named if found is None else ""
        if found is not None:
            try:
                base = next((one for one in found.documents if isinstance(one.value, dict)), None)
            except UnreadableError:
                base = None
        elif not [key for key in (*flags.named, *flags.overrides) if key not in ("config", "nproc_per_node", "nnodes")]:
            return []  # nothing but the name of a file that is not here
    for key in ("config", "config_file", "c", "nproc_per_node", "nnodes", "launcher"):
        flags.named.pop(key, None)
    document = flags.document(file.shown, base, dotted=dotted)
    if not document.value:
        return []
    job = job_of(document, file, repository)
    if absent:
        for name, field in list(job.fields.items()):
            if field.provenance == "default":
                job.set(name, unknown(f"{absent} is not among the files read"))
    return [_settled(job, file, base)]


def _recipe(named: str, job_of: JobOf, file: SourceFile, repository: Repository) -> SourceFile | None:
    """Return the config that `tune run --config NAME` takes from torchtune's own, where they are among the files."""
    if job_of is not torchtune.job_of:
        return None
    stem = named.removesuffix(".yaml")
    return repository.find(f"recipes/configs/{stem}.yaml", file) or repository.find(f"configs/{stem}.yaml", file)


def _settled(job: Job, file: SourceFile, base: Document | None) -> Job:
    """Give what the base file says its own place, and mark it as inherited; flags keep theirs."""
    job.cli_overridable = True
    if base is None:
        return job
    job.name = job.name or base.file
    pattern = re.compile(rf"{re.escape(file.shown)}:(\d{{8,}})")

    def moved(text: str) -> str:
        return pattern.sub(lambda found: f"{base.file}:{int(found.group(1)) - IN_BASE}", text)

    for kept in (job.fields, job.marks):
        for name, found in list(kept.items()):
            at = moved(found.at) if found.at else found.at
            changed = replace(found, at=at, reason=moved(found.reason))
            if at != found.at and found.provenance == "explicit" and kept is job.fields:
                changed = replace(changed, provenance="inherited", reason=changed.reason or f"set in {base.file}")
            kept[name] = changed
    return job


def _trl(sub: str, flags: Flags, file: SourceFile, repository: Repository) -> list[Job]:
    def job_of(document: Document, source: SourceFile, where: Repository) -> Job:
        job = trl_recipes.job_of(document, source, where, of=f"{sub.upper() if sub != 'reward' else 'Reward'}Config")
        job.tool = "trl"
        return job

    return _with_config(job_of, flags, file, repository)


def _module(module: str, rest: list[Word], file: SourceFile, repository: Repository) -> list[Job]:
    tool = next((name for name, pattern in _MODULES.items() if pattern.match(module)), None)
    flags = flags_of(rest)
    if tool == "verl":
        return _with_config(verl.job_of, flags, file, repository, dotted=True)
    if tool == "openrlhf":
        command = module.rsplit(".", 1)[-1]
        return _with_config(
            lambda document, source, where: openrlhf.job_of(document, source, where, command),
            flags,
            file,
            repository,
            dotted=True,
        )
    if tool in ("mlx-lm", "axolotl", "llamafactory", "swift", "autotrain"):
        of = {
            "mlx-lm": mlx_lm,
            "axolotl": axolotl,
            "llamafactory": llamafactory,
            "swift": swift,
            "autotrain": autotrain,
        }[tool]
        return _with_config(of.job_of, flags, file, repository)
    if tool == "torchtitan":
        return _with_config(torchtitan.job_of, flags, file, repository, dotted=True)
    if tool == "trl":
        return _trl(module.rsplit(".", 1)[-1], flags, file, repository)
    found = repository.find(module.replace(".", "/") + ".py", file)
    if found is not None:
        return jobs_of_script(found, flags, {}, file, repository)
    return _by_flags(flags, module, file, repository)


def _script(word: Word, rest: list[Word], command: Command, file: SourceFile, repository: Repository) -> list[Job]:
    flags = flags_of(rest)
    if _is_kohya(word.text, flags):
        if "max_train_epoch" in flags.named:  # argparse takes a beginning that only one option has
            flags.named["max_train_epochs"] = flags.named.pop("max_train_epoch")
        return _with_config(kohya.job_of, flags, file, repository)
    found = repository.find(word.text, file) or repository.find_mounted(word.text, file)
    if found is not None:
        environment = {name: (text, f"{file.shown}:{line}") for name, (text, line) in command.environment.items()}
        jobs = jobs_of_script(found, flags, environment, file, repository)
        if jobs:
            return jobs
    return _by_flags(flags, word.text, file, repository)


def _is_kohya(script: str, flags: Flags) -> bool:
    return bool(_KOHYA.fullmatch(script)) and any(name in flags.named for name in _KOHYA_FLAGS)


def _by_flags(flags: Flags, script: str, file: SourceFile, repository: Repository) -> list[Job]:
    """Return the job that the flags of a script tell where the script itself is not at hand."""
    if re.search(r"generat|eval|merge|infer|convert|serve", script.rsplit("/", 1)[-1]):
        return []
    names = {name.replace("-", "_") for name in flags.named}
    others = {"template", "finetuning_type"}
    if names & set(_SWIFT_FLAGS) and names & {"dataset", "model", "model_type"} and not names & others:
        return _with_config(swift.job_of, flags, file, repository)
    if "finetuning_type" in names and names & {"stage", "template", "do_train"}:
        return _with_config(llamafactory.job_of, flags, file, repository)
    if script.endswith(("verl.py", "main_ppo.py")) or any(
        key.startswith("actor_rollout_ref") for key in flags.overrides
    ):
        return _with_config(verl.job_of, flags, file, repository, dotted=True)
    stated = [name for name in _TRAINING if name in names]
    named = names & {"per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "optim"}
    known = len(stated) >= 3 and named and "no_trainer" not in script and "per_gpu_train_batch_size" not in names
    if known or _names_a_recipe(flags, script, file, repository):
        return [_maybe_adapter(job, script) for job in _with_config(_of_script(script), flags, file, repository)]
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
