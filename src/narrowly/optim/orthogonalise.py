"""Compute the polar factor U V^T of a matrix, approximately or exactly, from its small Gram matrix alone.

Every iterate of Newton-Schulz on an r x n matrix X is `p(G) X`, a polynomial of the r x r matrix `G = X X^T` times X.
So only r x r matrices are iterated, in float64 where the condition asks for it, and X is multiplied once, at the end
(Gram Newton-Schulz; Zhang et al., Dao-AILab, 2026). A tall matrix is its wide transpose: `X p(G)` with `G = X^T X`.

Named, because a study of flat spectra must not mix them up. Of singular values above 1 % of the Frobenius norm, five
steps of Newton-Schulz leave .68-1.20, five of Polar Express .85-1.12, six .99-1.00; `exact` is 1 up to rounding. Below
that Newton-Schulz lifts less and less (.47 at .1 %).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from narrowly.records.errors import unknown_name
from narrowly.records.optimisers.muon import Orthogonaliser
from narrowly.spectrum.matrix_functions import (
    POLAR_EXPRESS,
    POLISH,
    Triple,
    blockwise_gram,
    identity_like,
    trace,
)

NEWTON_SCHULZ: Triple = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of Jordan et al. (2024), the default of torch.optim.Muon."""

_SAFETY = 1.01
"""Safety factor of Polar Express as published (Amsel et al., arXiv 2505.16932)."""

RANK_FLOOR = 1e-6
"""`exact` leaves out singular values below this share of the largest: float32 rounding of X lies at 1e-7."""

_SHORT, _LONG = 16, 1024
"""Rank and length from which sums in blocks of float32 are good enough: over fewer entries rounding averages less."""


def check_orthogonaliser(name: str) -> None:
    """Check the name of an orthogonaliser.

    Raises:
        UnknownNameError: one that does not exist.
    """
    if name not in get_args(Orthogonaliser):
        raise unknown_name("orthogonaliser", name, get_args(Orthogonaliser))


def coefficients(method: Literal["newton_schulz5", "polar_express"], steps: int) -> list[Triple]:
    """Return the (a, b, c) of each iteration X <- a X + b (X X^T) X + c (X X^T)^2 X."""
    if method == "newton_schulz5":
        return [NEWTON_SCHULZ] * steps
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in POLAR_EXPRESS]
    return (safe + [POLISH] * steps)[:steps]


def gram(stack: Tensor, precise: bool = True) -> Tensor:
    """Return the Gram matrix of the short side of each matrix of a stack, in float64.

    A Gram matrix squares the condition: summed in float32 it knows nothing of singular values below 3e-4 of the
    largest.

    Args:
        stack: (matrices, rows, columns), float32 or float64.
        precise: sum every product in float64; else, on a CPU, long sums over many rows in blocks of float32, which is
            as good for Newton-Schulz and Polar Express and twice as fast.

    Returns:
        (matrices, r, r) with r the smaller of rows and columns.
    """
    rank = min(stack.shape[-2:])
    if stack.device.type != "cpu":
        return small_side_product(stack.double())
    gram_K_R_R = torch.empty(len(stack), rank, rank, dtype=torch.float64)
    for X, out_R_R in zip(stack, gram_K_R_R, strict=True):
        write_gram(X, precise, out_R_R)
    return gram_K_R_R


def write_gram(X: Tensor, precise: bool, out_R_R: Tensor) -> None:
    """Write the Gram matrix of the short side of one matrix on the CPU, as `gram`, into a float64 matrix."""
    rank, length = sorted(X.shape)
    if precise or X.dtype == torch.float64 or rank < _SHORT or length < _LONG:
        small_side_product(X.double(), out=out_R_R)
    else:
        blockwise_gram(X if X.shape[0] <= X.shape[1] else X.T, out_R_R, shorter=2)


def small_side_product(X: Tensor, out: Tensor | None = None) -> Tensor:
    """Return X X^T of a wide matrix or stack, X^T X of a tall one."""
    one, other = (X, X.mT) if X.shape[-2] <= X.shape[-1] else (X.mT, X)
    return torch.matmul(one, other, out=out)


def polar_of_gram(gram_K_R_R: Tensor, method: Orthogonaliser, steps: int, eps: float) -> Tensor:
    """Return the r x r matrices Q with `Q X` (wide X) or `X Q` (tall X) the polar factor of X.

    Args:
        gram_K_R_R: Gram matrices of the short sides, from `gram`.
        method: newton_schulz5, polar_express (matrix products only) or exact (an eigenvalue solver).
        steps: iterations of the first two, at least 1; ignored by exact.
        eps: smallest Frobenius norm of X to divide by; the zero matrix stays zero.
    """
    # by the Frobenius norm, so that singular values lie in [0, 1], where the polynomials converge
    norm_K = trace(gram_K_R_R).sqrt().clamp(min=eps)[:, None, None]
    G_K_R_R = gram_K_R_R / norm_K.square()
    if method == "exact":
        # G = V diag(s^2) V^T, and Q = V diag(1 / s) V^T without the directions that are rounding
        values_K_R, vectors_K_R_R = torch.linalg.eigh(G_K_R_R.double())
        floor_K = RANK_FLOOR**2 * values_K_R[:, -1:].clamp(min=torch.finfo(values_K_R.dtype).tiny)
        weights_K_R = torch.where(values_K_R > floor_K, values_K_R.clamp(min=floor_K).rsqrt(), 0.0)
        polar_K_R_R: Tensor = (vectors_K_R_R * weights_K_R[:, None, :]) @ vectors_K_R_R.mT
        return polar_K_R_R / norm_K
    # each iterate is X <- h X with h = a I + b G + c G^2 and G <- h G h; Q is the product of all h
    first, *rest = coefficients(method, steps)
    h_K_R_R = _quintic(G_K_R_R, first)
    Q_K_R_R = h_K_R_R
    for triple in rest:
        G_K_R_R = h_K_R_R @ (G_K_R_R @ h_K_R_R)
        h_K_R_R = _quintic(G_K_R_R, triple)
        Q_K_R_R = h_K_R_R @ Q_K_R_R
    return Q_K_R_R / norm_K


def _quintic(G_K_R_R: Tensor, triple: Triple) -> Tensor:
    a, b, c = triple
    return torch.baddbmm(G_K_R_R, G_K_R_R, G_K_R_R, beta=b, alpha=c).add_(identity_like(G_K_R_R), alpha=a)


@torch.no_grad()
def orthogonalise(stack: Tensor, method: Orthogonaliser, steps: int, eps: float) -> Tensor:
    """Return the polar factor of each matrix of a stack.

    Args:
        stack: (matrices, rows, columns), any float dtype; computed and returned in float32 (float64 stays).
        method: newton_schulz5, polar_express or exact.
        steps: iterations of the first two, at least 1; ignored by exact.
        eps: smallest Frobenius norm to divide by; the zero matrix stays zero.

    Returns:
        A stack of the same shape. Directions with a singular value at rounding level are noise in the first two.
    """
    X = stack if stack.dtype == torch.float64 else stack.float()
    with torch.autocast(device_type=X.device.type, enabled=False):
        Q_K_R_R = polar_of_gram(gram(X, method == "exact"), method, steps, eps).to(X.dtype)
        return Q_K_R_R @ X if X.shape[-2] <= X.shape[-1] else X @ Q_K_R_R
