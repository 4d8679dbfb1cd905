"""Turn commands of a shell script into jobs: the tool's own command line, a Python module, or a script beside it."""

from __future__ import annotations

import re

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
from narrowly.audit.record import Job
from narrowly.audit.shell.absent_scripts import job_by_flags
from narrowly.audit.shell.commands import Command, Word, commands_in
from narrowly.audit.shell.configured import with_config
from narrowly.audit.shell.flags import Flags, flags_of
from narrowly.audit.shell.heredocs import MOST_MADE, as_file, named_in, written_in
from narrowly.audit.shell.hosted_commands import hosted_command
from narrowly.audit.shell.script_runs import jobs_of_script
from narrowly.audit.trees import Document

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
        return with_config(llamafactory.job_of, flags_of(rest), file, repository)
    if name in ("swift", "megatron-swift") and sub in ("sft", "rlhf", "pt", "grpo", "dpo"):
        return with_config(swift.job_of, flags_of(rest), file, repository)
    if name == "axolotl" and sub in ("train", "preprocess"):
        return with_config(axolotl.job_of, flags_of(rest), file, repository) if sub == "train" else []
    if name == "tune" and sub == "run":
        return with_config(torchtune.job_of, flags_of(rest), file, repository, dotted=True)
    if name == "trl" and sub in ("sft", "dpo", "grpo", "kto", "reward", "rloo"):
        return _trl(sub, flags_of(rest), file, repository)
    if name == "autotrain":
        return with_config(autotrain.job_of, flags_of(words[1:]), file, repository)
    if name in ("mlx_lm.lora", "mlx_lm.dora") or (name == "mlx_lm" and sub == "lora"):
        return with_config(mlx_lm.job_of, flags_of(words[1:]), file, repository)
    return None


def _trl(sub: str, flags: Flags, file: SourceFile, repository: Repository) -> list[Job]:
    def job_of(document: Document, source: SourceFile, where: Repository) -> Job:
        job = trl_recipes.job_of(document, source, where, of=f"{sub.upper() if sub != 'reward' else 'Reward'}Config")
        job.tool = "trl"
        return job

    return with_config(job_of, flags, file, repository)


def _module(module: str, rest: list[Word], file: SourceFile, repository: Repository) -> list[Job]:
    tool = next((name for name, pattern in _MODULES.items() if pattern.match(module)), None)
    flags = flags_of(rest)
    if tool == "verl":
        return with_config(verl.job_of, flags, file, repository, dotted=True)
    if tool == "openrlhf":
        command = module.rsplit(".", 1)[-1]
        return with_config(
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
        return with_config(of.job_of, flags, file, repository)
    if tool == "torchtitan":
        return with_config(torchtitan.job_of, flags, file, repository, dotted=True)
    if tool == "trl":
        return _trl(module.rsplit(".", 1)[-1], flags, file, repository)
    found = repository.find(module.replace(".", "/") + ".py", file)
    if found is not None:
        return jobs_of_script(found, flags, {}, file, repository)
    return job_by_flags(flags, module, file, repository)


def _script(word: Word, rest: list[Word], command: Command, file: SourceFile, repository: Repository) -> list[Job]:
    flags = flags_of(rest)
    if _is_kohya(word.text, flags):
        if "max_train_epoch" in flags.named:  # argparse takes a beginning that only one option has
            flags.named["max_train_epochs"] = flags.named.pop("max_train_epoch")
        return with_config(kohya.job_of, flags, file, repository)
    found = repository.find(word.text, file) or repository.find_mounted(word.text, file)
    if found is not None:
        environment = {name: (text, f"{file.shown}:{line}") for name, (text, line) in command.environment.items()}
        jobs = jobs_of_script(found, flags, environment, file, repository)
        if jobs:
            return jobs
    return job_by_flags(flags, word.text, file, repository)


def _is_kohya(script: str, flags: Flags) -> bool:
    return bool(_KOHYA.fullmatch(script)) and any(name in flags.named for name in _KOHYA_FLAGS)
