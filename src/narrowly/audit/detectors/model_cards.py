"""Model cards that a Trainer wrote: the hyperparameters in README.md, and the Axolotl config that some hold.

Sources: transformers 4.30.2, 4.45.2, 4.46.0, 5.23 `modelcard.py` (up to 4.45 the card says "Adam" for every optimiser
but Adafactor; from 4.46 on it keeps the setting), axolotl 0.21 `cli/train.py` (the config in a block under "axolotl
version").
"""

from __future__ import annotations

import re

from narrowly.audit.detectors.axolotl import is_axolotl, job_of
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, explicit, unknown
from narrowly.audit.trees import Document, UnreadableError, read_yaml
from narrowly.audit.values import typed_field

TOOL = "transformers"
KINDS = ("card",)
TRIGGERS = (b"hyperparameters were used during training", b"axolotl version:")

_LINE = re.compile(r"^- (\w+): (.+)$")
_KEYS = {
    "learning_rate": "learning_rate",
    "train_batch_size": "batch_size",
    "seed": "seed",
    "gradient_accumulation_steps": "accumulation",
    "lr_scheduler_type": "scheduler",
    "lr_scheduler_warmup_ratio": "warmup_ratio",
    "lr_scheduler_warmup_steps": "warmup_steps",
    "num_epochs": "epochs",
    "training_steps": "max_steps",
}
_USE = re.compile(r"Use (\S+)(?: and | with )")
_BETAS = re.compile(r"betas=\(([\d.eE+-]+),\s*([\d.eE+-]+)\)")
_EPSILON = re.compile(r"epsilon=([\d.eE+-]+)")
_BLOCK = re.compile(r"axolotl version:.{0,80}?\n```ya?ml\n(.*?)\n```", re.DOTALL)


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the job that a card describes: Axolotl's config where it holds one, else its list of hyperparameters."""
    block = _BLOCK.search(file.text)
    if block is not None:
        before = file.text.count("\n", 0, block.start(1))
        for document in read_yaml("\n" * before + block.group(1), file.shown):
            if is_axolotl(document):
                job = job_of(document, file, repository)
                job.kind, job.name = "saved", "model card"
                return [job]
    return _listed(file)


def _listed(file: SourceFile) -> list[Job]:
    start = next((at for at, line in enumerate(file.lines) if "were used during training:" in line), None)
    if start is None:
        return []
    job = Job(TOOL, file.shown, start + 1, "model card", "saved")
    for number, line in enumerate(file.lines[start + 1 : start + 40], start + 2):
        found = _LINE.match(line.strip())
        if found and found.group(1) in _KEYS:
            name = _KEYS[found.group(1)]
            job.set(name, typed_field(name, found.group(2).strip(), file.at(number)))
        elif found and found.group(1) == "optimizer":
            _optimiser(job, found.group(2), file.at(number))
        elif line.startswith("#"):
            break
    _front_matter(job, file)
    return [job] if "learning_rate" in job.fields else []


def _optimiser(job: Job, text: str, at: str) -> None:
    used = _USE.match(text)
    if used:
        job.set("optimiser", typed_field("optimiser", used.group(1), at))
    elif text.startswith("Adam with"):
        job.set(
            "optimiser", unknown('cards of transformers up to 4.45 say "Adam" for all but Adafactor', at, text[:60])
        )
    else:
        job.set("optimiser", typed_field("optimiser", text.split(" ")[0], at))
    if betas := _BETAS.search(text):
        job.set("beta1", typed_field("beta1", betas.group(1), at))
        job.set("beta2", typed_field("beta2", betas.group(2), at))
    if epsilon := _EPSILON.search(text):
        job.set("eps", typed_field("eps", epsilon.group(1), at))


def _front_matter(job: Job, file: SourceFile) -> None:
    """Read base model and data sets from the YAML at the head of the card."""
    if not file.lines or file.lines[0].strip() != "---":
        return
    end = next((at for at, line in enumerate(file.lines[1:200], 1) if line.strip() == "---"), None)
    try:
        documents = read_yaml("\n" + "\n".join(file.lines[1:end]), file.shown) if end else []
    except UnreadableError:
        return
    head = documents[0] if documents else Document({}, file.shown)
    for name, key in (("base_model", "base_model"), ("datasets", "datasets")):
        found = head.get(key)
        if found is not None and found.value is not None:
            job.set(name, explicit(found.value, file.at(found.line)))
