"""Compare two adapters: shared directions of their updates, and hybrids that take a part of each.

Everything is computed in float64 from the factors; no update is ever formed. Directions are matched by rank order: the
largest singular value of one with the largest of the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum.edits import Directions, compose, decompose
from narrowly.spectrum.metrics import spectrum_metrics
from narrowly.spectrum.pairs import LoraPair, Skipped

TOP = 4
"""Leading directions whose overlap is given beside that of whole spaces; half of the rank 8 of the micro studies."""


class SpaceAngles(NamedTuple):
    """How two subspaces of one space lie to each other.

    Attributes:
        smallest, median, largest: principal angles in degrees, 0 to 90.
        overlap: mean squared cosine of the principal angles, 0 (orthogonal) to 1 (one holds the other).
        chance: expected overlap of two random subspaces of these dimensions: larger dimension / dimension of the space.
    """

    smallest: float
    median: float
    largest: float
    overlap: float
    chance: float


class Overlap(NamedTuple):
    """How much two subspaces of one dimension share.

    Attributes:
        overlap: mean squared cosine of the principal angles, 0 to 1.
        chance: the overlap that two random subspaces of these dimensions have on average.
    """

    overlap: float
    chance: float


class ModuleDifference(NamedTuple):
    """Two updates of one module, A's and B's.

    Attributes:
        module: its name.
        rank_a, rank_b: numerical ranks of the updates.
        norm_a, norm_b: Frobenius norms.
        cosine: <dW_A, dW_B> / (|dW_A| |dW_B|), -1 to 1; None where an update is zero.
        column, row: the spaces that the updates write to and read from; None where an update is zero.
        top_column, top_row: the same for the leading `top` directions.
        top: how many directions those are.
        metrics_a, metrics_b: metrics of the spectra, fields of `SpectrumMetrics`.
        values_a, values_b: singular values, descending.
    """

    module: str
    rank_a: int
    rank_b: int
    norm_a: float
    norm_b: float
    cosine: float | None
    column: SpaceAngles | None
    row: SpaceAngles | None
    top_column: Overlap | None
    top_row: Overlap | None
    top: int
    metrics_a: dict[str, float | None]
    metrics_b: dict[str, float | None]
    values_a: list[float]
    values_b: list[float]


class Difference(NamedTuple):
    """Two adapters compared: the modules of both, and what could not be compared, with reasons."""

    modules: list[ModuleDifference]
    skipped: list[Skipped]


def principal_angles(P_N_C: Tensor, Q_N_C: Tensor) -> Tensor:
    """Return the principal angles in degrees between two column spaces, ascending, min(c_P, c_Q) of them.

    From the cosines (singular values of P^T Q) where they are below 0.7, else from the sines (singular values of what
    is left of Q beside P), because an arc cosine near 1 loses half of the digits (Bjoerck and Golub, 1973).

    Args:
        P_N_C: orthonormal columns, float64.
        Q_N_C: orthonormal columns in the same space.
    """
    if P_N_C.shape[1] < Q_N_C.shape[1]:
        P_N_C, Q_N_C = Q_N_C, P_N_C
    # cosines ascending in angle, and the sines of what is left of Q beside P in the same order
    inner_C_C = P_N_C.mT @ Q_N_C
    cosines = torch.linalg.svdvals(inner_C_C).clamp(max=1.0)
    # through R, because the SVD of a tall matrix costs many times its QR
    rest_C_C = torch.linalg.qr(Q_N_C - P_N_C @ inner_C_C, mode="r").R
    sines = torch.linalg.svdvals(rest_C_C).flip(0).clamp(max=1.0)[: len(cosines)]
    angles: Tensor = torch.where(cosines < 0.7, torch.acos(cosines), torch.asin(sines))
    return torch.rad2deg(angles)


def _space(P_N_C: Tensor, Q_N_C: Tensor) -> SpaceAngles:
    angles = principal_angles(P_N_C, Q_N_C)
    return SpaceAngles(
        float(angles[0]),
        float(angles.median()),
        float(angles[-1]),
        float(torch.deg2rad(angles).cos().square().mean()),
        max(P_N_C.shape[1], Q_N_C.shape[1]) / P_N_C.shape[0],
    )


def _overlap(P_N_C: Tensor, Q_N_C: Tensor) -> Overlap:
    width = P_N_C.shape[1]
    return Overlap(float((P_N_C.mT @ Q_N_C).square().sum()) / width, width / P_N_C.shape[0])


@torch.no_grad()
def compare_pairs(a: LoraPair, b: LoraPair, top: int = TOP) -> ModuleDifference:
    """Compare the updates of two pairs on modules of the same shape; their ranks and scales may differ.

    Raises:
        AdapterError: the modules have different shapes, or top is below 1.
    """
    if top < 1:
        raise AdapterError(f"top is {top}, accepted: a whole number from 1")
    shapes = [(pair.B_O_R.shape[0], pair.A_R_I.shape[1]) for pair in (a, b)]
    if shapes[0] != shapes[1]:
        raise AdapterError(f"{a.name}: the updates are {shapes[0]} and {shapes[1]}, accepted: one shape")
    # norms and metrics are of the whole spectra, angles of the directions above rounding only
    first, second = _spectrum(a), _spectrum(b)
    norm_a, norm_b = (float(torch.linalg.vector_norm(one.S_C)) for one in (first, second))
    kept_a, kept_b = _kept(first), _kept(second)
    width = min(top, len(kept_a.S_C), len(kept_b.S_C))
    column = row = top_column = top_row = cosine = None
    if width:
        column, row = _space(kept_a.U_O_C, kept_b.U_O_C), _space(kept_a.V_I_C, kept_b.V_I_C)
        top_column = _overlap(kept_a.U_O_C[:, :width], kept_b.U_O_C[:, :width])
        top_row = _overlap(kept_a.V_I_C[:, :width], kept_b.V_I_C[:, :width])
        cosine = _cosine(kept_a, kept_b)
    return ModuleDifference(
        module=a.name,
        rank_a=len(kept_a.S_C),
        rank_b=len(kept_b.S_C),
        norm_a=norm_a,
        norm_b=norm_b,
        cosine=cosine,
        column=column,
        row=row,
        top_column=top_column,
        top_row=top_row,
        top=width,
        metrics_a=spectrum_metrics(first.S_C)._asdict(),
        metrics_b=spectrum_metrics(second.S_C)._asdict(),
        values_a=first.S_C.tolist(),
        values_b=second.S_C.tolist(),
    )


def _spectrum(pair: LoraPair) -> Directions:
    """Return the decomposition of `scale * B @ A` in float64; a zero update has zeros and no directions."""
    found = decompose(pair, torch.float64)
    if found is None:
        outputs, inputs = pair.B_O_R.shape[0], pair.A_R_I.shape[1]
        values_C = torch.zeros(min(pair.rank, outputs, inputs), dtype=torch.float64)
        return Directions(values_C.new_zeros(outputs, 0), values_C, values_C.new_zeros(inputs, 0))
    values_C = found.S_C * abs(pair.scale)
    if not math.isfinite(float(torch.linalg.vector_norm(values_C))):
        raise AdapterError(f"{pair.name}: the norm of the update is beyond float64, accepted: finite updates")
    # a negative scale turns the sign of the update, which belongs to the directions
    return Directions(found.U_O_C * math.copysign(1.0, pair.scale), values_C, found.V_I_C)


def _kept(found: Directions) -> Directions:
    """Drop the directions whose singular value is rounding of float32 factors; they are not the update's."""
    largest = float(found.S_C[0])
    # squares of what is smaller than the root of the smallest float are zero: such an update has no norm
    floor = largest * torch.finfo(torch.float32).eps if largest > 1e-150 else math.inf
    real = int((floor < found.S_C).sum())
    return Directions(found.U_O_C[:, :real], found.S_C[:real], found.V_I_C[:, :real])


def _cosine(a: Directions, b: Directions) -> float:
    """Return <dW_A, dW_B> / (|dW_A| |dW_B|): sum of s_i t_j (u_i . u_j) (v_i . v_j) over the directions of both."""
    columns_C_C, rows_C_C = a.U_O_C.mT @ b.U_O_C, a.V_I_C.mT @ b.V_I_C
    shares = [one.S_C / torch.linalg.vector_norm(one.S_C) for one in (a, b)]
    return max(-1.0, min(1.0, float(shares[0] @ (columns_C_C * rows_C_C) @ shares[1])))


def compare_adapters(a: Sequence[LoraPair], b: Sequence[LoraPair], top: int = TOP) -> Difference:
    """Compare two adapters module by module, in the order of the first; modules of one alone are listed as skipped.

    Raises:
        AdapterError: no module in common.
    """
    other = {pair.name: pair for pair in b}
    modules: list[ModuleDifference] = []
    skipped: list[Skipped] = []
    for pair in a:
        twin = other.pop(pair.name, None)
        if twin is None:
            skipped.append(Skipped(pair.name, "only the first adapter has it"))
            continue
        shapes = [(one.B_O_R.shape[0], one.A_R_I.shape[1]) for one in (pair, twin)]
        if shapes[0] != shapes[1]:
            skipped.append(Skipped(pair.name, f"outputs x inputs are {shapes[0]} and {shapes[1]}: not the same base"))
            continue
        modules.append(compare_pairs(pair, twin, top))
    skipped += [Skipped(name, "only the second adapter has it") for name in other]
    if not modules:
        raise AdapterError(
            f"the adapters have no module in common: the first has {a[0].name} and {len(a) - 1} more, "
            f"the second {b[0].name} and {len(b) - 1} more"
        )
    return Difference(modules, skipped)


def difference_summary(modules: Sequence[ModuleDifference]) -> dict[str, float | None]:
    """Return update norms, the cosine of the whole updates, and plain means over modules of the overlaps.

    Modules where an update is zero are left out of the means.
    """
    norms = [math.hypot(*(row.norm_a for row in modules)), math.hypot(*(row.norm_b for row in modules))]
    summary: dict[str, float | None] = {
        "update_norm_a": norms[0],
        "update_norm_b": norms[1],
        "cosine": math.fsum((row.cosine or 0.0) * (row.norm_a / norms[0]) * (row.norm_b / norms[1]) for row in modules)
        if all(norms)
        else None,
    }
    for field in ("column", "row", "top_column", "top_row"):
        found = [space for row in modules if (space := getattr(row, field)) is not None]
        for value in ("overlap", "chance"):
            known = [getattr(space, value) for space in found]
            summary[f"{field}_{value}"] = math.fsum(known) / len(known) if known else None
    return summary


# ------------------------------------------------------------------------------------------------- hybrids

COMPONENTS = ("shape", "norms", "vectors")
"""What an update is taken apart into: normalised singular values, Frobenius norm of each module, singular vectors."""

HYBRIDS = tuple("".join(letters) for letters in itertools.product("AB", repeat=3))
"""Names of the eight hybrids: which adapter gives shape, norms and vectors, in this order; AAA is A, BBB is B."""


@torch.no_grad()
def hybrids(a: Sequence[LoraPair], b: Sequence[LoraPair]) -> Iterator[tuple[str, list[LoraPair]]]:
    """Yield the eight hybrids of two adapters, (name, pairs) in the order of `HYBRIDS`, with scales and dtypes of A.

    Per module, `U diag(n s) V^T` with the normalised singular values s of one adapter, the Frobenius norm n of one and
    the singular vectors U, V of one. Singular values are given to directions by rank order.

    Args:
        a: pairs of the first adapter.
        b: pairs of the second, of the same modules, shapes and ranks.

    Raises:
        AdapterError: modules, shapes or ranks differ, or an update is zero and so has no spectrum.
    """
    other = {pair.name: pair for pair in b}
    names = [pair.name for pair in a]
    alone = sorted(set(names) ^ set(other))
    if alone:
        raise AdapterError(
            f"the adapters adapt different modules: {alone[0]} and {len(alone) - 1} more are in one only"
        )
    parts: dict[str, dict[str, Directions]] = {"A": {}, "B": {}}
    for pair in a:
        twin = other[pair.name]
        if (pair.A_R_I.shape, pair.B_O_R.shape) != (twin.A_R_I.shape, twin.B_O_R.shape):
            raise AdapterError(
                f"{pair.name}: factors are {tuple(pair.A_R_I.shape)}, {tuple(pair.B_O_R.shape)} and "
                f"{tuple(twin.A_R_I.shape)}, {tuple(twin.B_O_R.shape)}, accepted: equal ranks and shapes"
            )
        for letter, one in (("A", pair), ("B", twin)):
            found = _spectrum(one)
            if not float(torch.linalg.vector_norm(found.S_C)) > 0:
                raise AdapterError(f"{pair.name}: the update of adapter {letter} is zero, so there is nothing to swap")
            parts[letter][pair.name] = found
    for name in HYBRIDS:
        yield name, [_hybrid(pair, *(parts[letter][pair.name] for letter in name)) for pair in a]


def _hybrid(target: LoraPair, shape: Directions, norms: Directions, vectors: Directions) -> LoraPair:
    # shape at norm 1, times the norm; the target's own scale is divided out, as compose leaves it in place
    normalised_C = shape.S_C / torch.linalg.vector_norm(shape.S_C)
    values_C = normalised_C * torch.linalg.vector_norm(norms.S_C) / abs(target.scale)
    return compose(target, vectors.U_O_C * math.copysign(1.0, target.scale), values_C, vectors.V_I_C)


def factorial_effects(values: Mapping[str, float]) -> dict[str, float]:
    """Return main effects and interactions of the 2 x 2 x 2 design, each as one difference of averages.

    A main effect is the mean over the four hybrids that take the component from B minus the mean over the four that
    take it from A. An interaction is the mean where an even number of its components comes from A minus the mean where
    an odd number does. BBB - AAA is the sum of the three main effects and the threefold interaction.

    Args:
        values: one value per name of `HYBRIDS`.
    """
    effects = {}
    for size in (1, 2, 3):
        for places in itertools.combinations(range(3), size):
            signs = {name: math.prod(1 if name[place] == "B" else -1 for place in places) for name in HYBRIDS}
            effects[" x ".join(COMPONENTS[place] for place in places)] = (
                math.fsum(signs[name] * values[name] for name in HYBRIDS) / 4
            )
    return effects


def simple_effects(values: Mapping[str, float]) -> dict[str, float]:
    """Return the effect of each component where another one is A's, and where it is B's: "shape, vectors A" and so on.

    Each is the mean over the two hybrids with the component from B minus that over the two with it from A, at one level
    of the other component. The two simple effects are the main effect minus and plus the interaction; where they have
    different signs, a main effect near 0 says only that they cancel.

    Args:
        values: one value per name of `HYBRIDS`.
    """
    effects = {}
    for place, other in itertools.permutations(range(3), 2):
        for level in "AB":
            given = [name for name in HYBRIDS if name[other] == level]
            effects[f"{COMPONENTS[place]}, {COMPONENTS[other]} {level}"] = (
                math.fsum(values[name] if name[place] == "B" else -values[name] for name in given) / 2
            )
    return effects


def as_row(module: ModuleDifference) -> dict[str, Any]:
    """Return a module's difference as a JSON-ready mapping."""
    row = module._asdict()
    for field in ("column", "row", "top_column", "top_row"):
        row[field] = None if row[field] is None else row[field]._asdict()
    return row
