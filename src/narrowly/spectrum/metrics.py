"""Compute the paper's four metrics of a spectrum (Appendix A.3), norms, and a table with one row per module.

All four metrics are free of scale and of gauge: (A, B) -> (C A, B C^-1) leaves them as they are. Where a
metric has no value (a zero update; the condition number of a rank-deficient one) it is None, never NaN or
infinity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum.folder import survey_chunks
from narrowly.spectrum.pairs import LoraPair, Skipped, Survey, some_pairs
from narrowly.spectrum.values import ZERO_UPDATE, singular_values_all

METRICS = ("stable_rank", "spectral_entropy", "condition_number", "frobenius_nuclear")
"""The paper's metrics by the names of our tables."""

NEED_ALL = ("spectral_entropy", "condition_number", "frobenius_nuclear")
"""Those that leading singular values alone do not give."""

LEADING = "leading_singular_values"
"""Column of a row whose spectrum is truncated, in place of `singular_values`."""


class SpectrumMetrics(NamedTuple):
    """Metrics of one spectrum s_1 >= ... >= s_r, with p_i = s_i / sum(s). Source: the paper's Appendix A.3.

    Attributes:
        stable_rank: sum s_i^2 / s_1^2, from 1 to r. None for a zero update.
        spectral_entropy: -sum p_i ln p_i in nats, from 0 to ln r. None for a zero update.
        condition_number: s_1 / s_r, from 1 up. None for a zero update and where s_r cannot be told from zero
            in the precision of the values (the true condition number is then infinite or unknown).
        frobenius_nuclear: sqrt(sum s_i^2) / sum s_i, from 1/sqrt(r) (flat) to 1 (rank one). None for a zero
            update.
        frobenius_norm: sqrt(sum s_i^2).
        spectral_norm: s_1.
        nuclear_norm: sum s_i. None where only leading values are known (`spectrum.difference`).
    """

    stable_rank: float | None
    spectral_entropy: float | None
    condition_number: float | None
    frobenius_nuclear: float | None
    frobenius_norm: float
    spectral_norm: float
    nuclear_norm: float | None


def spectrum_metrics(values: Tensor | Sequence[float], *, resolution: float | None = None) -> SpectrumMetrics:
    """Return the metrics of one spectrum, computed in float64.

    Args:
        values: singular values of one update, all of them in any order, at least one, none negative.
        resolution: share of the largest value below which one cannot be told from zero; None: the rounding of the
            values' dtype times their number.

    Returns:
        The metrics; a Frobenius norm of at most 1e-12 counts as a zero update, with None for the four ratios.

    Raises:
        AdapterError: no values, or a value that is negative, NaN or infinite.
    """
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64)
    if tensor.ndim != 1 or len(tensor) == 0 or not bool((tensor.isfinite() & (tensor >= 0)).all()):
        raise AdapterError(
            f"a spectrum of shape {tuple(tensor.shape)} and smallest value "
            f"{float(tensor.min()) if tensor.numel() else 'none'}, accepted: at least one finite value, none negative"
        )
    if resolution is None:
        resolution = torch.finfo(tensor.dtype).eps * tensor.numel()
    s = sorted(tensor.detach().double().tolist(), reverse=True)
    largest, total = s[0], math.fsum(s)
    frobenius = math.hypot(*s)
    if frobenius <= ZERO_UPDATE:
        return SpectrumMetrics(None, None, None, None, frobenius, largest, total)
    shares = [value / total for value in s]
    return SpectrumMetrics(
        stable_rank=math.fsum((value / largest) ** 2 for value in s),
        spectral_entropy=abs(math.fsum(share * math.log(share) for share in shares if share > 0)),
        condition_number=largest / s[-1] if s[-1] > resolution * largest else None,
        frobenius_nuclear=frobenius / total,
        frobenius_norm=frobenius,
        spectral_norm=largest,
        nuclear_norm=total,
    )


def layer_and_kind(name: str) -> tuple[int, str]:
    """Return the first number among the parts of a module path (-1 if none) and its last part."""
    parts = name.split(".")
    numbers = [int(part) for part in parts if re.fullmatch(r"\d{1,9}", part)]
    return (numbers[0] if numbers else -1), parts[-1]


def spectrum_table(pairs: Sequence[LoraPair]) -> list[dict[str, Any]]:
    """Return one row per module.

    Keys: module, layer (int, -1 if the path has no number), kind ("q_proj"), rank (of the factors), the
    fields of `SpectrumMetrics`, a_norm and b_norm (Frobenius, without the scale) and singular_values (list of
    floats, descending, of scale * B @ A).
    """
    rows = []
    for pair, values in zip(pairs, singular_values_all(pairs), strict=True):
        layer, kind = layer_and_kind(pair.name)
        rows.append(
            {
                "module": pair.name,
                "layer": layer,
                "kind": kind,
                "rank": pair.rank,
                **spectrum_metrics(values)._asdict(),
                "a_norm": float(torch.linalg.vector_norm(pair.A_R_I.detach().float())),
                "b_norm": float(torch.linalg.vector_norm(pair.B_O_R.detach().float())),
                "singular_values": values.double().tolist(),
            }
        )
    return rows


def folder_spectrum(path: Path | str) -> tuple[list[dict[str, Any]], list[Skipped]]:
    """Return the rows of `spectrum_table` for an adapter folder, read a few modules at a time, and what was skipped.

    Raises:
        AdapterError: as `survey_folder`: a folder that cannot be read, or without one pair.
    """
    rows: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    for chunk in survey_chunks(path):
        rows += spectrum_table(chunk.pairs)
        skipped += chunk.skipped
    if not rows:
        some_pairs(Survey([], skipped), f"{path}: ")
    return rows, skipped


def update_norm(pairs: Sequence[LoraPair]) -> float:
    """Return the Frobenius norm of the whole update: the root of the summed squares over all modules."""
    return math.hypot(*(value for values in singular_values_all(pairs) for value in values.double().tolist()))


def spectrum_summary(table: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the plain mean over modules of each metric, and update_norm, from the rows of `spectrum_table`.

    The mean over layers per checkpoint is the paper's averaging (docs/sources.md). Modules where a metric is
    None are left out of its mean; where all are, the mean is None. So is the mean of a metric that needs all singular
    values where some module has its leading ones only: the other modules do not speak for it.
    """
    summary: dict[str, float | None] = {}
    truncated = any(LEADING in row for row in table)
    for metric in METRICS:
        if truncated and metric in NEED_ALL:
            summary[metric] = None
            continue
        known = [float(row[metric]) for row in table if row[metric] is not None]
        summary[metric] = math.fsum(known) / len(known) if known else None
    summary["update_norm"] = math.hypot(*(float(row["frobenius_norm"]) for row in table))
    return summary


class RankMeans(NamedTuple):
    """Hold the means over the modules of one rank, which alone share the bounds of the metrics.

    Attributes:
        rank: number of singular values of each module; stable rank reaches from 1 to it, Frobenius/nuclear from 1
            over its root to 1, entropy from 0 to its logarithm.
        modules: how many there are.
        idle: those without an update (B = 0), which are in no mean.
        means: plain mean of each metric, None where no module has it, or some have their leading values only.
        over: how many modules each mean is over.
    """

    rank: int
    modules: int
    idle: int
    means: dict[str, float | None]
    over: dict[str, int]


def rank_means(table: Sequence[Mapping[str, Any]]) -> list[RankMeans]:
    """Return the means of the metrics for each rank by itself, smallest first, from the rows of `spectrum_table`."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for row in table:
        # a rank beyond a side of the module has no further singular values
        groups.setdefault(len(row.get("singular_values", ())) or int(row["rank"]), []).append(row)
    found = []
    for rank, rows in sorted(groups.items()):
        summary = spectrum_summary(rows)
        means = {metric: summary[metric] for metric in METRICS}
        known = {metric: sum(row[metric] is not None for row in rows) for metric in METRICS}
        over = {metric: known[metric] if means[metric] is not None else 0 for metric in METRICS}
        idle = sum(float(row["frobenius_norm"]) <= ZERO_UPDATE for row in rows)
        found.append(RankMeans(rank, len(rows), idle, means, over))
    return found
