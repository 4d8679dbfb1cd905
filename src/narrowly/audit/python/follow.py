"""Follow each script once, whichever detectors ask, and only where its bytes promise a training job."""

from __future__ import annotations

import re
from collections import OrderedDict

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.evaluator import Evaluator
from narrowly.audit.python.machine import CommandLine, Trace

WORTH = (
    "Trainer", "TrainingArguments", "Config", "optim", "Optim", "Adam", "SGD", "Lion", "Muon", "lr", "learning_rate",
    "fine_tun", "finetun", "AdamParams", "DimuonParams", "get_peft_model", "LoraConfig", "configure_optimizers", "jobs",
    "optimizer", "fit", "train", "tuning", "main",
)  # fmt: skip
"""Parts of names; a function that nothing calls and that mentions none of them is not followed."""

TRIGGERS = (b"optim", b"TrainingArguments", b"SFTConfig", b"from trl", b"unsloth", b"fine_tun", b"AdamParams",
b"tinker_cookbook",
            b"finetun", b"Trainer(")  # fmt: skip
"""A script without any of these is of no interest to any detector of Python."""

_PROMISE = re.compile(
    rb"TrainingArguments|\b(?:SFT|DPO|GRPO|ORPO|KTO|CPO|Reward|PPO|RLOO|GKD)Config\b|Trainer\(|FastLanguageModel|FastModel"
    rb"|fine_tun(?:ing|es)\.|finetun|FineTun|AdamParams|DimuonParams|tinker_cookbook|configure_optimizers"
    rb"|\b(?:optim|optimizers?|bnb|lion_pytorch|muon|apex|schedulefree|timm|pytorch_optimizer|galore_torch)\.\w"
    rb"|\b(?:AdamW?\w*|SGD|Lion\w*|Muon\w*|Adafactor|SOAP|Sophia\w*|Prodigy|RMSprop|NAdam|RAdam)\("
    rb"|create_optimizer|load_optimizer|get_optimizer|deepspeed\.initialize|create_model_customization_job|tunings?\.tune"
)
_KEPT: OrderedDict[tuple[str, int], Trace] = OrderedDict()
_MOST_KEPT = 2


def promises(file: SourceFile) -> bool:
    """Tell whether the bytes of a file hold a construct that a detector of Python knows."""
    return _PROMISE.search(file.data) is not None


def followed(file: SourceFile, repository: Repository) -> Trace | None:
    """Return the trace of a bare run of a script, None where its bytes promise nothing; kept for the next detector.

    Raises:
        UnreadableError: the file is not Python.
    """
    if not promises(file):
        return None
    key = (file.shown, id(file))
    if key not in _KEPT:
        _KEPT[key] = Evaluator(file, repository).run(WORTH)
        while len(_KEPT) > _MOST_KEPT:
            _KEPT.popitem(last=False)
    return _KEPT[key]


def run_from_shell(
    file: SourceFile, repository: Repository, command_line: CommandLine, environment: dict[str, tuple[str, str]]
) -> Trace:
    """Return the trace of a script that a shell script runs with flags and variables.

    Raises:
        UnreadableError: the file is not Python.
    """
    return Evaluator(file, repository, command_line, environment).run(WORTH)
