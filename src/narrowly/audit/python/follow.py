"""Follow each script once, whichever detectors ask, and only where its bytes promise a training job."""

from __future__ import annotations

import re

from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.evaluator import Evaluator
from narrowly.audit.python.machine import CommandLine, Trace

WORTH = (
    "Trainer", "TrainingArguments", "SFTConfig", "DPOConfig", "GRPOConfig", "optim", "Optim", "Adam", "SGD",
    "Lion", "Muon",
    "learning_rate", "fine_tun", "finetun", "FineTun", "DimuonParams", "get_peft_model", "LoraConfig",
    "tuning", "Config",
    "tune", "customization", "subprocess", "os.system", "sft_main", "rlhf_main", "pt_main", "run_exp", "hydra",
)  # fmt: skip
"""Parts of names; a function that nothing calls and that mentions none of them is not followed."""

_ARGUMENTS = re.compile(rb"TrainingArguments\s*[(),\]]")
_BEFORE = rb"(?:[^\w\\]|\\n)"  # in a notebook, a name at the start of a line stands after a quote or `\n`
_NAMED = re.compile(_BEFORE + rb"(?:(?!Base)[A-Za-z]\w*)?\Z")
_LONGEST_NAME = 100
_HOSTED = re.compile(
    rb"fine_tun(?:ing|es)\.|[Ff]inetun\w*\.(?:create|jobs)|FineTun\w*\.create|fine_tuning_job|fine[_-]tun(?:ing/jobs|es)"
    rb"|FinetuneEngine\(|tunings\.tune|create_tuned_model|sft\.train\(|customization_job|foundation_model\b"
    rb"|\.jobs\.create\("
)
_MAKES = re.compile(
    rb"(?:Adam|SGD|Lion|Muon|SOAP|Sophia|Prodigy|RMSprop|Adagrad|ScheduleFree|LAMB|Lamb(?!da)|LARS|LBFGS|Shampoo"
    rb"|Adafactor)\w*\(|getattr\(\s*(?:\w+\.)?optim"
)
_OPTIM = re.compile(rb"ptim(?:\.(?!Optimizer)[A-Z]\w|\w*(?:\.\w+)?\(|\w*\s*(?::[^=\n]{1,60})?=\s*[\w.]+\()")
"""What is named after an optimiser: a class of `torch.optim`, a call, or what takes the result of a call."""
_ACTS = re.compile(
    rb"ptimi(?:z(?!er)|sation|zation)|ptim\w*\.(?:step|zero_grad|\w*state_dict|add_param_group|train|eval)\("
    rb"|ptimizer_(?:step|zero_grad|state)|ptim(?:izer)?_event"
)
"""Of these, what makes no optimiser."""
_DEFINED = re.compile(rb"\b(?:def|class)\s+\w*\Z")
_HANDED = re.compile(rb"\btrain\([^()]{1,400}\boptim")
_TRAINS = (b"backward(", b".train_batch(")
_LITERALS = (
    b"AdamParams",
    b"DimuonParams",
    b"tinker_cookbook",
    b"FastLanguageModel",
    b"deepspeed.initialize",
    b"@hydra.main(",
)
HOSTED = (
    b"inetun", b"ine_tun", b"/fine-tun", b"FineTun", b"customization_job", b"tunings.tune", b"create_tuned_model",
    b"sft.train(", b".jobs.create(", b"foundation_model",
)  # fmt: skip
"""One of these stands in every script that starts a job at a host."""
_THEIRS = (b"transformers", b"trl", b"unsloth", b"optimum")


_NO_CODE = re.compile(rb'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
"""Strings and comments, so that the examples in a library's docstrings promise nothing."""

_KEPT: list[tuple[SourceFile, Trace]] = []


def promises(file: SourceFile) -> bool:
    """Tell whether the code of a file, its strings left out, holds a construct that a detector of Python knows."""
    data = file.data
    if not _promises(file, data):
        return _hosted(file)
    # a notebook's code stands in strings, and so do addresses of hosts
    return file.kind == "notebook" or _promises(file, _NO_CODE.sub(b'""', data)) or _hosted(file)


def _promises(file: SourceFile, data: bytes) -> bool:
    """Tell whether the bytes of a file, or what is left of them, hold such a construct; cheap tests come first."""
    if file.has(*_LITERALS) and any(word in data for word in _LITERALS):
        return True
    if file.has(b"TrainingArguments") and _ARGUMENTS.search(data):
        return True
    if file.has(b"Trainer(") and file.has(*_THEIRS) and any(word in data for word in _THEIRS) and _trainer(data):
        return True
    if file.has(*_TRAINS) and any(word in data for word in _TRAINS) and _makes(data):
        return True
    if file.has(b"optim"):
        if file.has(b"def configure_optimizers") and b"def configure_optimizers" in data and b"LightningModule" in data:
            return True
        if b"train(" in data and _HANDED.search(data) and _makes(data):
            return True
    return False


def _trainer(data: bytes) -> bool:
    """Tell whether something named `...Trainer`, no base class, is called; to define a class is no call."""
    at = data.find(b"Trainer(")
    while at >= 0:
        before = data[max(0, at - _LONGEST_NAME) : at]
        if _NAMED.search(before) and not _DEFINED.search(before):
            return True
        at = data.find(b"Trainer(", at + 1)
    return False


def _makes(data: bytes) -> bool:
    """Tell whether an optimiser may be made: by its name, or by a call that is named after one and no step of it."""
    if _MAKES.search(data):
        return True
    for found in _OPTIM.finditer(data):
        before = data[max(0, found.start() - _LONGEST_NAME) : found.start()]
        if not _ACTS.match(data, found.start()) and not _DEFINED.search(before):
            return True
    return False


def _hosted(file: SourceFile) -> bool:
    return file.has(*HOSTED) and _HOSTED.search(file.data) is not None


def followed(file: SourceFile, repository: Repository, *, promised: bool = False) -> Trace | None:
    """Return the trace of a bare run of a script, None where its bytes promise nothing; kept for the next detector.

    Args:
        file: the script or notebook.
        repository: what stands beside it.
        promised: whether a detector has found a promise of its own.

    Raises:
        UnreadableError: the file is not Python.
    """
    for kept, trace in _KEPT:
        if kept is file:
            return trace
    if not promised and not promises(file):
        return None
    keep(file, Evaluator(file, repository).run(WORTH))
    return _KEPT[-1][1]


def keep(file: SourceFile, trace: Trace) -> None:
    """Keep a trace for the detectors that are asked about this very file next."""
    _KEPT.append((file, trace))
    del _KEPT[:-2]


def run_from_shell(
    file: SourceFile, repository: Repository, command_line: CommandLine, environment: dict[str, tuple[str, str]]
) -> Trace:
    """Return the trace of a script that a shell script runs with flags and variables.

    Raises:
        UnreadableError: the file is not Python.
    """
    return Evaluator(file, repository, command_line, environment).run(WORTH)
