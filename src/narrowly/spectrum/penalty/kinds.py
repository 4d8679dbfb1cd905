"""Compute the penalties from two Gram matrices: value, and gradient in the coordinates of the factors.

Let `M = s B A` be an update of rank r, `G_A = A A^T`, `G_B = B^T B` and `P = s^2 G_A G_B`. The eigenvalues of P are the
squared singular values of M, and its trace is `F^2`, F the Frobenius norm. A penalty that depends on singular
values alone is a function of P; if `H` is its derivative, `d value = tr(H dP)`, then `H G_A` and `G_B H` are symmetric
and the gradients by the factors are

    by B: B X,  X = 2 s^2 H G_A        by A: Y A,  Y = 2 s^2 G_B H.

So value and gradient cost two Gram matrices, some r x r products and one product per factor; nothing of the size of M
is ever formed and no solver runs. With the unit-trace `N = P / F^2`, shapes are functions of N alone (scale-free) and
norms are F times one. Square roots are smoothed: `N + eps^2 I` with `eps = 1e-4` in the place of N, so that values and
gradients are finite where singular values are 0 or repeated; singular values below about 1e-4 F count as that.
The formulas for Frobenius/nuclear follow from `N_eps = F tr (N + eps^2 I)^(1/2)`; the rest was derived in the same way,
and the tests hold each against autograd through a dense SVD in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from narrowly.spectrum.matrix_functions import (
    identity_like,
    largest_eigenvalue,
    logarithm,
    root_and_inverse_root,
    trace,
)
from narrowly.spectrum.values import ZERO_UPDATE

EPS = 1e-4
"""Floor of a singular value in units of the Frobenius norm. 1e-3 would cost 1.2e-3 of the ratio at a span of 1e3."""


class Grams(NamedTuple):
    """What a penalty sees of K pairs of one rank."""

    A_K_R_R: Tensor
    """A A^T, or A C A^T where the inputs' covariance C weights the update."""
    B_K_R_R: Tensor
    scale_K: Tensor
    count_K: Tensor
    """Singular values that can differ from 0: min(rank, outputs, inputs)."""
    reach_K_R_R: Tensor
    """Gram of what Y multiplies: A A^T, or A C^2 A^T."""
    trained_A_K: Tensor
    """1 where the factor requires a gradient, 0 where it is frozen."""
    trained_B_K: Tensor


class Penalised(NamedTuple):
    """Value of each pair, and the r x r matrices that give its gradients `B X` and `Y A`."""

    value_K: Tensor
    X_K_R_R: Tensor
    Y_K_R_R: Tensor


class _Local(NamedTuple):
    """Value as a function of N, and its derivative D: `d value = tr(D dN)`."""

    value_K: Tensor
    D_K_R_R: Tensor


def _wide(values_K: Tensor) -> Tensor:
    return values_K[:, None, None]


def _nuclear(N_K_R_R: Tensor, count_K: Tensor) -> _Local:
    """Return nuclear over Frobenius norm, `tr (N + eps^2 I)^(1/2)`, without the floor's share of directions M lacks."""
    root_K_R_R, inverse_K_R_R = root_and_inverse_root(N_K_R_R, EPS)
    lacking_K = N_K_R_R.shape[-1] - count_K
    return _Local(trace(root_K_R_R) - EPS * lacking_K, inverse_K_R_R / 2)


def _frobenius_nuclear(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    nuclear_K, D_K_R_R = _nuclear(N_K_R_R, count_K)
    return _Local(1 / nuclear_K - count_K.rsqrt(), D_K_R_R * _wide(-(nuclear_K**-2)))


def _spectral_entropy(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    """Return `ln c - H(p)` with `p_i = s_i / sum s`: 0 for a flat spectrum, ln c for rank one."""
    # sum of the s_i and sum of the s_i ln s_i, of which H(p) is made
    root_K_R_R, inverse_K_R_R = root_and_inverse_root(N_K_R_R, EPS)
    log_K_R_R = logarithm(N_K_R_R, EPS) / 2  # of the root
    lacking_K = N_K_R_R.shape[-1] - count_K  # directions that M lacks sit at the floor and are taken out
    sum_K = trace(root_K_R_R) - EPS * lacking_K
    moment_K = trace(root_K_R_R @ log_K_R_R) - EPS * math.log(EPS) * lacking_K
    # derivative by the root of N + eps^2 I, then by N
    one_R_R = identity_like(N_K_R_R)
    by_root_K_R_R = log_K_R_R / _wide(sum_K) - _wide(moment_K / sum_K**2) * one_R_R
    return _Local(moment_K / sum_K - sum_K.log() + count_K.log(), by_root_K_R_R @ inverse_K_R_R / 2)


def _condition_number(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    """Return `ln(s_1 / s_r)`: half the logarithm of the largest eigenvalue of N + eps^2 I times its inverse's."""
    one_R_R = identity_like(N_K_R_R)
    _, inverse_K_R_R = root_and_inverse_root(N_K_R_R, EPS)
    square_K_R_R = inverse_K_R_R @ inverse_K_R_R
    # the chain rule for the inverse: d (N^-1) = -N^-1 dN N^-1
    top_K, top_D_K_R_R = largest_eigenvalue(N_K_R_R + EPS**2 * one_R_R)
    low_K, low_D_K_R_R = largest_eigenvalue(square_K_R_R)
    D_K_R_R = top_D_K_R_R / _wide(2 * top_K) - square_K_R_R @ low_D_K_R_R @ square_K_R_R / _wide(2 * low_K)
    return _Local((top_K.log() + low_K.log()) / 2, D_K_R_R)


def _stable_rank(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    """Return `max(0, 1 - stable rank / target)`, where the stable rank is 1 over the largest eigenvalue of N."""
    top_K, D_K_R_R = largest_eigenvalue(N_K_R_R)
    value_K = 1 - 1 / (top_K * target)
    short_K = value_K > 0
    return _Local(
        torch.where(short_K, value_K, 0.0), D_K_R_R * _wide(torch.where(short_K, 1 / (top_K**2 * target), 0.0))
    )


def _spectral_norm(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    top_K, D_K_R_R = largest_eigenvalue(N_K_R_R)
    return _Local(top_K.sqrt(), D_K_R_R / _wide(2 * top_K.sqrt()))


def _nuclear_norm(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    return _nuclear(N_K_R_R, count_K)


def _norm_only(N_K_R_R: Tensor, count_K: Tensor, target: float) -> _Local:
    return _Local(torch.ones_like(count_K), torch.zeros_like(N_K_R_R))


SHAPES: dict[str, Callable[[Tensor, Tensor, float], _Local]] = {
    "frobenius_nuclear": _frobenius_nuclear,
    "norm_held": _frobenius_nuclear,
    "functional": _frobenius_nuclear,
    "spectral_entropy": _spectral_entropy,
    "condition_number": _condition_number,
    "stable_rank": _stable_rank,
}
"""Scale-free penalties: their gradient grows as 1 / |M|."""

NORMS: dict[str, Callable[[Tensor, Tensor, float], _Local]] = {
    "spectral_norm": _spectral_norm,
    "nuclear_norm": _nuclear_norm,
    "norm_only": _norm_only,
}
"""Penalties of the scale of M: they shrink it."""


def penalise(kind: str, grams: Grams, target: float = 0.0) -> Penalised:
    """Return value and gradient coordinates of K pairs; pairs of zero update (F <= 1e-12) get 0 and 0.

    Args:
        kind: a name of `SHAPES` or `NORMS`.
        grams: in float64, except where the device has none; A may be weighted by the inputs' covariance.
        target: the stable rank at which `stable_rank` stops to push; ignored by the others.
    """
    # P and its trace F^2
    scale2_K = grams.scale_K**2
    P_K_R_R = grams.A_K_R_R @ grams.B_K_R_R * _wide(scale2_K)
    one_R_R = identity_like(P_K_R_R)
    square_K = trace(P_K_R_R)
    active_K = ~(square_K <= ZERO_UPDATE**2)  # NaN counts as active, so that it is not hidden
    # an inactive pair takes the place of a flat one, so that no NaN arises that would have to be masked
    square_K = torch.where(active_K, square_K, 1.0)
    N_K_R_R = torch.where(_wide(active_K), P_K_R_R / _wide(square_K), one_R_R / P_K_R_R.shape[-1])
    # H by the chain rule through N = P / F^2, for a function of N and for F times one
    if kind in SHAPES:
        value_K, D_K_R_R = SHAPES[kind](N_K_R_R, grams.count_K, target)
        H_K_R_R = (D_K_R_R - _wide(trace(D_K_R_R @ N_K_R_R)) * one_R_R) / _wide(square_K)
    else:
        local_K, D_K_R_R = NORMS[kind](N_K_R_R, grams.count_K, target)
        norm_K = square_K.sqrt()
        value_K = norm_K * local_K
        H_K_R_R = (D_K_R_R + _wide(local_K / 2 - trace(D_K_R_R @ N_K_R_R)) * one_R_R) / _wide(norm_K)
    # X and Y of the module's docstring
    H_K_R_R = torch.where(_wide(active_K), H_K_R_R * _wide(2 * scale2_K), 0.0)
    X_K_R_R, Y_K_R_R = H_K_R_R @ grams.A_K_R_R, grams.B_K_R_R @ H_K_R_R
    if kind == "norm_held":
        X_K_R_R, Y_K_R_R = _without_growth(X_K_R_R, Y_K_R_R, grams)
    return Penalised(torch.where(active_K, value_K, 0.0), X_K_R_R, Y_K_R_R)


def squared_gradient_norm(penalised: Penalised, grams: Grams) -> Tensor:
    """Return the squared norm of the gradients of each pair's trained factors: `tr(X^T G_B X) + tr(Y G_A Y^T)`."""
    X_K_R_R, Y_K_R_R = penalised.X_K_R_R, penalised.Y_K_R_R
    by_B_K = (X_K_R_R * (grams.B_K_R_R @ X_K_R_R)).sum((-1, -2))
    by_A_K = (Y_K_R_R * (Y_K_R_R @ grams.reach_K_R_R)).sum((-1, -2))
    return by_B_K * grams.trained_B_K + by_A_K * grams.trained_A_K


def _without_growth(X_K_R_R: Tensor, Y_K_R_R: Tensor, grams: Grams) -> tuple[Tensor, Tensor]:
    """Remove from the gradient of a pair's trained factors its part along that of F^2, (B G_A, G_B A) up to a factor.

    A scale-free value has no slope along M, but a gradient step on the two factors moves M by more than the gradient
    with respect to M, and its norm changes to first order; what is left after this projection changes it to second.
    """
    A_K_R_R, B_K_R_R = grams.A_K_R_R, grams.B_K_R_R
    # inner products tr(X^T G_B ...) and tr(... G_A Y^T): slope of the value along the gradient of F^2, and its length
    along_B_K_R_R, along_A_K_R_R = B_K_R_R @ A_K_R_R, A_K_R_R @ B_K_R_R
    by_B_K, by_A_K = grams.trained_B_K, grams.trained_A_K
    slope_K = by_B_K * (X_K_R_R * along_B_K_R_R).sum((-1, -2)) + by_A_K * (Y_K_R_R * along_A_K_R_R.mT).sum((-1, -2))
    length_K = by_B_K * (A_K_R_R * along_B_K_R_R).sum((-1, -2)) + by_A_K * (B_K_R_R * along_A_K_R_R.mT).sum((-1, -2))
    share_K = torch.where(length_K > 0, slope_K / torch.where(length_K > 0, length_K, 1.0), 0.0)
    return X_K_R_R - _wide(share_K) * A_K_R_R, Y_K_R_R - _wide(share_K) * B_K_R_R


def flattener(grams: Grams, strength: float) -> Tensor:
    """Return the r x r matrices C with which `B C` in the place of B flattens each spectrum at a fixed Frobenius norm.

    `s B C A` has the singular vectors of M and the singular values `(1 - t) s_i + t F / sqrt(c)`, rescaled to the norm
    F of before; `C = (1 - t) I + t (N + eps^2 I)^(-1/2) / sqrt(c)` up to that scale. A pair of zero update keeps B.

    Args:
        grams: of the pairs.
        strength: t in [0, 1]; 1 makes singular values equal, as far as they were above 1e-4 F.
    """
    P_K_R_R = grams.A_K_R_R @ grams.B_K_R_R
    one_R_R = identity_like(P_K_R_R)
    square_K = trace(P_K_R_R)
    active_K = ~(square_K * grams.scale_K**2 <= ZERO_UPDATE**2)
    square_K = torch.where(active_K, square_K, 1.0)
    N_K_R_R = torch.where(_wide(active_K), P_K_R_R / _wide(square_K), one_R_R / P_K_R_R.shape[-1])
    # the flatter core, then the scale that brings |B C A|_F back to F
    _, inverse_K_R_R = root_and_inverse_root(N_K_R_R, EPS)
    core_K_R_R = (1 - strength) * one_R_R + strength * inverse_K_R_R * _wide(grams.count_K.rsqrt())
    after_K = trace(grams.A_K_R_R @ core_K_R_R.mT @ grams.B_K_R_R @ core_K_R_R)
    core_K_R_R = core_K_R_R * _wide((square_K / torch.where(active_K, after_K, 1.0)).sqrt())
    return torch.where(_wide(active_K), core_K_R_R, one_R_R)
