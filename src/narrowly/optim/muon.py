"""Orthogonalise the momentum of every LoRA factor by itself (Muon), batched.

What public tools leave open is a named field here: the orthogonaliser, the scale rule, the decay, the form of the
momentum (`narrowly.optim.gram_optimizer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from narrowly.optim.gram_optimizer import GramOptimizer
from narrowly.optim.orthogonalise import check_orthogonaliser, polar_of_gram
from narrowly.records.optimisers.muon import Orthogonaliser
from narrowly.records.optimisers.scale_rules import ScaleRule


class Muon(GramOptimizer):
    """Take Muon's step on two-dimensional parameters.

    Args:
        params: matrices, or parameter groups of them.
        lr: step length in spectral norm before the scale rule's factor.
        momentum: decay of the moving average, in [0, 1).
        nesterov: look ahead by one gradient.
        weight_decay: decoupled; each step multiplies a parameter by 1 - lr * weight_decay.
        orthogonaliser: newton_schulz5, polar_express or exact (an eigenvalue solver on r x r matrices).
        ns_steps: iterations of the first two.
        scale_rule: a name of `SCALE_RULES`.
        eps: smallest Frobenius norm of a momentum that is divided by.

    Raises:
        OptimiserError: a parameter that is no matrix of floats.
        UnknownNameError: an unknown scale rule or orthogonaliser.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float | Tensor,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        orthogonaliser: Orthogonaliser,
        ns_steps: int,
        scale_rule: ScaleRule,
        eps: float,
    ) -> None:
        check_orthogonaliser(orthogonaliser)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "orthogonaliser": orthogonaliser,
            "ns_steps": ns_steps,
            "scale_rule": scale_rule,
            "eps": eps,
        }
        super().__init__(params, defaults)

    def precise(self, group: dict[str, Any]) -> bool:
        """Return whether the orthogonaliser is exact."""
        return bool(group["orthogonaliser"] == "exact")

    def transform(self, gram_K_R_R: Tensor, group: dict[str, Any]) -> Tensor:
        """Return Q with `Q D` the polar factor of D."""
        return polar_of_gram(gram_K_R_R, group["orthogonaliser"], group["ns_steps"], group["eps"])
