"""Compute functions of small matrices by matrix products alone, and Gram matrices that keep digits.

The functions take a stack of r x r matrices with real eigenvalues in [0, 1]: symmetric positive semidefinite ones, or
products `G H` of two such, which are similar to one. A polynomial or rational function of such a product is the same
function of its eigenvalues, so neither needs to be made symmetric first. float64 is meant: the matrices are small, and
a Gram matrix squares the condition of its factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Triple = tuple[float, float, float]

POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
"""(a, b, c) of the odd quintics x (a + b x^2 + c x^4), each the best next one on [1e-3, 1] (arXiv 2505.16932)."""

POLISH: Triple = (1.875, -1.25, 0.375)
"""The Pade-like quintic that Polar Express tends to; it converges cubically near 1."""

ROOT_STEPS: tuple[Triple, ...] = (*POLAR_EXPRESS[:5], *[POLISH] * 6)
"""Eleven steps: relative error of the inverse root below 1e-7 for eigenvalues of at least 1e-8 (measured)."""

TOP_SQUARINGS = 8
"""Squarings of `largest_eigenvalue`: the 256-norm of the eigenvalues, at most ln(r) / 256 (1.4 % at r 32) high."""


def trace(stack_K_R_R: Tensor) -> Tensor:
    """Return the trace of each matrix of a stack."""
    return stack_K_R_R.diagonal(dim1=-2, dim2=-1).sum(-1)


def identity_like(stack_K_R_R: Tensor) -> Tensor:
    """Return the r x r identity with dtype and device of a stack."""
    return torch.eye(stack_K_R_R.shape[-1], dtype=stack_K_R_R.dtype, device=stack_K_R_R.device)


def root_and_inverse_root(
    P_K_R_R: Tensor, eps: float = 0.0, steps: Sequence[Triple] = ROOT_STEPS
) -> tuple[Tensor, Tensor]:
    """Return `(P + eps^2 I)^(1/2)` and `(P + eps^2 I)^(-1/2)` of each matrix of a stack.

    The coupled iteration `E = Z Y`, `h = a I + b E + c E^2`, `Y <- Y h`, `Z <- h Z` from `Y = P + eps^2 I`, `Z = I`
    drives Y to the root and Z to its inverse (Higham, Functions of Matrices, 2008, section 6.7,
    with the quintics of Polar Express, under which small eigenvalues grow quickly).

    Args:
        P_K_R_R: (K, r, r), eigenvalues in [0, 1].
        eps: floor in units of the root, 1e-4 for an inverse root that is at most 1e4.
        steps: quintics to apply.

    Returns:
        Two stacks of the same shape. Eigenvalues below 1e-8 have not converged: their inverse root is smaller than
        it should be, never larger, so the result stays finite for eigenvalues that are 0.
    """
    one_R_R = identity_like(P_K_R_R)
    Y_K_R_R = P_K_R_R + eps**2 * one_R_R
    Z_K_R_R = one_R_R.expand_as(P_K_R_R)
    for index, (a, b, c) in enumerate(steps):
        E_K_R_R = Y_K_R_R if index == 0 else Z_K_R_R @ Y_K_R_R
        h_K_R_R = torch.baddbmm(E_K_R_R, E_K_R_R, E_K_R_R, beta=b, alpha=c)
        h_K_R_R.diagonal(dim1=-2, dim2=-1).add_(a)
        Y_K_R_R, Z_K_R_R = Y_K_R_R @ h_K_R_R, h_K_R_R if index == 0 else h_K_R_R @ Z_K_R_R
    return Y_K_R_R, Z_K_R_R


_LOG_ROOTS = 6
_LOG_TERMS = 16


def logarithm(P_K_R_R: Tensor, eps: float = 0.0) -> Tensor:
    """Return `ln(P + eps^2 I)` of each matrix of a stack, by inverse scaling and squaring.

    Six square roots take eigenvalues from [1e-8, 1] to [.75, 1], where 16 terms of the Mercator series leave 1e-11;
    the logarithm is 64 times that of the sixth root (Higham 2008, section 11.5, with products instead of a solver).

    Args:
        P_K_R_R: (K, r, r), eigenvalues in [0, 1].
        eps: floor in units of the square root, above 0 where eigenvalues may be 0.

    Returns:
        A stack of the same shape, eigenvalues at least 2 ln(eps).
    """
    one_R_R = identity_like(P_K_R_R)
    Y_K_R_R = P_K_R_R + eps**2 * one_R_R
    for index in range(_LOG_ROOTS):
        # the first two roots take 1e-8 to .01, from where fewer steps converge
        Y_K_R_R, _ = root_and_inverse_root(Y_K_R_R, steps=ROOT_STEPS if index < 2 else ROOT_STEPS[-7:])
    X_K_R_R = one_R_R - Y_K_R_R
    series_K_R_R = torch.zeros_like(X_K_R_R)
    for term in range(_LOG_TERMS, 0, -1):  # Horner: ln(I - X) = -X (1 + X (1/2 + X (1/3 + ...)))
        series_K_R_R = one_R_R / term + X_K_R_R @ series_K_R_R
    logarithm_K_R_R: Tensor = X_K_R_R @ series_K_R_R * -(2.0**_LOG_ROOTS)
    return logarithm_K_R_R


def largest_eigenvalue(P_K_R_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return a smooth largest eigenvalue of each matrix and its derivative D, `d value = tr(D dP)`.

    It is the 256-norm of the eigenvalues, `(tr P^256)^(1/256)`, by eight squarings: never below the largest eigenvalue
    and at most r^(1/256) times it. Its derivative `(P / value)^255` has trace at most 1.02 and is shared between
    eigenvalues that (nearly) coincide, where the largest eigenvalue itself has no derivative.

    Args:
        P_K_R_R: (..., r, r), eigenvalues in [0, 1], not all 0 (zeros give NaN; the caller masks them).

    Returns:
        Values (...) and derivatives (..., r, r).
    """
    scale_K = trace(P_K_R_R)  # an upper bound of the largest eigenvalue; every power below stays in range
    power_K_R_R = P_K_R_R / scale_K[..., None, None]
    below_K_R_R, log_K = identity_like(P_K_R_R).expand_as(P_K_R_R), scale_K.log()
    # power = (P / e^log)^(2^i) and below = (P / e^log)^(2^i - 1), rescaled so that tr(power) = 1
    for squaring in range(TOP_SQUARINGS):
        below_K_R_R = below_K_R_R @ power_K_R_R
        power_K_R_R = power_K_R_R @ power_K_R_R
        exponent = 2 ** (squaring + 1)
        size_K = trace(power_K_R_R)
        root_K = size_K ** (1 / exponent)
        log_K = log_K + root_K.log()
        power_K_R_R = power_K_R_R / size_K[..., None, None]
        below_K_R_R = below_K_R_R * (root_K / size_K)[..., None, None]
    return log_K.exp(), below_K_R_R


def blockwise_gram(wide_R_N: Tensor, out_R_R: Tensor, shorter: int = 1) -> None:
    """Write X X^T: blocks of about sqrt(N) / shorter columns in float32, their sum in the dtype of the output.

    A block has at least R / shorter columns, so that the blocks' products take little more memory than X.

    The rounding of a product of length n grows as sqrt(n), so blocks leave about one unit of float32 of the sum of
    squares: enough for singular values down to 3e-4 of the largest, at twice the speed of float64 on a CPU. Where A
    and B have a condition of 1000 each and undo each other's, it costs the ratio 2e-5 at ranks 16 and 32.
    """
    length = wide_R_N.shape[1]
    block = min(length, max(2 ** (length.bit_length() // 2), wide_R_N.shape[0]) // shorter)
    whole = length // block * block
    blocks_N_R_B = wide_R_N[:, :whole].reshape(-1, whole // block, block).transpose(0, 1)
    parts_N_R_R = torch.bmm(blocks_N_R_B, blocks_N_R_B.mT)
    torch.sum(parts_N_R_R, 0, dtype=out_R_R.dtype, out=out_R_R)
    if whole < length:
        rest_R_B = wide_R_N[:, whole:].to(out_R_R.dtype)
        out_R_R.addmm_(rest_R_B, rest_R_B.T)
