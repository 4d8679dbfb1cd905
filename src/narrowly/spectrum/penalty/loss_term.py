"""Make the penalty a term of a loss: a scalar with a gradient, for loops without accumulation and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from narrowly.records.errors import unknown_name
from narrowly.spectrum.pairs import LoraPair, check_pairs
from narrowly.spectrum.penalty.kinds import NORMS, SHAPES, penalise
from narrowly.spectrum.penalty.precision import float32_products
from narrowly.spectrum.penalty.stacks import product_dtype, stacks_of


def spectral_penalty(pairs: Sequence[LoraPair], kind: str = "frobenius_nuclear", *, target: float = 0.0) -> Tensor:
    """Return the mean penalty of live pairs as a scalar that can be added to a loss and differentiated once.

    Computed outside autocast. A pair whose update is zero (|sBA|_F <= 1e-12) contributes value 0 and gradient 0. Do not
    add it to a micro-batch loss under gradient accumulation, where it would count once per micro-batch: use
    `SpectralPenalty` there.

    Args:
        pairs: at least one pair; gradients reach those factors that require them.
        kind: a kind that is a function of the factors alone (not functional, not project).
        target: of stable_rank.

    Raises:
        UnknownNameError: another kind.
        AdapterError: no pairs, or a factor that is NaN or infinite; the message names the module.
    """
    accepted = sorted({*SHAPES, *NORMS} - {"functional"})
    if kind not in accepted:
        raise unknown_name("penalty of factors", kind, accepted)
    flat = [tensor for pair in check_pairs(pairs) for tensor in (pair.A_R_I, pair.B_O_R)]
    scales = [pair.scale for pair in pairs]
    penalty: Tensor = _Penalty.apply(kind, target, scales, *flat)  # type: ignore[no-untyped-call]  # torch's
    return penalty


class _Penalty(torch.autograd.Function):
    """Autograd around the closed form: forward keeps r x r matrices, backward multiplies them with the factors."""

    @staticmethod
    def forward(ctx: Any, kind: str, target: float, scales: list[float], *flat: Tensor) -> Tensor:
        pairs = [LoraPair("", flat[2 * i], flat[2 * i + 1], scale) for i, scale in enumerate(scales)]
        ctx.by_position, values = {}, []
        for stacks in stacks_of(pairs):
            with float32_products(stacks.device):
                value_K, X_K_R_R, Y_K_R_R = penalise(kind, stacks.grams(), target)
            values.append(value_K.sum().to(flat[0].device))
            ctx.by_position.update(zip(stacks.positions, zip(X_K_R_R, Y_K_R_R, strict=True), strict=True))
        ctx.save_for_backward(*flat)
        mean = torch.stack(values).sum() / len(pairs)
        return mean if all(one.dtype == torch.float64 for one in flat) else mean.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        flat = ctx.saved_tensors
        gradients: list[Tensor] = []
        for position, (A_R_I, B_O_R) in enumerate(zip(flat[::2], flat[1::2], strict=True)):
            X_R_R, Y_R_R = ctx.by_position[position]
            with float32_products(A_R_I.device):
                weight = grad_output.to(X_R_R.device, X_R_R.dtype) / (len(flat) // 2)
                for factor, matrix, is_A in ((A_R_I, Y_R_R, True), (B_O_R, X_R_R, False)):
                    work = product_dtype(factor, is_A)
                    left, right = (matrix * weight, factor) if is_A else (factor, matrix * weight)
                    gradients.append((left.to(work) @ right.to(work)).to(factor.dtype))
        return None, None, None, *gradients
