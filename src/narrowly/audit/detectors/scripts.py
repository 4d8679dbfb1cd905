"""Ask every detector of Python about a script or notebook; one cheap test of the bytes comes before all of them.

A literal costs as much time as reading a large environment's files, so what they look for is tested once, together.
"""

from __future__ import annotations

from narrowly.audit.detectors import (
    accelerate_loops,
    deepspeed_loops,
    hosted_apis,
    lightning_modules,
    tinker_scripts,
    torch_loops,
    transformers_scripts,
    trl_scripts,
    unsloth_scripts,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.follow import HOSTED, promises
from narrowly.audit.record import Job

TOOL = "transformers"
KINDS = ("python", "notebook")
TRIGGERS = (
    b"optim", b"backward(", b"Trainer(", b"TrainingArguments", *HOSTED, b"tinker_cookbook", b"@hydra.main(",
)  # fmt: skip
MODULES = (
    unsloth_scripts, trl_scripts, transformers_scripts, lightning_modules, tinker_scripts, hosted_apis, deepspeed_loops,
    accelerate_loops, torch_loops,
)  # fmt: skip
"""The special before the general."""


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of every tool in a script or notebook."""
    if not promises(file):
        return []
    asked = [module for module in MODULES if file.has(*module.TRIGGERS)]
    return [job for module in asked for job in module.detect(file, repository)]
