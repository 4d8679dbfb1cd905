"""Compute the spectrum of W - W0, the update of a matrix that was trained in full.

Such an update has as many singular values as the matrix has rows or columns. Up to a smaller side of 1024 all of them
are computed, from the Gram matrix of that side in float64; beyond it the leading ones only, and whatever needs all of
them (entropy, condition number, Frobenius/nuclear, nuclear norm) is None. The subtraction is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum.metrics import LEADING, SpectrumMetrics, layer_and_kind, spectrum_metrics
from narrowly.spectrum.values import ZERO_UPDATE, full_precision

EXACT_SIDE = 1024
"""Largest smaller side whose spectrum is computed whole; the time grows with its cube; ours."""

OVERSAMPLING = 8
"""Columns of a block beyond the values asked for (Halko, Martinsson and Tropp, arXiv 0909.4061: 5 to 10)."""

MOST_BLOCKS = 24
"""Blocks of the Krylov space; a flat spectrum needs most."""

CONVERGED = 1e-4
"""Relative change of every leading value over one more block at which the iteration ends."""


@torch.no_grad()
def difference_row(name: str, W_O_I: Tensor, W0_O_I: Tensor, keep: int) -> dict[str, Any]:
    """Return the row of one matrix, as `spectrum_table` has one per pair.

    Args:
        name: module path.
        W_O_I: the matrix now, on any device.
        W0_O_I: the matrix as it began; moved to the device of the other.
        keep: leading values of a matrix whose smaller side is above `EXACT_SIDE`.

    Returns:
        module, layer, kind, rank (how many singular values the update has), the fields of `SpectrumMetrics`, and
        `singular_values`, all of them. Of a truncated row `leading_singular_values` stands in its place, and the
        metrics that need all values are None; norms and stable rank are exact there (the leading values are accurate
        to about `CONVERGED`, never too large but for rounding).

    Raises:
        AdapterError: the update holds NaN or infinity.
    """
    with full_precision(W_O_I.device):
        D_O_I = W_O_I.double() - W0_O_I.to(W_O_I.device, torch.float64)
        frobenius = float(torch.linalg.vector_norm(D_O_I))
        if not frobenius < float("inf"):
            raise AdapterError(f"{name}: W - W0 holds NaN or infinite values, accepted: finite updates")
        side = min(D_O_I.shape)
        layer, kind = layer_and_kind(name)
        row: dict[str, Any] = {"module": name, "layer": layer, "kind": kind, "rank": side}
        if side <= EXACT_SIDE:
            values = exact_values(D_O_I)
            # an eigenvalue of the Gram matrix is wrong by about eps times the largest one, its root by the root of that
            metrics = spectrum_metrics(values, resolution=(side * torch.finfo(torch.float64).eps) ** 0.5)
            return {**row, **metrics._asdict(), "singular_values": values.tolist()}
        leading = leading_values(D_O_I.float(), min(keep, side)).double()
        largest = float(leading[0])
        cut = SpectrumMetrics(
            stable_rank=(frobenius / largest) ** 2 if frobenius > ZERO_UPDATE else None,
            spectral_entropy=None,
            condition_number=None,
            frobenius_nuclear=None,
            frobenius_norm=frobenius,
            spectral_norm=largest,
            nuclear_norm=None,
        )
        return {**row, **cut._asdict(), LEADING: leading.tolist()}


def exact_values(D_O_I: Tensor) -> Tensor:
    """Return all singular values, descending, in float64; the zero matrix gives zeros."""
    X_S_L = D_O_I.double() if D_O_I.shape[0] <= D_O_I.shape[1] else D_O_I.double().T
    squares_S = torch.linalg.eigvalsh(X_S_L @ X_S_L.T)
    values_S: Tensor = squares_S.clamp(min=0).sqrt().flip(0)
    return values_S


def leading_values(D_O_I: Tensor, keep: int) -> Tensor:
    """Return the `keep` largest singular values, descending, by a block Krylov iteration with Rayleigh-Ritz.

    The space grows by one block of `keep + OVERSAMPLING` columns at a time (Musco and Musco, arXiv 1504.05477) until
    no value changes by more than `CONVERGED`. The start is drawn from a fixed seed.
    """
    X_S_L = D_O_I if D_O_I.shape[0] <= D_O_I.shape[1] else D_O_I.T
    side, width = X_S_L.shape[0], min(keep + OVERSAMPLING, X_S_L.shape[0])
    start = torch.randn(side, width, generator=torch.Generator().manual_seed(0))
    block_S_C = start.to(X_S_L.device, X_S_L.dtype)
    basis: list[Tensor] = []
    images: list[Tensor] = []
    found = torch.zeros(keep, dtype=torch.float64, device=X_S_L.device)
    for _ in range(MOST_BLOCKS):
        block_S_C = block_S_C[:, : side - sum(part.shape[1] for part in basis)]
        if block_S_C.shape[1] == 0:  # the space is whole
            break
        for _ in range(3):  # twice is enough (Giraud et al. 2005) for all but what X_S_L maps to zero
            for part in basis:
                block_S_C = block_S_C - part @ (part.T @ block_S_C)
            block_S_C = torch.linalg.qr(block_S_C).Q
        basis.append(block_S_C)
        images.append(X_S_L.T @ block_S_C)
        before, found = found, exact_values(torch.cat(images, dim=1))[:keep]
        if len(basis) > 1 and bool(((found - before).abs() <= CONVERGED * found).all()):
            break
        block_S_C = X_S_L @ images[-1]
    return found
