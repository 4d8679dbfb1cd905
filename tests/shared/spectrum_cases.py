"""Pairs, dense twins and a tiny PEFT model for the tests of this room."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowly.spectrum import LoraPair


def random_pair(
    rank: int = 4,
    outputs: int = 12,
    inputs: int = 9,
    *,
    seed: int = 0,
    scale: float = 2.0,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float32,
    name: str = "model.layers.0.self_attn.q_proj",
) -> LoraPair:
    """Return a random pair; the directions of A are stretched by 1 ... spread, so that spread sets the conditioning."""
    generator = torch.Generator().manual_seed(seed)
    stretch_R = torch.logspace(0, float(torch.log10(torch.tensor(spread))), rank, dtype=torch.float64)
    A_R_I = torch.randn(rank, inputs, generator=generator, dtype=torch.float64) * stretch_R[:, None]
    B_O_R = torch.randn(outputs, rank, generator=generator, dtype=torch.float64)
    return LoraPair(name, A_R_I.to(dtype), B_O_R.to(dtype), scale)


def pair_of_spectrum(spectrum: list[float], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> LoraPair:
    """Return a pair of scale 1 whose update has exactly the given singular values."""
    generator = torch.Generator().manual_seed(seed)
    rank = len(spectrum)
    U_O_R = torch.linalg.qr(torch.randn(rank + 7, rank, generator=generator, dtype=torch.float64)).Q
    V_I_R = torch.linalg.qr(torch.randn(rank + 5, rank, generator=generator, dtype=torch.float64)).Q
    mix_R_R = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
    values_R = torch.tensor(spectrum, dtype=torch.float64)
    B_O_R, A_R_I = U_O_R * values_R @ torch.linalg.inv(mix_R_R), mix_R_R @ V_I_R.T
    return LoraPair("model.layers.3.mlp.up_proj", A_R_I.to(dtype), B_O_R.to(dtype), 1.0)


def dense(pair: LoraPair) -> Tensor:
    """Return s * B * A in float64, formed in full: the slow, obvious twin."""
    return pair.scale * pair.B_O_R.detach().double() @ pair.A_R_I.detach().double()


def dense_values(pair: LoraPair) -> Tensor:
    """Return the leading min(r, O, I) singular values of the dense product in float64."""
    count = min(pair.rank, *dense(pair).shape)
    return torch.linalg.svdvals(dense(pair))[:count]


def live(pair: LoraPair) -> LoraPair:
    """Return the pair with fresh leaf tensors that require gradients."""
    return pair._replace(A_R_I=pair.A_R_I.clone().requires_grad_(True), B_O_R=pair.B_O_R.clone().requires_grad_(True))
