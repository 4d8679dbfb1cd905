"""Edit the singular values of an adapter's update after training, at unchanged singular vectors.

The edited update is again `scale * B @ A` of the same rank, so any tool that loads the adapter sees the edit. An edited
adapter is marked "edited, not evaluated" until an evaluation of it has been recorded: a changed spectrum says nothing
about behaviour until that has been measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from narrowly.records.adapter_files import ADAPTER_WEIGHTS, CARRIED_FILES, EDIT_RECORD
from narrowly.records.canonical import canonical_json, sha256_file
from narrowly.records.errors import (
    AdapterError,
    IntegrityError,
    MissingExtraError,
)
from narrowly.records.files import read_record, whole_folder, write_json
from narrowly.records.install import install_hint
from narrowly.spectrum.folder import layout_of, pairs_from_folder
from narrowly.spectrum.folder.tensor_files import SafetensorsFile, tensor_of
from narrowly.spectrum.pairs import LoraPair, editable_pairs, lora_layers
from narrowly.spectrum.values import factor, full_precision, working_dtype

if TYPE_CHECKING:
    from narrowly.records.edits import EditSpec

    Edit = EditSpec | Mapping[str, Any] | str
    """An edit as a spec, as a mapping with `kind`, or in its short form (`flatten:t=.5`)."""

EDITED, EVALUATED = "edited, not evaluated", "edited, evaluated"


def _keep_top(S_C: Tensor, edit: Any) -> Tensor:
    return torch.where(torch.arange(len(S_C), device=S_C.device) < edit.k, S_C, torch.zeros_like(S_C))


def _drop_top(S_C: Tensor, edit: Any) -> Tensor:
    return torch.where(torch.arange(len(S_C), device=S_C.device) < edit.k, torch.zeros_like(S_C), S_C)


def _flatten(S_C: Tensor, edit: Any) -> Tensor:
    norm = float(torch.linalg.vector_norm(S_C))
    flatter_C: Tensor = (1 - edit.t) * S_C + edit.t * norm / len(S_C) ** 0.5
    return flatter_C * (norm / float(torch.linalg.vector_norm(flatter_C)))


def _clip(S_C: Tensor, edit: Any) -> Tensor:
    return S_C.clamp(max=float(S_C.mean()) * edit.limit)


def _scale(S_C: Tensor, edit: Any) -> Tensor:
    return S_C * float(edit.factor)


_EDITS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "keep_top": _keep_top,
    "drop_top": _drop_top,
    "flatten": _flatten,
    "clip": _clip,
    "scale": _scale,
}


def _typed(edits: Edit | Sequence[Edit]) -> list[EditSpec]:
    from narrowly.records.edits import edit_specs  # pydantic, which the rest of this room does without

    return edit_specs(edits)


@torch.no_grad()
def apply_edit(pair: LoraPair, edit: Edit) -> LoraPair:
    """Return a pair whose update has edited singular values and the same singular vectors, rank, scale and dtypes.

    The new factors are balanced: `B = U S^1/2`, `A = S^1/2 V^T` up to the scale. A zero update stays zero. Computed in
    float32 (float64 for float64 factors) and rounded to the dtypes given; singular vectors of zero singular values are
    arbitrary, so that flattening a rank-deficient update fills its empty directions with arbitrary ones.

    Args:
        pair: one LoRA pair of rank r.
        edit: keep_top or drop_top (k in 1 ... r, below r for drop_top), flatten (t in (0, 1]), clip (limit above 0), or
            scale (factor in (0, 1]): a spec, a mapping with `kind`, or its short form.

    Raises:
        AdapterError: k is larger than the rank allows, or the update is beyond the range of its dtype.
        SpecError, UnknownNameError: an edit that is not accepted.
    """
    (edit,) = _typed(edit)
    rank = min(pair.rank, pair.A_R_I.shape[1], pair.B_O_R.shape[0])
    largest = rank - 1 if edit.kind == "drop_top" else rank
    if edit.kind in ("keep_top", "drop_top") and edit.k > largest:
        raise AdapterError(f"{pair.name}: {edit.kind} with k = {edit.k}, accepted: 1 to {largest} at rank {rank}")
    directions = decompose(pair)
    if directions is None:
        return pair._replace(A_R_I=pair.A_R_I.detach().clone(), B_O_R=pair.B_O_R.detach().clone())
    # by their largest, because squares of tiny or huge values leave the range of floats
    largest_value = directions.S_C[0]
    edited_C = _EDITS[edit.kind](directions.S_C / largest_value, edit) * largest_value
    edited = compose(pair, directions.U_O_C, edited_C, directions.V_I_C)
    if not bool(edited.A_R_I.isfinite().all()) or not bool(edited.B_O_R.isfinite().all()):
        raise AdapterError(f"{pair.name}: the edited factors are beyond {pair.A_R_I.dtype}, accepted: finite updates")
    return edited


class Directions(NamedTuple):
    """The singular value decomposition of `B @ A` without its scale: U_O_C diag(S_C) V_I_C^T, S descending."""

    U_O_C: Tensor
    S_C: Tensor
    V_I_C: Tensor


@torch.no_grad()
def decompose(pair: LoraPair, dtype: torch.dtype | None = None) -> Directions | None:
    """Return the singular value decomposition of `B @ A` (without the scale), or None for a zero update.

    Args:
        pair: one LoRA pair.
        dtype: to compute in; None takes float64 for float64 factors, else float32.

    Raises:
        AdapterError: the update is NaN or beyond the dtype.
    """
    work = dtype or working_dtype(pair.A_R_I, pair.B_O_R)
    A_R_I, B_O_R = pair.A_R_I.detach().to(work), pair.B_O_R.detach().to(work)
    peaks = [float(factor.abs().max()) for factor in (A_R_I, B_O_R)]
    if not all(peaks):
        return None
    with full_precision(A_R_I.device):
        # each factor by its largest element, so that no product leaves the range of the dtype
        QA, _, QB, _, core = factor((A_R_I / peaks[0])[None], (B_O_R / peaks[1])[None])
        if not bool(core.isfinite().all()):
            raise AdapterError(f"{pair.name}: B @ A is NaN or beyond {work}, accepted: finite updates")
        # c_B and c_A differ where the rank exceeds a side of the module: the core is no square then
        U_C_C, S_C, Vh_C_C = torch.linalg.svd(core[0], full_matrices=False)
    # one after the other: the product of both may be beyond every float where the values are not
    values_C = S_C * max(peaks) * min(peaks) if float(S_C[0]) < 1 else S_C * min(peaks) * max(peaks)
    if not bool(values_C.isfinite().all()):
        raise AdapterError(f"{pair.name}: B @ A is beyond {work}, accepted: finite updates")
    return Directions(QB[0] @ U_C_C, values_C, QA[0] @ Vh_C_C.mT) if float(values_C[0]) > 0 else None


@torch.no_grad()
def compose(pair: LoraPair, U_O_C: Tensor, S_C: Tensor, V_I_C: Tensor) -> LoraPair:
    """Return a pair with the shapes, scale and dtypes of `pair` and `B @ A = U diag(S) V^T`, its factors balanced."""
    new_B_O_R = torch.zeros_like(pair.B_O_R, dtype=U_O_C.dtype)
    new_A_R_I = torch.zeros_like(pair.A_R_I, dtype=U_O_C.dtype)
    new_B_O_R[:, : len(S_C)] = U_O_C * S_C.sqrt()
    new_A_R_I[: len(S_C)] = S_C.sqrt()[:, None] * V_I_C.mT
    return pair._replace(A_R_I=new_A_R_I.to(pair.A_R_I.dtype), B_O_R=new_B_O_R.to(pair.B_O_R.dtype))


@torch.no_grad()
def apply_edit_to_model(model: nn.Module, edit: Edit) -> None:
    """Edit every adapter of a live PEFT model in place.

    Raises:
        SpecError, UnknownNameError: an edit that is not accepted.
        AdapterError: no usable pairs, an adapter that is merged into its base, or k larger than a rank allows;
            nothing is changed then.
    """
    for name, layer, adapter in lora_layers(model):
        if adapter in getattr(layer, "merged_adapters", ()):
            raise AdapterError(f"{name}: adapter {adapter!r} is merged into the base, accepted: an unmerged adapter")
    (edit,), pairs = _typed(edit), editable_pairs(model)
    edited = [apply_edit(pair, edit) for pair in pairs]
    for pair, new in zip(pairs, edited, strict=True):
        pair.A_R_I.copy_(new.A_R_I)
        pair.B_O_R.copy_(new.B_O_R)


def edit_adapter_folder(source: Path, target: Path, edits: Edit | Sequence[Edit]) -> Path:
    """Write an edited copy of an adapter folder: safetensors, its config, and a record of what was done.

    Args:
        source: an adapter folder in safetensors. Tensors beside its factors (modules saved in full, single tokens) are
            carried over byte for byte; a tensor that changes what the factors mean is refused.
        target: a folder that does not exist yet; it appears whole or not at all.
        edits: one edit, or several that are applied in order.

    Returns:
        The target.

    Raises:
        AdapterError: the source cannot be used, or the target exists.
        SpecError, UnknownNameError: an edit that is not accepted.
        IntegrityError: the source has a record of edits that is none.
        RunDirectoryError: the target cannot be written.
    """
    chain = _typed(edits)
    if target.exists() or target.is_symlink():
        raise AdapterError(f"{target} exists already; choose another folder or remove it")
    layout = layout_of(source)
    if layout.read_only:
        raise AdapterError(f"{source}: edited factors cannot be written back: {layout.read_only}")
    pairs = []
    for pair in pairs_from_folder(source):
        for edit in chain:
            pair = apply_edit(pair, edit)
        pairs.append(pair)
    record = {
        **_parts_of_a_swap(source),
        "edits": [*_earlier_edits(source), *(edit.model_dump(mode="json") for edit in chain)],
        "modules": len(pairs),
        "source_sha256": sha256_file(layout.file.path),
    }
    return write_adapter_folder(source, target, pairs, record)


def _earlier_edits(source: Path) -> list[Any]:
    file = source / EDIT_RECORD
    if not file.is_file():
        return []
    earlier = read_record(file).get("edits", [])
    try:
        plain = isinstance(earlier, list) and bool(canonical_json(earlier))
    except ValueError:  # NaN and the like, which JSON from elsewhere may hold
        plain = False
    if not plain:
        raise IntegrityError(f"{file} does not hold a list of edits; it is corrupt or not ours")
    return list(earlier)


def _parts_of_a_swap(source: Path) -> dict[str, Any]:
    """Return whose parts a hybrid was made of, which an edit of it does not change."""
    swap = read_record(source / EDIT_RECORD).get("swap") if (source / EDIT_RECORD).is_file() else None
    return {"swap": swap} if isinstance(swap, dict) else {}


CARRIED_NOTE = "as they were, byte for byte; no edit acts on them, and scale does not scale them"
"""What edit.json says of tensors beside the factors, and of the tokenizer's files."""


@torch.no_grad()
def write_adapter_folder(source: Path, target: Path, pairs: Sequence[LoraPair], record: Mapping[str, Any]) -> Path:
    """Write new factors in the layout, under the names and with the config of an adapter folder, a record beside them.

    Args:
        source: the folder whose layout, names and config are taken.
        target: a folder that does not exist yet; it appears whole or not at all.
        pairs: a pair for every module of the source, by name.
        record: what was done; the sha256 of the new weights, the status "edited, not evaluated" and the names of what
            was carried over are added.

    Raises:
        AdapterError: the target exists.
        RunDirectoryError: the target cannot be written.
    """
    layout, named = layout_of(source), {pair.name: pair for pair in pairs}
    file = layout.file
    assert isinstance(file, SafetensorsFile)  # every other layout is read_only
    factors = {factor.key for place in layout.places for factor in (place.A, place.B)}
    with file.opened() as stored:
        tensors = {key: tensor_of(file.path, stored, key) for key in file.shapes}
    tensors |= {key: tensors[key].clone() for key in factors}
    for place in layout.places:
        pair = named[place.name]
        place.A.view(tensors[place.A.key]).copy_(pair.A_R_I)
        place.B.view(tensors[place.B.key]).copy_(pair.B_O_R)
    carried = [key for key in file.shapes if key not in factors]
    if target.exists():
        raise AdapterError(f"{target} exists already; choose another folder or remove it")
    with whole_folder(target) as unfinished:
        weights = unfinished / file.path.name
        _save(tensors, weights, {"format": "pt"} | file.metadata)
        files = [name for name in CARRIED_FILES if (source / name).is_file()]
        for name in (*files, *([layout.config.name] if layout.config else ())):
            shutil.copyfile(source / name, unfinished / name)
        marks = {"status": EDITED, "sha256": sha256_file(weights)}
        over = {"tensors": carried, "files": files, "note": CARRIED_NOTE}
        beside = {"carried_over": over} if carried or files else {}
        write_json(unfinished / EDIT_RECORD, {**record, **beside, **marks})
    return target


def mark_evaluated(folder: Path, evaluation: Mapping[str, Any]) -> None:
    """Add an evaluation to the record of an edited adapter, whose status becomes "edited, evaluated".

    The status says that answers were judged, not what came out; an evaluation that is there already is not added twice.

    Args:
        folder: the edited adapter.
        evaluation: what was asked and where the verdicts are, JSON-able (verdict_id, panels ...).

    Raises:
        IntegrityError: no record, or weights that are not those it describes.
    """
    record = read_record(folder / EDIT_RECORD)
    found = sha256_file(folder / ADAPTER_WEIGHTS)
    if record.get("sha256", found) != found:
        raise IntegrityError(f"{folder / ADAPTER_WEIGHTS} has sha256 {found}, {EDIT_RECORD} says {record['sha256']}")
    evaluations = [*record.get("evaluations", [])]
    if dict(evaluation) not in evaluations:
        evaluations.append(dict(evaluation))
    write_json(folder / EDIT_RECORD, {**record, "status": EVALUATED, "evaluations": evaluations})


def _save(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtraError(f"safetensors is not installed; add it with: {install_hint('spectral')}") from error
    try:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata=metadata)
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error
