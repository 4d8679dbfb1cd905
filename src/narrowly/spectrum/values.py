"""Compute the exact singular values of `scale * B @ A` without forming the product.

With `A^T = Q_A R_A` and `B = Q_B R_B`, the update is `Q_B (R_B R_A^T) Q_A^T`, so its singular values are
those of the r x r core `R_B R_A^T`. Nothing is squared, so small values keep their
accuracy. Pairs of equal shape are stacked, and the cores of all shapes with one rank go through one batched SVD.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum.pairs import LoraPair

G1_JITTER = 1e-8
"""Added to the diagonal of B^T B before Cholesky (paper, Appendix G.1)."""

G1_LIMIT = "the paper's Cholesky form failed, accepted: B of full rank (B^T B + 1e-8 I positive definite in float32)"

ZERO_UPDATE = 1e-12
"""Norms at or below this count as no update. The paper's threshold on the norm of B (Appendix G.1)."""


class Factored(NamedTuple):
    """Orthonormal bases and triangular factors of K pairs of one shape: `B @ A = QB (RB RA^T) QA^T`.

    `c_A = min(R, I)` and `c_B = min(R, O)` are R wherever the rank fits into both sides of the module.
    """

    QA_K_I_C: Tensor
    RA_K_C_R: Tensor
    QB_K_O_C: Tensor
    RB_K_C_R: Tensor
    core_K_C_C: Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return float64 where every tensor is float64, else float32: half precision is never computed in."""
    return torch.float64 if all(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switch autocast off: in bfloat16 the value looks healthy, the gradient is wrong."""
    with torch.autocast(device_type=device.type, enabled=False):
        yield


def shape_groups(pairs: Sequence[LoraPair]) -> list[list[int]]:
    """Return the positions of pairs that can be stacked (equal shapes, device and working dtype)."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, pair in enumerate(pairs):
        key = (
            *pair.A_R_I.shape,
            pair.B_O_R.shape[0],
            pair.A_R_I.device,
            working_dtype(pair.A_R_I, pair.B_O_R),
        )
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def stack_pairs(pairs: Sequence[LoraPair], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return A_K_R_I and B_K_O_R of pairs of one shape, detached and cast."""
    A_K_R_I = torch.stack([pair.A_R_I.detach().to(dtype) for pair in pairs])
    B_K_O_R = torch.stack([pair.B_O_R.detach().to(dtype) for pair in pairs])
    return A_K_R_I, B_K_O_R


def factor(A_K_R_I: Tensor, B_K_O_R: Tensor) -> Factored:
    """Return the QR factors of K stacked pairs and the cores whose singular values are those of B @ A."""
    QA_K_I_C, RA_K_C_R = torch.linalg.qr(A_K_R_I.mT)
    QB_K_O_C, RB_K_C_R = torch.linalg.qr(B_K_O_R)
    return Factored(QA_K_I_C, RA_K_C_R, QB_K_O_C, RB_K_C_R, RB_K_C_R @ RA_K_C_R.mT)


def _cores(A_K_R_I: Tensor, B_K_O_R: Tensor) -> Tensor:
    """Return the cores alone; mode "r" leaves out the orthonormal bases, which values do not need."""
    RA_K_C_R = torch.linalg.qr(A_K_R_I.mT, mode="r").R
    RB_K_C_R = torch.linalg.qr(B_K_O_R, mode="r").R
    core_K_C_C: Tensor = RB_K_C_R @ RA_K_C_R.mT
    return core_K_C_C


@torch.no_grad()
def singular_values(pair: LoraPair, dtype: torch.dtype | None = None) -> Tensor:
    """Return the singular values of `scale * B @ A`, descending, without forming the product.

    Args:
        pair: one LoRA pair of rank r on a module of O outputs and I inputs.
        dtype: torch.float32 or torch.float64 to compute in; None takes float64 for float64 factors, else
            float32.

    Returns:
        min(r, O, I) values on the pair's device. A zero update gives zeros.
    """
    return singular_values_all([pair], dtype)[0]


@torch.no_grad()
def singular_values_all(pairs: Sequence[LoraPair], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Return the singular values of every pair, in the order given; as `singular_values`, batched.

    Raises:
        AdapterError: an update is NaN or overflows (training that has diverged); the message names the module.
    """
    cores: dict[int, Tensor] = {}
    for positions in shape_groups(pairs):
        group = [pairs[position] for position in positions]
        work = dtype or working_dtype(group[0].A_R_I, group[0].B_O_R)
        with full_precision(group[0].A_R_I.device):
            cores.update(zip(positions, _cores(*stack_pairs(group, work)), strict=True))
    alike: dict[tuple[object, ...], list[int]] = {}
    for position, core in cores.items():
        alike.setdefault((core.shape, core.dtype, core.device), []).append(position)
    values: dict[int, Tensor] = {}
    for positions in alike.values():
        stacked_K_C_C = torch.stack([cores[position] for position in positions])
        for position, finite in zip(positions, stacked_K_C_C.isfinite().all(-1).all(-1).tolist(), strict=True):
            if not finite:
                raise AdapterError(
                    f"{pairs[position].name}: B @ A is NaN or beyond {stacked_K_C_C.dtype}, accepted: finite updates"
                )
        values.update(zip(positions, torch.linalg.svdvals(stacked_K_C_C), strict=True))
    return [values[position] * abs(pair.scale) for position, pair in enumerate(pairs)]


def g1_values(A_K_R_I: Tensor, B_K_O_R: Tensor) -> Tensor:
    """Return the singular values of L^T A for stacked pairs, where L L^T = B^T B + 1e-8 I; differentiable.

    Source: the paper's Appendix G.1 (grade B). The jitter acts as a floor of 1e-4 sigma(A): a B whose
    singular values lie below 1e-4 looks flat whatever its shape. Where B has deficient rank and a norm around 1, the
    jitter is below the rounding of B^T B and the factorisation can fail (torch's LinAlgError).
    """
    gram_K_R_R = B_K_O_R.mT @ B_K_O_R
    identity_R_R = torch.eye(gram_K_R_R.shape[-1], dtype=gram_K_R_R.dtype, device=gram_K_R_R.device)
    lower_K_R_R = torch.linalg.cholesky(gram_K_R_R + G1_JITTER * identity_R_R)
    values_K_C: Tensor = torch.linalg.svdvals(lower_K_R_R.mT @ A_K_R_I)
    return values_K_C


@torch.no_grad()
def singular_values_g1(pair: LoraPair) -> Tensor | None:
    """Return the singular values as the paper computes them: the compatibility mode of `singular_values`.

    Appendix G.1 in float32: L L^T = B^T B + 1e-8 I, then the singular values of L^T A. Agrees with
    `singular_values` to 2e-5 relative where B's singular values are well above 1e-4. The scale is applied
    afterwards.

    Returns:
        min(r, I) values, descending, or None where the Frobenius norm of B is below 1e-12: the paper skips
        such layers.

    Raises:
        AdapterError: the factorisation failed, because B has deficient rank.
    """
    A_R_I, B_O_R = pair.A_R_I.detach().float(), pair.B_O_R.detach().float()
    if float(torch.linalg.matrix_norm(B_O_R)) < ZERO_UPDATE:
        return None
    with full_precision(A_R_I.device):
        try:
            return g1_values(A_R_I[None], B_O_R[None])[0] * abs(pair.scale)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # torch types no C errors
            raise AdapterError(f"{pair.name}: {G1_LIMIT}") from error
