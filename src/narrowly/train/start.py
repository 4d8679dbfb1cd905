"""Start a run from an organism: find its adapter, check it, and give the run its shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from narrowly.models.base import Base
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import AdapterError, IntegrityError, RunDirectoryError, SpecError
from narrowly.records.run_spec import AdapterSpec, RunSpec
from narrowly.records.spec import validated
from narrowly.runs.directory import adapter_folder, is_run, read_inputs, run_of_adapter

PLAIN = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "trainable_token_indices", "lora_bias")
"""Fields of adapter_config.json that a run has none of, and that must be empty in what it starts from."""


def find_start(text: str, base: Base) -> tuple[Path, str]:
    """Return the adapter folder that `start` means, and the sha256 of its weights.

    Args:
        text: a run directory, whose final adapter is meant, or the folder of an adapter.
        base: of the run that starts there.

    Raises:
        RunDirectoryError: no such folder, or a run without its final checkpoint.
        AdapterError: no adapter in safetensors, or one of another kind than LoRA.
        SpecError: the organism is of another base.
    """
    path = Path(text).expanduser()
    if not path.is_dir():
        raise RunDirectoryError(
            f"start is {text!r}, which is no folder; accepted: a run directory or an adapter folder"
        )
    run = path if is_run(path) else run_of_adapter(path)
    folder = adapter_folder(path, "final") if is_run(path) else path
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"start: {folder} has no {name}; accepted: a PEFT adapter in safetensors")
    if run is not None and read_inputs(run).base_sha256 != base.sha256:
        raise SpecError(
            f"start: the organism of run {run.resolve().name} is of a base with sha256 {read_inputs(run).base_sha256}, "
            f"this run has base {base.name} with {base.sha256}; accepted: an organism of the same base"
        )
    return folder, sha256_file(folder / ADAPTER_WEIGHTS)


def started(spec: RunSpec, folder: Path) -> RunSpec:
    """Return the spec with the shape of the adapter that it starts from; its dropout is the spec's own.

    Raises:
        SpecError: the spec asks for another shape.
        AdapterError: the adapter has parts that a run cannot train.
        IntegrityError: adapter_config.json cannot be read.
    """
    own = _shape(folder, spec.adapter.dropout)
    asked = {name: getattr(spec.adapter, name) for name in spec.adapter.model_fields_set}
    for name, value in asked.items():
        found = getattr(own, name)
        if (set(found) != set(value)) if name == "target_modules" else (found != value):
            raise SpecError(f"adapter.{name} is {value}, but the organism of start has {found}; accepted: leave it out")
    return spec.model_copy(update={"adapter": own})


def _shape(folder: Path, dropout: float) -> AdapterSpec:
    file = folder / ADAPTER_CONFIG
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"start: {file} is of no LoRA; accepted: LoRA or rsLoRA on linear layers")
    odd = next((name for name in PLAIN if config.get(name)), None)
    if odd is not None or config.get("bias", "none") != "none":
        raise AdapterError(
            f"start: {file} has {odd or 'bias'}, which a run cannot train; accepted: plain LoRA or rsLoRA"
        )
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        raise AdapterError(f"start: {file} names no list of target modules; accepted: names of linear layers")
    shape: AdapterSpec = validated(
        AdapterSpec,
        {
            "r": config.get("r"),
            "alpha": config.get("lora_alpha"),
            "rslora": bool(config.get("use_rslora")),
            "dropout": dropout,
            "target_modules": tuple(targets),
        },
        "adapter",
        f"start: {file}",
    )
    return shape
