"""Scramble the singular values of the momentum by a chaotic map, at the Frobenius norm of Muon's step (Kaon).

Kaon (arXiv 2605.11181) is the control for every account that rests on the spectrum of the step: it keeps the singular
vectors of the momentum and replaces its singular values by noise. With `X = D / ||D||_F`, each round is

    X <- 4.1 (I - X X^T)^2 X,    a singular value s becomes 4.1 s (1 - s^2)^2, in the chaotic regime

and the step is `c X` with `c` such that `||step||_F = sqrt(r)`, r the smaller side. All rounds commute with X X^T, so
they are products of r x r matrices. A value below 1e-3 of the norm grows by 4.1 a round only: it stays small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from narrowly.optim.gram_optimizer import GramOptimizer
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.scale_rules import ScaleRule
from narrowly.spectrum.matrix_functions import identity_like, trace

GROWTH = 4.1
"""Factor of the map (arXiv 2605.11181)."""

LEAST = 1e-6
"""Smallest norm, in units of the momentum's, that is brought to that of a step: s = 1, a momentum of rank 1, is mapped
to 0, and what is left of it is rounding."""


class Kaon(GramOptimizer):
    """Take steps along the momentum's singular vectors with scrambled singular values.

    Args:
        params: matrices, or parameter groups of them.
        lr: root mean square of the step's singular values, before the scale rule's factor.
        rounds: of the map, at least 1.
        momentum: decay of the moving average, in [0, 1).
        nesterov: look ahead by one gradient.
        weight_decay: decoupled; each step multiplies a parameter by 1 - lr * weight_decay.
        scale_rule: a name of `SCALE_RULES`.

    Raises:
        OptimiserError: a parameter that is no matrix of floats, or fewer than one round.
        UnknownNameError: an unknown scale rule.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float | Tensor,
        rounds: int,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        scale_rule: ScaleRule,
    ) -> None:
        if rounds < 1:
            raise OptimiserError(f"Kaon: rounds is {rounds}, accepted: at least 1")
        defaults = {
            "lr": lr,
            "rounds": rounds,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "scale_rule": scale_rule,
        }
        super().__init__(params, defaults)

    def transform(self, gram_K_R_R: Tensor, group: dict[str, Any]) -> Tensor:
        """Return Q with `Q D` of Frobenius norm sqrt(r) and singular values scrambled as the class says."""
        gram_K_R_R = gram_K_R_R.double()
        size_K = trace(gram_K_R_R)[:, None, None]
        G_K_R_R = gram_K_R_R / torch.where(size_K > 0, size_K, 1.0)
        one_R_R = identity_like(G_K_R_R)
        Q_K_R_R = one_R_R.expand_as(G_K_R_R)
        for _ in range(group["rounds"]):
            rest_K_R_R = one_R_R - Q_K_R_R @ G_K_R_R @ Q_K_R_R
            Q_K_R_R = GROWTH * rest_K_R_R @ rest_K_R_R @ Q_K_R_R
        norm_K = trace(Q_K_R_R @ gram_K_R_R @ Q_K_R_R)[:, None, None].clamp(min=0).sqrt()
        moves_K = norm_K > LEAST * size_K.sqrt()
        side = math.sqrt(gram_K_R_R.shape[-1])
        return Q_K_R_R * torch.where(moves_K, side / torch.where(moves_K, norm_K, 1.0), 0.0)
