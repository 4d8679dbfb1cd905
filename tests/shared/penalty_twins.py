"""Slow, obvious twins of the penalties: dense SVD of s B A in float64, and autograd through it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from narrowly.spectrum import LoraPair

EPS = 1e-4


def top(values: Tensor) -> Tensor:
    """Return the 256-norm of positive values, the smooth maximum of the product."""
    largest = values.max().detach()
    return largest * (values / largest).pow(256).sum().pow(1 / 256)


def of_singular_values(kind: str, S: Tensor, target: float = 0.0, eps: float = EPS) -> Tensor:
    """Return a penalty as a function of singular values."""
    F, count = S.norm(), len(S)
    shares = S.square() / F.square()
    floored = shares + eps**2
    roots = floored.sqrt()
    match kind:
        case "frobenius_nuclear" | "norm_held":
            return 1 / roots.sum() - 1 / math.sqrt(count)
        case "spectral_entropy":
            p = roots / roots.sum()
            return (p * p.log()).sum() + math.log(count)
        case "condition_number":
            return (top(floored).log() + top(1 / floored).log()) / 2
        case "stable_rank":
            return torch.relu(1 - 1 / (top(shares) * target))
        case "spectral_norm":
            return F * top(shares).sqrt()
        case "nuclear_norm":
            return F * roots.sum()
        case "norm_only":
            return F
    raise AssertionError(kind)


def dense_penalty(
    pairs: list[LoraPair], kind: str = "frobenius_nuclear", target: float = 0.0, eps: float = EPS
) -> Tensor:
    """Return the mean penalty of pairs by a dense SVD of each s B A in float64; differentiable."""
    values = []
    for pair in pairs:
        M = pair.scale * (pair.B_O_R.double() @ pair.A_R_I.double())
        S = torch.linalg.svdvals(M)[: min(pair.rank, *M.shape)]
        values.append(of_singular_values(kind, S, target, eps))
    return torch.stack(values).mean()


def gradients(value: Tensor, pairs: list[LoraPair]) -> list[Tensor]:
    """Return the gradients of a scalar by A and B of every pair, in turn."""
    return list(torch.autograd.grad(value, [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]))


def cosine(one: Tensor, other: Tensor) -> float:
    """Return the cosine of the angle between two tensors."""
    return float(torch.nn.functional.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))


def factor_of_condition(
    rank: int, side: int, condition: float, seed: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return a side x rank matrix with singular values from 1 to 1/condition, evenly spaced in logarithm."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(side, rank, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(rank, rank, generator=generator, dtype=torch.float64)).Q
    return ((Q * torch.logspace(0, -math.log10(condition), rank, dtype=torch.float64)) @ V.T).to(dtype)
