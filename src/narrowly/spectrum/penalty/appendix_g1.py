"""Compute the penalty by the paper's own route (Appendix G.1): Cholesky of B^T B, SVD of L^T A, autograd.

Kept because its jitter changes what happens while B is tiny. It needs solvers and waits for the device, so it is no
faster than it looks; `gram` is the form to train with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from narrowly.records.errors import TrainingError
from narrowly.spectrum.pairs import LoraPair, check_pairs
from narrowly.spectrum.penalty.precision import float32_products
from narrowly.spectrum.values import (
    G1_LIMIT,
    ZERO_UPDATE,
    g1_values,
    shape_groups,
    stack_pairs,
    working_dtype,
)


def ratios_and_gradients(pairs: Sequence[LoraPair]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return F/N - 1/sqrt(c) of every pair, c its number of singular values, and its gradients by A and B.

    Pairs whose A or B has a Frobenius norm below 1e-12 give 0 and zero gradients, as in the paper.

    Raises:
        AdapterError: a factor is NaN or infinite; names the module.
        TrainingError: the factorisation failed, because a B has deficient rank.
    """
    ratios: dict[int, Tensor] = {}
    gradients: dict[int, tuple[Tensor, Tensor]] = {}
    for positions in shape_groups(pairs):
        group = [pairs[position] for position in positions]
        ratio_K, grad_A_K_R_I, grad_B_K_O_R = _of_one_shape(group)
        ratios.update(zip(positions, ratio_K, strict=True))
        gradients.update(zip(positions, zip(grad_A_K_R_I, grad_B_K_O_R, strict=True), strict=True))
    device = pairs[0].A_R_I.device
    every = torch.stack([ratios[position].to(device) for position in range(len(pairs))])
    return every, [gradients[position] for position in range(len(pairs))]


def seed_gradients(pairs: Sequence[LoraPair], weight: float) -> Tensor:
    """Add `weight` times the gradient of each ratio to the `.grad` of its factors; return the mean ratio.

    Raises:
        AdapterError, TrainingError: as `ratios_and_gradients`.
    """
    ratio_K, gradients = ratios_and_gradients(pairs)
    if weight != 0.0:
        for pair, by_factor in zip(pairs, gradients, strict=True):
            for factor, gradient in zip((pair.A_R_I, pair.B_O_R), by_factor, strict=True):
                if factor.requires_grad:
                    change = (gradient * weight).to(factor.dtype)
                    factor.grad = change if factor.grad is None else factor.grad.add_(change)
    return ratio_K.mean()


def _of_one_shape(group: Sequence[LoraPair]) -> tuple[Tensor, Tensor, Tensor]:
    A_K_R_I, B_K_O_R = stack_pairs(group, working_dtype(group[0].A_R_I, group[0].B_O_R))
    norms_K = torch.minimum(torch.linalg.matrix_norm(A_K_R_I), torch.linalg.matrix_norm(B_K_O_R))
    active = (~(norms_K < ZERO_UPDATE)).nonzero()[:, 0]  # NaN counts as active, so that it is not hidden
    ratio_K = A_K_R_I.new_zeros(len(group))
    grad_A_K_R_I, grad_B_K_O_R = torch.zeros_like(A_K_R_I), torch.zeros_like(B_K_O_R)
    if len(active):
        with float32_products(A_K_R_I.device), torch.enable_grad():
            A, B = A_K_R_I[active].requires_grad_(), B_K_O_R[active].requires_grad_()
            try:
                S_K_C = g1_values(A, B)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch types no C errors
                check_pairs(group)  # names the module, if a factor is NaN
                raise TrainingError(f"the spectral penalty has no value: {G1_LIMIT}; the form gram has none") from error
            ratio = torch.linalg.vector_norm(S_K_C, dim=-1) / S_K_C.sum(-1) - 1 / math.sqrt(S_K_C.shape[-1])
            # pairs do not share factors, so the gradient of the sum holds each pair's own
            grad_A_K_R_I[active], grad_B_K_O_R[active] = torch.autograd.grad(ratio.sum(), (A, B))
        ratio_K[active] = ratio.detach()
    return ratio_K, grad_A_K_R_I, grad_B_K_O_R
