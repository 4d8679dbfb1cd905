"""Split an update into the part along a reference update and the part orthogonal to it, and dial the second one.

With U the update s*B*A of a module, R that of the reference and <X, Y> = tr(X C Y^T), the part along R is c R with
c = <U, R> / <R, R>, and the rest is orthogonal to R. C is the identity (Frobenius) or the second moment of what the
module reads, E[x x^T] (functional): then <U, R> is the mean of (U x)^T (R x), the inner product of the shifts of its
outputs. One c is computed per module, or one for all modules jointly.

Every result is a pair of concatenated factors, so no update is formed and nothing is truncated: the sum of a pair of
rank r and one of rank q has rank r + q at most. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from narrowly.records.dial import Granularity
from narrowly.records.errors import AdapterError, nearest
from narrowly.spectrum.pairs import LoraPair
from narrowly.spectrum.values import full_precision, singular_values

Covariances = Mapping[str, Tensor]
"""Module -> E[x x^T] of its inputs, inputs x inputs."""

NO_ENERGY = 1e-12
"""Share of an update's energy below which a part counts as zero: float64 leaves about 1e-15 of it."""


class ModuleSplit(NamedTuple):
    """How the update of one module lies to that of the reference; energies are squared norms in the inner product.

    Attributes:
        module: its name.
        coefficient: c, the multiple of the reference in the update.
        energy: of the update.
        reference: of the reference.
        along: of c R.
        orthogonal: of U - c R.
        cosine: <U, R> / (|U| |R|), -1 to 1; None where one of them is zero.
    """

    module: str
    coefficient: float
    energy: float
    reference: float
    along: float
    orthogonal: float
    cosine: float | None


class Split(NamedTuple):
    """An update split along a reference: both, module by module in one order, and how they lie to each other.

    Attributes:
        update, reference: the pairs, float64.
        modules: one row per pair.
        cosine: of both over all modules; None where one is zero.
        covariances: of the inner product; None for the Frobenius one.
    """

    update: list[LoraPair]
    reference: list[LoraPair]
    modules: list[ModuleSplit]
    cosine: float | None
    covariances: Covariances | None

    def dialled(self, f: float) -> list[LoraPair]:
        """Return c R + f (U - c R) of every module: the update as it is at f = 1, its projection at f = 0."""
        return [
            sum_of_pairs([(f, own), ((1 - f) * row.coefficient, other)])
            for own, other, row in zip(self.update, self.reference, self.modules, strict=True)
        ]

    def orthogonal(self) -> list[LoraPair]:
        """Return U - c R of every module."""
        return [
            sum_of_pairs([(1.0, own), (-row.coefficient, other)])
            for own, other, row in zip(self.update, self.reference, self.modules, strict=True)
        ]

    def with_other(self, f: float, other: Sequence[LoraPair]) -> list[LoraPair]:
        """Return c R + f Z of every module, with Z in place of the orthogonal part (`random_orthogonal`)."""
        return [
            sum_of_pairs([(row.coefficient, reference), (f, Z)])
            for reference, Z, row in zip(self.reference, other, self.modules, strict=True)
        ]


def sum_of_pairs(parts: Sequence[tuple[float, LoraPair]]) -> LoraPair:
    """Return one pair of scale 1 whose update is the weighted sum of those of pairs of one module, exactly.

    Parts of weight zero are left out, unless all are.
    """
    kept = [(weight, pair) for weight, pair in parts if weight] or [parts[0]]
    A_R_I = torch.cat([pair.A_R_I.detach().double() for _, pair in kept])
    B_O_R = torch.cat([weight * pair.scale * pair.B_O_R.detach().double() for weight, pair in kept], dim=1)
    return LoraPair(kept[0][1].name, A_R_I, B_O_R, 1.0)


def scaled_update(update: Sequence[LoraPair], f: float) -> list[LoraPair]:
    """Return every update times f: the control of every edit."""
    return [sum_of_pairs([(f, pair)]) for pair in update]


def with_reference_added(update: Sequence[LoraPair], reference: Sequence[LoraPair], f: float) -> list[LoraPair]:
    """Return f U + R of every module: the whole reference on top of the scaled update.

    Raises:
        AdapterError: as `split_update`.
    """
    return [sum_of_pairs([(f, own), (1.0, other)]) for own, other in _matched(update, reference)]


def mean_update(updates: Sequence[Sequence[LoraPair]]) -> list[LoraPair]:
    """Return the mean of several updates of the same modules, one pair of the summed ranks per module.

    Raises:
        AdapterError: no update, or other modules and shapes.
    """
    if not updates:
        raise AdapterError("the mean of updates needs at least one, found none")
    first, *others = updates
    matched = [_matched(first, other) for other in others]
    share = 1 / len(updates)
    return [
        sum_of_pairs([(share, pair), *[(share, rows[place][1]) for rows in matched]])
        for place, pair in enumerate(first)
    ]


def inner_product(first: LoraPair, second: LoraPair, covariance: Tensor | None = None) -> float:
    """Return <dW, dW'> = tr(dW C dW'^T) of two updates of one module, without forming either.

    Args:
        first: a pair.
        second: another of the same module.
        covariance: C, inputs x inputs, symmetric; None for the identity.
    """
    A_R_I, other_R_I = first.A_R_I.detach().double(), second.A_R_I.detach().double()
    with full_precision(A_R_I.device):
        if covariance is not None:
            A_R_I = A_R_I @ covariance.to(A_R_I.device, torch.float64)
        reads_R_R = A_R_I @ other_R_I.mT
        writes_R_R = first.B_O_R.detach().double().mT @ second.B_O_R.detach().double()
        return first.scale * second.scale * float((reads_R_R * writes_R_R).sum())


def split_update(
    update: Sequence[LoraPair],
    reference: Sequence[LoraPair],
    covariances: Covariances | None = None,
    granularity: Granularity = "module",
) -> Split:
    """Split an update along a reference.

    Args:
        update: pairs of an adapter.
        reference: pairs of another of the same base and modules, of any rank, in any order.
        covariances: of the functional inner product, one per module; None for the Frobenius one.
        granularity: module, one coefficient each (0 where a module of the reference is zero); joint, one for all.

    Raises:
        AdapterError: other modules or shapes than those of the update, a reference that is zero, a module without a
            covariance.
    """
    matched = _matched(update, reference)
    missing = [pair.name for pair, _ in matched if covariances is not None and pair.name not in covariances]
    if missing:
        raise AdapterError(f"{missing[0]} has no covariance of its inputs ({len(missing)} of {len(matched)} have none)")
    products = [
        tuple(
            inner_product(one, two, None if covariances is None else covariances[own.name])
            for one, two in ((own, own), (own, other), (other, other))
        )
        for own, other in matched
    ]
    total_own, total_both, total_other = (math.fsum(row[place] for row in products) for place in range(3))
    if not total_other > 0:
        raise AdapterError("the reference is zero in every module, accepted: an update with a direction")
    rows = []
    for (own, _), (energy, both, other_energy) in zip(matched, products, strict=True):
        # a module of the reference that is next to nothing has no direction to speak of
        of_module = both / other_energy if other_energy > NO_ENERGY**2 * total_other else 0.0
        c = of_module if granularity == "module" else total_both / total_other
        rest = max(0.0, energy - 2 * c * both + c * c * other_energy)
        rows.append(
            ModuleSplit(
                own.name, c, energy, other_energy, c * c * other_energy, rest, _cosine(energy, both, other_energy)
            )
        )
    pairs = [[sum_of_pairs([(1.0, pair)]) for pair in side] for side in zip(*matched, strict=True)]
    return Split(pairs[0], pairs[1], rows, _cosine(total_own, total_both, total_other), covariances)


def random_orthogonal(split: Split, seed: int) -> list[LoraPair]:
    """Return random updates, module by module as large as the orthogonal part and orthogonal to the reference too.

    Directions are random orthonormal columns (QR of normal draws), the singular values those of the orthogonal part.
    Then what lies along the reference is taken off, and the energy set to that of the orthogonal part. It is the
    control that keeps energy and spectrum and has no structure.

    Args:
        split: of an update.
        seed: of the draw, at least 0.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for part, other, row in zip(split.orthogonal(), split.reference, split.modules, strict=True):
        values_C = singular_values(part, torch.float64).cpu()
        sides = [_random_columns(size, len(values_C), generator) for size in (part.B_O_R.shape[0], part.A_R_I.shape[1])]
        drawn = LoraPair(part.name, sides[1].mT, sides[0] * values_C, 1.0)
        covariance = None if split.covariances is None else split.covariances[part.name]
        along = inner_product(drawn, other, covariance) / row.reference if row.reference > 0 else 0.0
        drawn = sum_of_pairs([(1.0, drawn), (-along, other)])
        energy = inner_product(drawn, drawn, covariance)
        small = row.orthogonal <= NO_ENERGY * row.energy or energy <= 0
        found.append(sum_of_pairs([(0.0 if small else math.sqrt(row.orthogonal / energy), drawn)]))
    return found


def _random_columns(size: int, count: int, generator: torch.Generator) -> Tensor:
    columns: Tensor = torch.linalg.qr(torch.randn(size, count, generator=generator, dtype=torch.float64)).Q
    return columns


def _cosine(energy: float, both: float, other_energy: float) -> float | None:
    if energy <= 0 or other_energy <= 0:
        return None
    return max(-1.0, min(1.0, both / math.sqrt(energy) / math.sqrt(other_energy)))


def _matched(update: Sequence[LoraPair], reference: Sequence[LoraPair]) -> list[tuple[LoraPair, LoraPair]]:
    """Return the pairs of both by module, in the order of the update.

    Raises:
        AdapterError: a module of one that the other does not have, or of another shape.
    """
    named = {pair.name: pair for pair in reference}
    here = [pair.name for pair in update]
    for name in here:
        if name not in named:
            raise AdapterError(f"the reference has no module {name!r}{nearest(name, named)}")
    more = [name for name in named if name not in set(here)]
    if more:
        raise AdapterError(f"the update has no module {more[0]!r} of the reference{nearest(more[0], here)}")
    for pair in update:
        shapes = [(one.B_O_R.shape[0], one.A_R_I.shape[1]) for one in (pair, named[pair.name])]
        if shapes[0] != shapes[1]:
            raise AdapterError(f"{pair.name} is {shapes[0]} in the update and {shapes[1]} in the reference")
    return [(pair, named[pair.name]) for pair in update]
