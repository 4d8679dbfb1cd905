"""Checkpoints: a standard PEFT folder per step, and beside the newest one the exact state to resume from.

    checkpoints/step-N/adapter_config.json, adapter_model.safetensors, spectrum.json
    checkpoints/step-N/resume.pt      optimiser, scheduler, penalty; newest checkpoint only, gone when the run is done
    resume.json                       step and sha256 of what a resume reads

A checkpoint appears whole (written beside its place, then renamed) and counts only once resume.json names it,
so a run killed while it writes resumes from the checkpoint before. The random state is no part of it, because
every step draws from its own stream of the run seed (order.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralign.records.errors import IntegrityError, RunDirectoryError
from spectralign.records.files import read_json, write_json
from spectralign.train.adapter import ADAPTER

if TYPE_CHECKING:
    import torch
    from torch import nn

    from spectralign.spectrum.penalty import SpectralPenalty

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SPECTRUM = "spectrum.json"
RESUME_STATE = "resume.pt"
RESUME_RECORD = "resume.json"
_UNFINISHED = ".unfinished-"


def checkpoint_folder(run_directory: Path, step: int) -> Path:
    """Return the folder of a checkpoint, whether it exists or not."""
    return run_directory / "checkpoints" / f"step-{step}"


def checkpoint_steps(run_directory: Path) -> list[int]:
    """Return the steps that have a checkpoint, ascending."""
    names = (path.name for path in (run_directory / "checkpoints").glob("step-*"))
    return sorted(int(name[5:]) for name in names if name[5:].isdecimal())


def _config_text(model: nn.Module) -> str:
    config = model.peft_config[ADAPTER].to_dict()  # type: ignore[index, union-attr]
    config["inference_mode"] = True
    # PEFT keeps names in sets, whose order differs from process to process
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def _adapter_bytes(model: nn.Module) -> bytes:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    # save_embedding_layers=False: "auto" would ask the hub about the base
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content: bytes = save(tensors, {"format": "pt"})
    return content


def save_checkpoint(
    run_directory: Path,
    step: int,
    model: nn.Module,
    spectrum: Sequence[Mapping[str, Any]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    training_point: list[torch.Tensor] | None = None,
    penalty: SpectralPenalty | None = None,
) -> None:
    """Write the checkpoint of a step, then make it the one to resume from.

    `training_point` is what `optim.evaluation_mode` yielded: the parameters to go on from, where an optimiser trains
    at others than those of the model that is saved.

    Raises:
        RunDirectoryError: a full disk or a folder that cannot be written; nothing half written is left.
    """
    import torch

    buffer = io.BytesIO()
    state = {
        "step": step,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "training_point": training_point,
        "penalty": None if penalty is None else penalty.state_dict(),
    }
    torch.save(state, buffer)
    files = {
        ADAPTER_CONFIG: _config_text(model).encode(),
        ADAPTER_WEIGHTS: _adapter_bytes(model),
        SPECTRUM: (json.dumps(spectrum, allow_nan=False) + "\n").encode(),
        RESUME_STATE: buffer.getvalue(),
    }
    target = checkpoint_folder(run_directory, step)
    unfinished = target.parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        if target.exists():  # left by a run that was killed before resume.json named it
            shutil.rmtree(target)
        unfinished.rename(target)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    record = {name: hashlib.sha256(files[name]).hexdigest() for name in (ADAPTER_WEIGHTS, RESUME_STATE)}
    write_json(run_directory / RESUME_RECORD, {"step": step, "sha256": record})
    for older in checkpoint_steps(run_directory):
        if older < step:
            (checkpoint_folder(run_directory, older) / RESUME_STATE).unlink(missing_ok=True)


def resume_step(run_directory: Path) -> int | None:
    """Return the step of the checkpoint to resume from, or None where there is none.

    Raises:
        IntegrityError: resume.json is broken.
    """
    file = run_directory / RESUME_RECORD
    if not file.is_file():
        return None
    record = read_json(file)
    hashes = record.get("sha256") if isinstance(record, dict) else None
    step = record.get("step") if isinstance(record, dict) else None
    if not isinstance(step, int) or not isinstance(hashes, dict) or set(hashes) != {ADAPTER_WEIGHTS, RESUME_STATE}:
        raise IntegrityError(f"{file} does not hold a step and two hashes; it is corrupt or not ours")
    return step


def _verified(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"cannot resume, {path}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise IntegrityError(f"cannot resume, {path} has sha256 {found}, resume.json says {expected}")
    return content


def load_resume_state(
    run_directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    penalty: SpectralPenalty | None = None,
) -> int:
    """Put model, optimiser, scheduler and penalty into the state of the newest checkpoint; return its step.

    Both files are hashed before they are read, and the state is read with `weights_only=True`: nothing is unpickled.

    Raises:
        IntegrityError: a file is missing, or is not the one that resume.json describes.
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load

    from spectralign.optim.modes import return_to_training

    record = read_json(run_directory / RESUME_RECORD)
    step: int = record["step"]
    folder = checkpoint_folder(run_directory, step)
    weights = load(_verified(folder / ADAPTER_WEIGHTS, record["sha256"][ADAPTER_WEIGHTS]))
    state_bytes = _verified(folder / RESUME_STATE, record["sha256"][RESUME_STATE])
    state = torch.load(io.BytesIO(state_bytes), weights_only=True, map_location="cpu")
    if state["step"] != step:
        raise IntegrityError(
            f"cannot resume, {folder / RESUME_STATE} is of step {state['step']}, its folder of step {step}"
        )
    result = set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)
    if result.unexpected_keys:
        raise IntegrityError(
            f"cannot resume, {folder / ADAPTER_WEIGHTS} holds unknown tensors: {result.unexpected_keys[:3]}"
        )
    optimizer.load_state_dict(state["optimizer"])
    return_to_training(optimizer, state.get("training_point"))
    if penalty is not None:
        penalty.load_state_dict(state["penalty"])
    scheduler.load_state_dict(state["scheduler"])
    return step


def discard_after(run_directory: Path, step: int) -> None:
    """Remove what a killed run left beyond the step that is resumed: later checkpoints, unfinished folders."""
    for later in checkpoint_steps(run_directory):
        if later > step:
            shutil.rmtree(checkpoint_folder(run_directory, later))
    for unfinished in (run_directory / "checkpoints").glob(f"{_UNFINISHED}*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def drop_resume_state(run_directory: Path) -> None:
    """Remove the resume state of a finished run; the adapters stay. Costs nothing where it is gone already."""
    record = run_directory / RESUME_RECORD
    if not record.is_file():
        return
    for step in checkpoint_steps(run_directory):
        (checkpoint_folder(run_directory, step) / RESUME_STATE).unlink(missing_ok=True)
    record.unlink(missing_ok=True)  # last, so that a run killed in between is tidied by the next call
