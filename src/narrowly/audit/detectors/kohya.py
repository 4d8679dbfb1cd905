"""kohya sd-scripts TOML (`--config_file`), and the JSON presets of its GUI.

Sources: kohya-ss/sd-scripts `library/train_util.py` (add_optimizer_arguments, get_optimizer), `train_network.py`.
"""

from __future__ import annotations

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
from narrowly.audit.record import Job, explicit
from narrowly.audit.trees import Document

TOOL = "kohya"
KINDS = ("toml", "json", "yaml")
TRIGGERS = (b"pretrained_model_name_or_path",)

_FIELDS = {
    "optimiser": ("optimizer_type", "optimizer"),
    "learning_rate": ("learning_rate",),
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
    "train_batch_size optimizer_args"
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


def detect(file: SourceFile, repository: Repository) -> list[Job]:
    """Return the jobs of a TOML, JSON or YAML file."""
    return [
        job_of(document, file, repository)
        for document in file.documents
        if _spelled(document)[0] >= 3 and "pretrained_model_name_or_path" in _spelled(document)[1]
    ]


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
    fill_defaults(job, TOOL, None, adapter=adapter)
    return job
