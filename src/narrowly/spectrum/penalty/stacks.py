"""Stack many LoRA pairs into few batched products, whether their factors share storage or not.

Pairs are grouped by shape, groups by rank: the products with the factors run per shape, the r x r work of all shapes
with one rank runs at once. Factors are read in chunks. Where equal factors lie one behind the other in memory
(`flatten_storage`), a chunk is a view; elsewhere it is a copy of a few factors, or on the CPU one factor at a time.
Gram matrices are summed in float64, because squaring in float32 would lose what lies below 1e-3 of the largest
singular value; the gradients are products in the working dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum.matrix_functions import blockwise_gram
from narrowly.spectrum.pairs import LoraPair
from narrowly.spectrum.penalty.kinds import Grams
from narrowly.spectrum.values import working_dtype

_CHUNK = {"cpu": 2**20, "other": 2**25}
"""Elements of a chunk: what the cache of a CPU holds in float64; on an accelerator what bounds the extra memory."""

_SINGLE = ("cpu",)
"""Devices on which separate factors are read one at a time, as a product costs more there than its launch."""

_LONG = 1024
"""Length of the other side from which a CPU sums Gram matrices block by block; shorter ones are cheap in float64."""


_SMALL = 8
"""Largest rank of which a CPU sums Gram matrices in float64 all the same: over few entries rounding averages less."""


def product_dtype(factor: Tensor, is_A: bool) -> torch.dtype:
    """Return the dtype of the products of a factor with r x r matrices: float32, or float64 where that is too little.

    A factor with more ranks than it has room for cancels entries of up to 1 / EPS, which cost it 1e-3 in float32.
    """
    rank, side = factor.shape if is_A else reversed(factor.shape)
    lacks_rank = rank > side
    return torch.float64 if lacks_rank and factor.device.type != "mps" else working_dtype(factor)


class Side:
    """One factor of every pair of one shape: A (rank x inputs) or B (outputs x rank).

    Args:
        factors: the live parameters.
        is_A: whether the rank is the first dimension.
    """

    def __init__(self, factors: Sequence[Tensor], is_A: bool) -> None:
        self.factors, self.is_A = list(factors), is_A
        first = self.factors[0]
        self.dtype = product_dtype(first, is_A)
        self._flat: Tensor | None = None
        self._places: list[int] = []
        self._gradients: Tensor | None = None
        self._size = max(1, _CHUNK["cpu" if first.device.type == "cpu" else "other"] // first.numel())
        # a factor of two pairs gets two changes, which in one chunk would overwrite each other
        tied = len({id(one) for one in self.factors}) < len(self.factors)
        self._one_by_one = tied or first.device.type in _SINGLE

    def _shared(self) -> Tensor | None:
        """Return all factors as one view where they lie one behind the other; checked anew, as `.data` may change."""
        places = [factor.data_ptr() for factor in self.factors]
        if self._flat is not None and places == self._places:  # the view keeps its memory, so nobody else got it
            return self._flat
        self._flat, self._places = None, places
        first, numel = self.factors[0], self.factors[0].numel()
        step, storage = numel * first.element_size(), first.untyped_storage().data_ptr()
        for index, factor in enumerate(self.factors):
            if factor.untyped_storage().data_ptr() != storage or places[index] != places[0] + index * step:
                return None
            if not factor.is_contiguous():
                return None
        size = (len(self.factors), *first.shape)
        self._flat = first.detach().as_strided(size, (numel, first.shape[1], 1))
        return self._flat

    def _chunks(self, *, copies: bool = False) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (begin, end, stack) over all factors; separate ones one by one on the CPU, unless copies are wanted."""
        flat = self._shared()
        size = 1 if flat is None and self._one_by_one and not copies else self._size
        for begin in range(0, len(self.factors), size):
            end = min(begin + size, len(self.factors))
            if flat is not None:
                yield begin, end, flat[begin:end]
            elif end - begin == 1:
                yield begin, end, self.factors[begin].detach()[None]
            else:
                yield begin, end, torch.stack([factor.detach() for factor in self.factors[begin:end]])

    def gram(self, out_K_R_R: Tensor) -> None:
        """Write the Gram matrix of every factor, r x r, summed in the dtype of the output or in blocks (CPU)."""
        rank, side = out_K_R_R.shape[-1], self.factors[0].shape[self.is_A]
        on_cpu = self.factors[0].device.type == "cpu"
        if on_cpu and self.dtype == torch.float32 and side >= _LONG and rank > _SMALL:
            for factor, place in zip(self.factors, out_K_R_R, strict=True):
                work = factor.detach().float()
                blockwise_gram(work if self.is_A else work.T, place)
            return
        for begin, end, stack in self._chunks(copies=True):
            wide = stack.to(out_K_R_R.dtype)
            left, right = (wide, wide.mT) if self.is_A else (wide.mT, wide)
            torch.bmm(left, right, out=out_K_R_R[begin:end])

    def weighted_gram(self, covariance_K: Sequence[Tensor], out_K_R_R: Tensor, reach_K_R_R: Tensor) -> None:
        """Write `A C A^T` and `A C^2 A^T` of every factor A."""
        for index, factor in enumerate(self.factors):
            A_R_I = factor.detach().to(out_K_R_R.dtype)
            AC_R_I = _weighted(A_R_I, covariance_K[index].to(out_K_R_R.dtype))
            torch.mm(AC_R_I, A_R_I.T, out=out_K_R_R[index])
            torch.mm(AC_R_I, AC_R_I.T, out=reach_K_R_R[index])

    def _product(self, stack: Tensor, matrices: Tensor, covariance_K: Sequence[Tensor] | None) -> Tensor:
        work = stack.to(self.dtype)
        if covariance_K is not None:
            work = torch.stack([_weighted(one, C.to(self.dtype)) for one, C in zip(work, covariance_K, strict=True)])
        return torch.bmm(matrices, work) if self.is_A else torch.bmm(work, matrices)

    def add_to_gradients(self, matrices_K_R_R: Tensor, covariance_K: Sequence[Tensor] | None = None) -> None:
        """Add `matrix @ A` or `B @ matrix` to `.grad` of every factor that requires it, creating it where it is None.

        New gradients live in a buffer that is kept, so that a training loop allocates nothing; the values of a `.grad`
        that somebody has put aside are overwritten in the next step.
        """
        if not any(factor.requires_grad for factor in self.factors):
            return
        matrices_K_R_R = matrices_K_R_R.to(self.dtype)
        first = self.factors[0]
        if self._gradients is None:
            self._gradients = torch.empty((len(self.factors), *first.shape), dtype=first.dtype, device=first.device)
        for begin, end, stack in self._chunks():
            factors, place = self.factors[begin:end], self._gradients[begin:end]
            matrices = matrices_K_R_R[begin:end]
            covariance = None if covariance_K is None else covariance_K[begin:end]
            plain = covariance is None and stack.dtype == self.dtype and all(one.requires_grad for one in factors)
            left, right = (matrices, stack) if self.is_A else (stack, matrices)
            if plain and all(factor.grad is None for factor in factors):
                torch.bmm(left, right, out=place)
                _take(factors, place)
            elif plain and all(_is(factor.grad, one) for factor, one in zip(factors, place, strict=True)):
                place.baddbmm_(left, right)
            else:
                self._add_one_by_one(factors, place, self._product(stack, matrices, covariance))

    @staticmethod
    def _add_one_by_one(factors: Sequence[Tensor], place: Tensor, change: Tensor) -> None:
        trainable = [index for index, factor in enumerate(factors) if factor.requires_grad]
        fresh = [index for index in trainable if factors[index].grad is None]
        old = [(gradient, change[i].to(gradient.dtype)) for i in trainable if (gradient := factors[i].grad) is not None]
        if old:
            torch._foreach_add_([gradient for gradient, _ in old], [added for _, added in old])
        for index in fresh:
            place[index].copy_(change[index])
            factors[index].grad = place[index]

    def add_to_factors(self, matrices_K_R_R: Tensor, covariance_K: Sequence[Tensor] | None = None) -> None:
        """Add `matrix @ A` or `B @ matrix` to every factor that requires a gradient."""
        matrices_K_R_R = matrices_K_R_R.to(self.dtype)
        for begin, end, stack in self._chunks():
            covariance = None if covariance_K is None else covariance_K[begin:end]
            change = self._product(stack, matrices_K_R_R[begin:end], covariance)
            for factor, one in zip(self.factors[begin:end], change, strict=True):
                if factor.requires_grad:
                    factor.detach().add_(one.to(factor.dtype))

    def multiply(self, matrices_K_R_R: Tensor) -> None:
        """Replace every factor that requires a gradient by `matrix @ A` or `B @ matrix`."""
        matrices_K_R_R = matrices_K_R_R.to(self.dtype)
        for begin, end, stack in self._chunks():
            for factor, one in zip(
                self.factors[begin:end], self._product(stack, matrices_K_R_R[begin:end], None), strict=True
            ):
                if factor.requires_grad:
                    factor.detach().copy_(one)


def _weighted(A_R_I: Tensor, covariance: Tensor) -> Tensor:
    return A_R_I * covariance if covariance.ndim == 1 else A_R_I @ covariance


def _is(gradient: Tensor | None, place: Tensor) -> bool:
    return gradient is not None and gradient.data_ptr() == place.data_ptr() and gradient.dtype == place.dtype


def _take(factors: Sequence[Tensor], place: Tensor) -> None:
    for factor, gradient in zip(factors, place.unbind(), strict=True):
        factor.grad = gradient


class Stacks:
    """The pairs of one rank on one device.

    Attributes:
        positions: of the pairs, in the order of every `_K` tensor here.
    """

    def __init__(self, pairs: Sequence[LoraPair], groups: Sequence[Sequence[int]]) -> None:
        self.positions = [position for group in groups for position in group]
        ordered = [pairs[position] for position in self.positions]
        self.ranges: list[tuple[int, int, Side, Side]] = []
        begin = 0
        for group in groups:
            end = begin + len(group)
            sides = Side([pairs[i].A_R_I for i in group], True), Side([pairs[i].B_O_R for i in group], False)
            self.ranges.append((begin, end, *sides))
            begin = end
        self.device = ordered[0].A_R_I.device
        # devices without float64 do with float32: smaller singular values are noise there
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.scale_K = torch.tensor([pair.scale for pair in ordered], dtype=self.dtype, device=self.device)
        counts = [float(min(*pair.A_R_I.shape, pair.B_O_R.shape[0])) for pair in ordered]
        self.count_K = torch.tensor(counts, dtype=self.dtype, device=self.device)
        rank = ordered[0].rank
        self._grams = torch.empty((2, len(ordered), rank, rank), dtype=self.dtype, device=self.device)
        self._sides = [A for _, _, A, _ in self.ranges], [B for _, _, _, B in self.ranges]
        self._flags: list[list[bool]] = []
        self._trained_2_K = torch.empty(0)

    def _trained(self) -> tuple[Tensor, Tensor]:
        """Return 1 for each trained and 0 for each frozen A, and the same of B; nothing is copied but changes."""
        flags = [[one.requires_grad for side in sides for one in side.factors] for sides in self._sides]
        if flags != self._flags:
            self._flags = flags
            self._trained_2_K = torch.tensor(flags, dtype=self.dtype, device=self.device)
        trained_A_K, trained_B_K = self._trained_2_K
        return trained_A_K, trained_B_K

    def grams(self, covariance_K: Sequence[Tensor] | None = None) -> Grams:
        """Return the Gram matrices of all pairs, those of A weighted by the inputs' covariances if given."""
        A_K_R_R, B_K_R_R = self._grams
        reach_K_R_R = A_K_R_R if covariance_K is None else torch.empty_like(A_K_R_R)
        for begin, end, A, B in self.ranges:
            B.gram(B_K_R_R[begin:end])
            if covariance_K is None:
                A.gram(A_K_R_R[begin:end])
            else:
                A.weighted_gram(covariance_K[begin:end], A_K_R_R[begin:end], reach_K_R_R[begin:end])
        return Grams(A_K_R_R, B_K_R_R, self.scale_K, self.count_K, reach_K_R_R, *self._trained())

    def each(self, act: Callable[[Side, slice], None]) -> None:
        """Call `act(side, slice of the K pairs)` for every A and every B."""
        for begin, end, A, B in self.ranges:
            act(A, slice(begin, end))
            act(B, slice(begin, end))


def stacks_of(pairs: Sequence[LoraPair]) -> list[Stacks]:
    """Return the pairs as stacks, one for each rank and device."""
    alike: dict[tuple[object, ...], list[list[int]]] = {}
    for group in _alike(pairs):
        first = pairs[group[0]]
        alike.setdefault((first.rank, first.A_R_I.device), []).append(group)
    return [Stacks(pairs, groups) for groups in alike.values()]


def _alike(pairs: Sequence[LoraPair]) -> list[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, (_, A_R_I, B_O_R, _) in enumerate(pairs):
        key = (A_R_I.shape, B_O_R.shape, A_R_I.dtype, B_O_R.dtype, A_R_I.device)
        groups.setdefault(key, []).append(position)
    return list(groups.values())


@torch.no_grad()
def flatten_storage(pairs: Sequence[LoraPair]) -> None:
    """Move the factors of live pairs into one block of memory for each shape; names, values and identity stay.

    The penalty then reads and writes views instead of single factors, about 1.3 times as fast on a CPU and with a
    few kernels instead of hundreds on a GPU. Call it after the adapter is in place (and on its device) and before the
    optimiser, DDP or a CUDA graph look at the parameters. `model.to(...)` undoes it; nothing breaks then.

    Args:
        pairs: live pairs, as `pairs_from_model` returns them.

    Raises:
        AdapterError: a factor that belongs to two pairs.
    """
    factors = [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]
    if len({id(factor) for factor in factors}) < len(factors):
        raise AdapterError("a factor is used by two pairs, accepted: every factor once (tied factors stay separate)")
    for group in _alike(pairs):
        for side in ([pairs[i].A_R_I for i in group], [pairs[i].B_O_R for i in group]):
            for factor, view in zip(side, torch.stack(side).unbind(), strict=True):
                factor.data = view
