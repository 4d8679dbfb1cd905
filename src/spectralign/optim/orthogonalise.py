"""Orthogonalisers: the polar factor U V^T of a stack of matrices, approximately or exactly, in float32.

Named, because a study of flat spectra must not mix them up. Of singular values above 1 % of the Frobenius norm, five
steps of Newton-Schulz leave .68-1.20, five of Polar Express .85-1.12, six .99-1.00; `exact` is 1 up to rounding. Below
that Newton-Schulz lifts less and less (.47 at .1 %).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Orthogonaliser = Literal["newton_schulz5", "polar_express", "exact"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Quintic coefficients of Jordan et al. (2024), the default of torch.optim.Muon."""

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_POLAR_EXPRESS_LIMIT = (1.875, -1.25, 0.375)
_SAFETY = 1.01
"""Coefficients, their limit and the safety factor as published (Amsel et al., arXiv 2505.16932)."""


def coefficients(method: Literal["newton_schulz5", "polar_express"], steps: int) -> list[tuple[float, float, float]]:
    """Return the (a, b, c) of each iteration X <- a X + b (X X^T) X + c (X X^T)^2 X."""
    if method == "newton_schulz5":
        return [NEWTON_SCHULZ] * steps
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS]
    return (safe + [_POLAR_EXPRESS_LIMIT] * steps)[:steps]


@torch.no_grad()
def orthogonalise(stack: Tensor, method: Orthogonaliser, steps: int, eps: float) -> Tensor:
    """Return the polar factor of each matrix of a stack.

    Args:
        stack: (matrices, rows, columns) with rows <= columns, any float dtype; computed in float32 (float64 stays).
        method: newton_schulz5, polar_express or exact.
        steps: iterations of the first two; ignored by exact.
        eps: smallest Frobenius norm to divide by; the zero matrix stays zero under the first two.

    Returns:
        A stack of the same shape. Directions with a singular value at rounding level are noise in all three.
    """
    X = stack if stack.dtype == torch.float64 else stack.float()
    with torch.autocast(device_type=X.device.type, enabled=False):
        X = X / X.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
        if method == "exact":
            U, S, Vh = torch.linalg.svd(X, full_matrices=False)
            present = (torch.finfo(S.dtype).eps * max(X.shape[-2:]) * S[:, :1] < S).to(S.dtype)
            polar: Tensor = (U * present[:, None, :]) @ Vh
            return polar
        for a, b, c in coefficients(method, steps):
            gram = X @ X.mT
            X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X
