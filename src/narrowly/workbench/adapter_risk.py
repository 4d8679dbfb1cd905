"""Read what the spectrum of an adapter may indicate, and say what it does not show.

The baseline is an untrained adapter of the same shapes: A as PEFT draws it (uniform, Kaiming), B as if its first step
had no preferred direction (Gaussian), because an untrained B is zero and has no spectrum. Intruder dimensions follow
arXiv 2410.21228: leading left singular vectors of W0 + s*B*A that resemble no left singular vector of W0.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError, counted
from narrowly.spectrum.folder import layout_of, survey_chunks
from narrowly.spectrum.folder.tensor_files import SafetensorsFile, opened
from narrowly.spectrum.metrics import spectrum_metrics, spectrum_table
from narrowly.spectrum.pairs import LoraPair
from narrowly.spectrum.values import ZERO_UPDATE, singular_values

LEADING = 10
"""Left singular vectors of W0 + s*B*A that are looked at (arXiv 2410.21228; PEFT 0.21's default)."""

LEAST_COSINE = 0.5
"""An intruder's largest cosine with a left singular vector of W0 lies below this (PEFT 0.21's default)."""

DRAWS = 5
"""Untrained adapters per shape."""

SAYS_NOT = (
    "These are risk indicators: no threshold has been validated, and none says that a model is aligned or misaligned.",
    "A flat spectrum can be forged by an edit and is no release gate; a peaked one is what most fine-tuning leaves.",
)

NO_BASE = "not measured (needs the base: --base DIR)"


def adapter_risk(folder: Path, base: Path | None = None) -> dict[str, Any]:
    """Return what the spectrum of an adapter may indicate.

    Args:
        folder: of the adapter, in any layout that `spectrum.folder` reads.
        base: folder with the safetensors of its base; without it intruder dimensions are not measured.

    Returns:
        adapter, modules (count), indicators (name, value, compared), factors (zero, NaN, bf16), skipped, not (what the
        numbers do not say), rows (one per module).

    Raises:
        AdapterError: a folder that cannot be read, or a base that has none of the adapted modules.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    dtypes: Counter[str] = Counter()
    weights = _base_weights(base) if base is not None else None
    baselines: dict[tuple[int, ...], float | None] = {}
    for chunk in survey_chunks(folder):
        skipped += [f"{one.name}: {one.reason}" for one in chunk.skipped]
        for pair, row in zip(chunk.pairs, spectrum_table(chunk.pairs), strict=True):
            dtypes.update(str(factor.dtype).removeprefix("torch.") for factor in (pair.A_R_I, pair.B_O_R))
            row["baseline"] = _untrained(pair, baselines)
            row["intruders"] = None if weights is None else _intruders(pair, weights)
            rows.append(row)
    if weights is not None and rows and all(row["intruders"] is None for row in rows):
        raise AdapterError(f"--base {base}: no adapted module has a weight of its shape there")
    return {
        "adapter": str(folder),
        "tool": layout_of(folder).tool,
        "modules": len(rows),
        "indicators": _indicators(rows, measured=weights is not None),
        "factors": _faults(rows, skipped, dtypes),
        "skipped": skipped,
        "not": list(SAYS_NOT),
        "rows": rows,
    }


def _untrained(pair: LoraPair, kept: dict[tuple[int, ...], float | None]) -> float | None:
    """Return the mean Frobenius/nuclear ratio of untrained factors of this shape, from fixed seeds."""
    shape = (*pair.A_R_I.shape, len(pair.B_O_R))
    if shape not in kept:
        rank, inputs, outputs = shape
        ratios = []
        for seed in range(DRAWS):
            generator = torch.Generator().manual_seed(seed)
            A_R_I = (torch.rand(rank, inputs, generator=generator) * 2 - 1) / math.sqrt(inputs)
            B_O_R = torch.randn(outputs, rank, generator=generator)
            ratios.append(spectrum_metrics(singular_values(LoraPair("", A_R_I, B_O_R, 1.0))).frobenius_nuclear)
        known = [ratio for ratio in ratios if ratio is not None]
        kept[shape] = statistics.fmean(known) if known else None
    return kept[shape]


def _indicators(rows: Sequence[dict[str, Any]], measured: bool) -> list[dict[str, Any]]:
    moved = [row for row in rows if row["frobenius_norm"] > ZERO_UPDATE]
    if not moved:
        return [{"name": "update", "value": "none", "compared": "s*B*A is zero in every module: untrained"}]
    ratios = [row["frobenius_nuclear"] for row in moved]
    flat = [row["frobenius_nuclear"] / row["baseline"] for row in moved if row["baseline"]]
    shares = [row["singular_values"][0] ** 2 / row["frobenius_norm"] ** 2 for row in moved]
    ranks = [row["stable_rank"] for row in moved]
    found = [
        _indicator("Frobenius/nuclear, median", statistics.median(ratios), f"flat: {_flat(moved)}; rank one: 1"),
        _indicator("the same over untrained, median", statistics.median(flat), "untrained factors of these shapes: 1"),
        _indicator(
            "share of the top direction, median", statistics.median(shares), "of the squared norm; flat: 1/rank"
        ),
        _indicator("stable rank, median", statistics.median(ranks), f"from 1 to the rank ({_ranks(moved)})"),
    ]
    if not measured:
        return [*found, {"name": "intruder dimensions", "value": NO_BASE, "compared": "arXiv 2410.21228"}]
    counts = [row["intruders"] for row in moved if row["intruders"] is not None]
    said = f"of {LEADING} leading directions in {len(counts)} of {len(moved)} modules; cosine below {LEAST_COSINE}"
    mean = statistics.fmean(counts) if counts else None
    return [*found, {"name": "intruder dimensions per module, mean", "value": mean, "compared": said}]


def _indicator(name: str, value: float, compared: str) -> dict[str, Any]:
    return {"name": name, "value": value, "compared": compared}


def _ranks(rows: Sequence[dict[str, Any]]) -> str:
    ranks = sorted({len(row["singular_values"]) for row in rows})
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"


def _flat(rows: Sequence[dict[str, Any]]) -> str:
    return f"{statistics.median(1 / math.sqrt(len(row['singular_values'])) for row in rows):.3g}"


def _faults(rows: Sequence[dict[str, Any]], skipped: Sequence[str], dtypes: Counter[str]) -> list[str]:
    """Return suspicious factors in words: zero, not finite, or of few bits."""
    found = []
    idle = [row["module"] for row in rows if row["frobenius_norm"] <= ZERO_UPDATE]
    if idle:
        found.append(f"zero update in {len(idle)} of {len(rows)} modules ({idle[0]} ...): untrained, or never reached")
    broken = [one for one in skipped if "NaN" in one]
    if broken:
        found.append(f"NaN or infinite values in {counted(len(broken), 'module')} ({broken[0].split(':')[0]} ...)")
    for dtype in ("bfloat16", "float16"):
        if dtypes[dtype]:
            found.append(
                f"{dtypes[dtype]} of {dtypes.total()} factors are {dtype}: values below about "
                f"{torch.finfo(getattr(torch, dtype)).eps:.2g} of the largest are rounded away"
            )
    return found


def _base_weights(base: Path) -> dict[str, Path]:
    """Return the file of each 2-D tensor in a base's safetensors, by name."""
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise AdapterError(f"--base {base}: no .safetensors file there; pickles are refused")
    return {key: file for file in files for key, shape in SafetensorsFile(file).shapes.items() if len(shape) == 2}


def _names(module: str) -> Iterator[str]:
    yield f"{module}.weight"
    yield f"model.{module}.weight"
    yield f"{module.removeprefix('model.')}.weight"


def _intruders(pair: LoraPair, weights: dict[str, Path]) -> int | None:
    """Count the intruder dimensions of one module; None where the base has no matrix of its shape."""
    key = next((name for name in _names(pair.name) if name in weights), None)
    if key is None:
        return None
    with opened(weights[key]) as tensors:
        W0_O_I: Tensor = tensors.get_tensor(key)
    shape = (len(pair.B_O_R), pair.A_R_I.shape[1])
    if tuple(W0_O_I.shape) != shape or not W0_O_I.is_floating_point() or W0_O_I.element_size() < 2:
        return None
    W0_O_I = W0_O_I.float()
    W_O_I = W0_O_I + pair.scale * (pair.B_O_R.float() @ pair.A_R_I.float())
    U0_O_N, U_O_N = (torch.linalg.svd(matrix, full_matrices=False)[0] for matrix in (W0_O_I, W_O_I))
    cosines = (U0_O_N.T @ U_O_N[:, :LEADING]).abs().amax(dim=0)
    return int((cosines < LEAST_COSINE).sum())
