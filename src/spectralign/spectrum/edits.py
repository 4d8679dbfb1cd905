"""Edits: changes of the singular values of an adapter's update after training, at unchanged singular vectors.

The edited update is again `scale * B @ A` of the same rank, so any tool that loads the adapter sees the edit. An edited
adapter is marked "edited, not evaluated": a changed spectrum says nothing about behaviour until that has been measured.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spectralign.records.canonical import sha256_file
from spectralign.records.errors import AdapterError, MissingExtraError, RunDirectoryError, unknown_name
from spectralign.spectrum.pairs import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    LoraPair,
    factor_place,
    lora_layers,
    pairs_from_folder,
    pairs_from_model,
    read_adapter_tensors,
)
from spectralign.spectrum.values import factor, full_precision, working_dtype

if TYPE_CHECKING:
    from spectralign.records.edits import EditSpec

RECORD_NAME = "edit.json"


def _keep_top(S_C: Tensor, edit: Any) -> Tensor:
    return torch.where(torch.arange(len(S_C), device=S_C.device) < edit.k, S_C, torch.zeros_like(S_C))


def _drop_top(S_C: Tensor, edit: Any) -> Tensor:
    return torch.where(torch.arange(len(S_C), device=S_C.device) < edit.k, torch.zeros_like(S_C), S_C)


def _flatten(S_C: Tensor, edit: Any) -> Tensor:
    return torch.full_like(S_C, float(torch.linalg.vector_norm(S_C)) / len(S_C) ** 0.5)


def _scale(S_C: Tensor, edit: Any) -> Tensor:
    return S_C * float(edit.factor)


_EDITS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "keep_top": _keep_top,
    "drop_top": _drop_top,
    "flatten": _flatten,
    "scale": _scale,
}


@torch.no_grad()
def apply_edit(pair: LoraPair, edit: EditSpec) -> LoraPair:
    """Return a pair whose update has edited singular values and the same singular vectors, rank, scale and dtypes.

    The new factors are balanced: `B = U S^1/2`, `A = S^1/2 V^T` up to the scale. A zero update stays zero. Computed in
    float32 (float64 for float64 factors) and rounded to the dtypes given; singular vectors of zero singular values are
    arbitrary, so that flattening a rank-deficient update fills its empty directions with arbitrary ones.

    Args:
        pair: one LoRA pair of rank r.
        edit: keep_top or drop_top (k in 1 ... r, below r for drop_top), flatten, or scale (factor in (0, 1]).

    Raises:
        AdapterError: k is larger than the rank allows.
        UnknownNameError: an unknown kind of edit.
    """
    if edit.kind not in _EDITS:
        raise unknown_name("edit", edit.kind, _EDITS)
    rank = min(pair.rank, pair.A_R_I.shape[1], pair.B_O_R.shape[0])
    largest = rank - 1 if edit.kind == "drop_top" else rank
    if edit.kind in ("keep_top", "drop_top") and edit.k > largest:
        raise AdapterError(f"{pair.name}: {edit.kind} with k = {edit.k}, accepted: 1 to {largest} at rank {rank}")
    A_R_I, B_O_R = pair.A_R_I.detach(), pair.B_O_R.detach()
    if not bool(B_O_R.any()) or not bool(A_R_I.any()):
        return pair._replace(A_R_I=A_R_I.clone(), B_O_R=B_O_R.clone())
    dtype = working_dtype(A_R_I, B_O_R)
    with full_precision(A_R_I.device):
        QA, _, QB, _, core = factor(A_R_I.to(dtype)[None], B_O_R.to(dtype)[None])
        # c_B and c_A differ where the rank exceeds a side of the module: the core is no square then
        U_C_C, S_C, Vh_C_C = torch.linalg.svd(core[0], full_matrices=False)
        root_C = _EDITS[edit.kind](S_C, edit).sqrt()
        new_B_O_R, new_A_R_I = torch.zeros_like(B_O_R, dtype=dtype), torch.zeros_like(A_R_I, dtype=dtype)
        new_B_O_R[:, : len(S_C)] = QB[0] @ (U_C_C * root_C)
        new_A_R_I[: len(S_C)] = (root_C[:, None] * Vh_C_C) @ QA[0].mT
    return pair._replace(A_R_I=new_A_R_I.to(A_R_I.dtype), B_O_R=new_B_O_R.to(B_O_R.dtype))


@torch.no_grad()
def apply_edit_to_model(model: nn.Module, edit: EditSpec) -> None:
    """Edit every adapter of a live PEFT model in place.

    Raises:
        AdapterError: no usable pairs, an adapter that is merged into its base, or k larger than a rank allows;
            nothing is changed then.
    """
    for name, layer, adapter in lora_layers(model):
        if adapter in getattr(layer, "merged_adapters", ()):
            raise AdapterError(f"{name}: adapter {adapter!r} is merged into the base, accepted: an unmerged adapter")
    pairs = pairs_from_model(model)
    edited = [apply_edit(pair, edit) for pair in pairs]
    for pair, new in zip(pairs, edited, strict=True):
        pair.A_R_I.copy_(new.A_R_I)
        pair.B_O_R.copy_(new.B_O_R)


def edit_adapter_folder(source: Path, target: Path, edit: EditSpec) -> Path:
    """Write an edited copy of an adapter folder: safetensors, its config, and a record of what was done.

    Args:
        source: a PEFT adapter folder in safetensors.
        target: a folder that does not exist yet; it appears whole or not at all.
        edit: the edit.

    Returns:
        The target.

    Raises:
        AdapterError: the source cannot be used, or the target exists.
        RunDirectoryError: the target cannot be written.
    """
    pairs = {pair.name: apply_edit(pair, edit) for pair in pairs_from_folder(source)}
    tensors = {}
    for key, tensor in read_adapter_tensors(source).items():
        place = factor_place(key)
        assert place is not None  # pairs_from_folder refuses every other key
        pair = pairs[place[0]]
        tensors[key] = (pair.A_R_I if place[1] == "A" else pair.B_O_R).to(tensor.dtype).contiguous()
    if target.exists():
        raise AdapterError(f"{target} exists already; choose another folder or remove it")
    record = {
        "edit": _fields(edit),
        "status": "edited, not evaluated",
        "modules": len(pairs),
        "source_sha256": sha256_file(source / WEIGHTS_NAME),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise RunDirectoryError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        _save(tensors, staging / WEIGHTS_NAME)
        shutil.copyfile(source / CONFIG_NAME, staging / CONFIG_NAME)
        (staging / RECORD_NAME).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        staging.chmod(0o777 & ~_umask())
        staging.rename(target)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtraError("safetensors is not installed; run pip install 'spectralign[spectral]'") from error
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error


def _fields(edit: EditSpec) -> dict[str, Any]:
    return {name: getattr(edit, name) for name in ("kind", "k", "factor") if hasattr(edit, name)}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
