"""Apply the decoupled mode: a step along the penalty's gradient at each factor's lr, or a projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from narrowly.records.errors import TrainingError
from narrowly.spectrum.matrix_functions import identity_like, trace
from narrowly.spectrum.pairs import LoraPair
from narrowly.spectrum.penalty.kinds import Grams, Penalised, flattener
from narrowly.spectrum.penalty.stacks import Side, Stacks

LearningRates = Mapping[int, Any]
"""Learning rate, a number or a scalar tensor, by the id of the parameter."""


def learning_rates(optimizer: Optimizer) -> dict[int, Any]:
    """Return the present learning rate of every parameter of an optimiser."""
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


def move(
    stacks: Stacks,
    penalised: Penalised,
    weight: float | Tensor,
    lrs: LearningRates,
    covariance_K: Sequence[Tensor] | None,
) -> None:
    """Add `lr * weight * gradient` to every factor.

    Raises:
        TrainingError: a factor that requires a gradient has no learning rate; nothing has been moved then.
    """
    rates = {id(side): _rates(side, lrs, penalised.X_K_R_R) for _, _, *sides in stacks.ranges for side in sides}

    def add(side: Side, part: slice) -> None:
        matrices = penalised.Y_K_R_R if side.is_A else penalised.X_K_R_R
        inputs = covariance_K[part] if covariance_K is not None and side.is_A else None
        side.add_to_factors(matrices[part] * weight * rates[id(side)], inputs)

    stacks.each(add)


def _rates(side: Side, lrs: LearningRates, like: Tensor) -> Tensor | float:
    trained = [factor for factor in side.factors if factor.requires_grad]
    missing = [factor for factor in trained if id(factor) not in lrs]
    if missing:
        raise TrainingError(
            f"decoupled penalty: {len(missing)} LoRA factors of shape {tuple(missing[0].shape)} are in no group of the "
            "optimiser, accepted: every trained factor (build the penalty from the model that is trained)"
        )
    found = [lrs[id(factor)] for factor in trained]
    if all(isinstance(rate, int | float) and rate == found[0] for rate in found):
        return float(found[0]) if found else 0.0  # no copy to the device, as there must be none in a CUDA graph
    rates = [lrs.get(id(factor), 0.0) for factor in side.factors]
    if any(isinstance(rate, Tensor) for rate in rates):
        every = [torch.as_tensor(rate, dtype=like.dtype, device=like.device).reshape(()) for rate in rates]
        return torch.stack(every)[:, None, None]
    return torch.tensor(rates, dtype=like.dtype).to(like.device, non_blocking=True)[:, None, None]


def squared_norms(grams: Grams) -> Tensor:
    """Return |B A|_F^2 of every pair."""
    return trace(grams.A_K_R_R @ grams.B_K_R_R)


def restore_norms(stacks: Stacks, before_K: Tensor) -> None:
    """Scale every B, or A where B is frozen, so that |B A|_F^2 is `before_K` again."""
    grams = stacks.grams()
    after_K = squared_norms(grams)
    factor_K = torch.where(after_K > 0, (before_K / torch.where(after_K > 0, after_K, 1.0)).sqrt(), 1.0)
    one_R_R = identity_like(grams.A_K_R_R)
    for begin, end, A, B in stacks.ranges:
        B.multiply(factor_K[begin:end, None, None] * one_R_R)
        if not all(factor.requires_grad for factor in B.factors):
            by_A_K = torch.where(grams.trained_B_K[begin:end] > 0, 1.0, factor_K[begin:end])
            A.multiply(by_A_K[:, None, None] * one_R_R)


def project(stacks: Stacks, grams: Grams, strength: float) -> None:
    """Flatten every spectrum by `strength` in [0, 1] at its Frobenius norm, through B."""
    core_K_R_R = flattener(grams, strength)
    for begin, end, _, B in stacks.ranges:
        B.multiply(core_K_R_R[begin:end])


def norm_of_gradients(pairs: Sequence[LoraPair]) -> Tensor:
    """Return the norm of the present `.grad` of all factors together; 0 without any."""
    factors = [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]
    gradients = [factor.grad for factor in factors if factor.grad is not None]
    if not gradients:
        return torch.zeros((), device=factors[0].device)
    norms = [norm.to(factors[0].device, torch.float32) for norm in torch._foreach_norm(gradients)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
