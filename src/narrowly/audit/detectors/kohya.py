"""kohya sd-scripts TOML (`--config_file`), and the JSON presets of its GUI.

Sources: kohya-ss/sd-scripts 0.10.1 `library/train_util.py` (add_optimizer_arguments, get_optimizer),
`train_network.py`.
"""

from __future__ import annotations

import re

from narrowly.audit.detectors.keys import (
    Keys,
    datasets_of,
    fill_defaults,
    new_job,
    no_lora,
    place,
    take,
    truth,
    word,
)
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.record import Job, default, explicit
from narrowly.audit.trees import Document
from narrowly.audit.values import typed_field

TOOL = "kohya"
KINDS = ("toml", "json", "yaml")
TRIGGERS = (b"pretrained_model_name_or_path", b"network_dim", b"save_every_n_epochs")

_FIELDS = {
    "optimiser": ("optimizer_type", "optimizer"),
    "learning_rate": ("learning_rate", "unet_lr"),
    "scheduler": ("lr_scheduler",),
    "epochs": ("max_train_epochs", "epoch"),
    "max_steps": ("max_train_steps",),
    "lora_r": ("network_dim",),
    "lora_alpha": ("network_alpha",),
    "lora_dropout": ("network_dropout",),
    "optim_args": ("optimizer_args",),
    "warmup_steps": ("lr_warmup_steps",),
    "batch_size": ("train_batch_size",),
    "accumulation": ("gradient_accumulation_steps",),
    "max_grad_norm": ("max_grad_norm",),
    "base_model": ("pretrained_model_name_or_path",),
    "seed": ("seed",),
}
_OURS = (
    "optimizer_type network_module network_dim max_train_steps max_train_epochs unet_lr text_encoder_lr "
    "train_data_dir dataset_config cache_latents min_snr_gamma noise_offset LoRA_type save_every_n_epochs "
    "train_batch_size optimizer_args caption_extension full_path train_dir max_resolution min_bucket_reso "
    "v_parameterization clip_skip bucket_no_upscale keep_tokens prior_loss_weight save_every_n_steps"
).split()


def _spelled(document: Document) -> tuple[int, dict[str, str]]:
    """Return how many keys are kohya's, and each key's dotted place: tables only group, as in the scripts."""
    places: dict[str, str] = {}
    if isinstance(document.value, dict):
        for key, value in document.value.items():
            places.setdefault(key, key)
            if isinstance(value, dict):
                for inner in value:
                    places.setdefault(str(inner), f"{key}.{inner}")
    return sum(key in places for key in _OURS), places


def is_kohya(document: Document) -> bool:
    """Say whether a document holds arguments of sd-scripts; presets of the GUI need not name a model."""
    ours, places = _spelled(document)
    return ours >= (3 if "pretrained_model_name_or_path" in places else 6) and bool(
        {"learning_rate", "optimizer_type", "optimizer", "unet_lr", "max_train_steps", "train_batch_size"} & set(places)
    )


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a TOML, JSON or YAML file."""
    return [job_of(document, file, repository) for document in file.documents if is_kohya(document)]


def job_of(document: Document, file: SourceFile, repository: Repository) -> Job:
    """Return the job that sd-scripts would run with these settings."""
    _, places = _spelled(document)
    keys: Keys = {name: tuple(places[key] for key in spelled if key in places) for name, spelled in _FIELDS.items()}
    job = new_job(TOOL, document, *(keys["base_model"]))
    job.cli_overridable = True
    take(job, document, keys)
    if word(document, *keys["optimiser"]) == "" and truth(document, places.get("use_8bit_adam", "use_8bit_adam")):
        at = place(document, places["use_8bit_adam"])
        job.set("optimiser", explicit("adamw_8bit", at, "use_8bit_adam"))
    elif word(document, *keys["optimiser"]) == "" and truth(
        document, places.get("use_lion_optimizer", "use_lion_optimizer")
    ):
        job.set("optimiser", explicit("lion", place(document, places["use_lion_optimizer"]), "use_lion_optimizer"))
    job.set(
        "datasets",
        datasets_of(document, *(places[key] for key in ("train_data_dir", "dataset_config") if key in places)),
    )
    module = word(document, places.get("network_module", "network_module")) or word(
        document, places.get("LoRA_type", "LoRA_type")
    )
    adapter = "lora" if module or "network_dim" in places else "full"
    if adapter == "full":
        no_lora(job, reason="no network_module")
    job.set(
        "adapter",
        explicit(adapter, place(document, *(places.get(key, key) for key in ("network_module", "LoRA_type")))),
    )
    _optimiser_args(job)
    if job.value("epochs") is not None and "max_steps" not in job.fields:
        job.set("max_steps", default(None, "max_train_epochs counts before max_train_steps", job["epochs"].at))
    fill_defaults(job, TOOL, None, adapter=adapter)
    return job


_ARGUMENT = re.compile(r"([A-Za-z_]\w*)\s*=\s*(\([^)]*\)|[^\s,\"']+)")


def _optimiser_args(job: Job) -> None:
    """Read decay and betas from `optimizer_args`, which overrule the optimiser's own defaults."""
    found = job["optim_args"]
    texts = found.value if isinstance(found.value, list) else [found.value]
    stated = dict(_ARGUMENT.findall(" ".join(str(text) for text in texts if text is not None)))
    if "weight_decay" in stated:
        job.set("weight_decay", typed_field("weight_decay", stated["weight_decay"], found.at))
    betas = [part.strip() for part in stated.get("betas", "").strip("()[]").split(",")]
    if len(betas) == 2:
        job.set("beta1", typed_field("beta1", betas[0], found.at))
        job.set("beta2", typed_field("beta2", betas[1], found.at))
