"""Raise the singular values of the momentum to a power p, at the Frobenius norm of Muon's step (SpectralPower).

Steps of this kind are BeyondMuon's (arXiv 2602.04669: p = 1, 1/2, 1/4, 0) and DynMuon's (arXiv 2605.17109: p falls over
a run); the fixed norm, the LoRA factors and the floor are ours. p = 1 is normalised momentum SGD, p = 0 is Muon with
the exact polar factor, p below 0 moves along the momentum's weak directions first. For a momentum D of rank side r,
with `G = D D^T / ||D||_F^2`,

    step = c (G + floor^2 I)^((p - 1) / 2) D,    c such that ||step||_F = sqrt(r)

so a singular value s (in units of ||D||_F) becomes `s (s^2 + floor^2)^((p - 1) / 2)`: s^p above the floor, and below it
a weight that falls to 0 with s. Directions that are not there are never amplified: floors at which the rounding of a
float32 momentum would be are refused (`smallest_floor`). A bfloat16 momentum is rounded at 4e-3, above the default.

The power is a function of the r x r matrix alone and needs matrix products only: five square roots bring the
eigenvalues close to 1, where a Chebyshev series gives any real power.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from narrowly.optim.gram_optimizer import GramOptimizer
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.muon import smallest_floor
from narrowly.records.optimisers.scale_rules import ScaleRule
from narrowly.spectrum.matrix_functions import ROOT_STEPS, identity_like, root_and_inverse_root, trace

_ROOTS = 5
_LATER_STEPS = ROOT_STEPS[-7:]
"""Enough from the third root on, when the eigenvalues are at least .01."""


class SpectralPower(GramOptimizer):
    """Take steps between and beyond normalised momentum SGD and Muon, ours.

    Args:
        params: matrices, or parameter groups of them.
        lr: step length before the scale rule's factor; at p = 0 the spectral norm, as for Muon.
        power: p, in [-2, 1].
        floor: singular values below this share of the momentum's Frobenius norm lose weight, in
            [smallest_floor(power), 1).
        momentum: decay of the moving average, in [0, 1).
        nesterov: look ahead by one gradient.
        weight_decay: decoupled; each step multiplies a parameter by 1 - lr * weight_decay.
        scale_rule: a name of `SCALE_RULES`.

    Raises:
        OptimiserError: a parameter that is no matrix of floats, a power or floor out of range.
        UnknownNameError: an unknown scale rule.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float | Tensor,
        power: float,
        floor: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        scale_rule: ScaleRule,
    ) -> None:
        defaults = {
            "lr": lr,
            "power": power,
            "floor": floor,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "scale_rule": scale_rule,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its power and floor are checked as those of the constructor."""
        fields = self.defaults | param_group
        if not -2 <= fields["power"] <= 1:
            raise OptimiserError(f"SpectralPower: power is {fields['power']}, accepted: -2 to 1")
        least = smallest_floor(fields["power"])
        if not least * (1 - 1e-9) <= fields["floor"] < 1:
            raise OptimiserError(
                f"SpectralPower: floor is {fields['floor']}, accepted with power {fields['power']}: {least:.2g} to "
                "below 1"
            )
        super().add_param_group(param_group)

    def transform(self, gram_K_R_R: Tensor, group: dict[str, Any]) -> Tensor:
        """Return Q with `Q D` of Frobenius norm sqrt(r) and singular values in the proportions of the class."""
        gram_K_R_R = gram_K_R_R.double()
        size_K = trace(gram_K_R_R)[:, None, None]
        G_K_R_R = gram_K_R_R / torch.where(size_K > 0, size_K, 1.0)
        Q_K_R_R = power_of((group["power"] - 1) / 2, G_K_R_R, group["floor"])
        norm_K = trace(Q_K_R_R @ gram_K_R_R @ Q_K_R_R)[:, None, None].clamp(min=0).sqrt()
        side = math.sqrt(gram_K_R_R.shape[-1])
        return Q_K_R_R * torch.where(norm_K > 0, side / torch.where(norm_K > 0, norm_K, 1.0), 0.0)


def power_of(exponent: float, P_K_R_R: Tensor, floor: float) -> Tensor:
    """Return `(P + floor^2 I)^exponent` of each matrix of a stack, up to a factor, by matrix products alone.

    Args:
        exponent: real, -1.5 to 0.
        P_K_R_R: (..., r, r), symmetric, eigenvalues in [0, 1], float64.
        floor: at least 1e-4, where the square roots have converged (`ROOT_STEPS`).

    Returns:
        A stack of the same shape; the factor is `(1 + floor^2)^-exponent`, the same for all.
    """
    # square roots until every eigenvalue is near 1: x^exponent = (x^(1/32))^(32 exponent)
    one_R_R = identity_like(P_K_R_R)
    root_K_R_R = (P_K_R_R + floor**2 * one_R_R) / (1 + floor**2)
    for index in range(_ROOTS):
        root_K_R_R, _ = root_and_inverse_root(root_K_R_R, steps=ROOT_STEPS if index < 2 else _LATER_STEPS)
    # the interval [lowest, 1] of the roots, mapped to [-1, 1]
    lowest = (floor**2 / (1 + floor**2)) ** (0.5**_ROOTS)
    centre, half = (1 + lowest) / 2, (1 - lowest) / 2
    T_K_R_R = (root_K_R_R - centre * one_R_R) / half
    # the Chebyshev series of x^(32 exponent)
    before_K_R_R, after_K_R_R = torch.zeros_like(T_K_R_R), torch.zeros_like(T_K_R_R)
    first, *rest = _chebyshev(exponent * 2**_ROOTS, lowest)
    for coefficient in reversed(rest):  # Clenshaw's recurrence
        new_K_R_R = coefficient * one_R_R + 2 * (T_K_R_R @ before_K_R_R) - after_K_R_R
        before_K_R_R, after_K_R_R = new_K_R_R, before_K_R_R
    power_K_R_R: Tensor = first * one_R_R + T_K_R_R @ before_K_R_R - after_K_R_R
    return power_K_R_R


@lru_cache(maxsize=64)
def _chebyshev(exponent: float, lowest: float) -> tuple[float, ...]:
    """Return the Chebyshev coefficients of x^exponent on [lowest, 1], cut where they fall below 1e-13 of the largest.

    They are the cosine transform of the values at the Chebyshev nodes, of which 128 are plenty: the coefficients fall
    like rho^-k with rho above 6, because x^exponent is analytic away from 0.
    """
    nodes = 128
    angles = [math.pi * (k + 0.5) / nodes for k in range(nodes)]
    values = [((1 + lowest) / 2 + (1 - lowest) / 2 * math.cos(angle)) ** exponent for angle in angles]
    found = [
        2 / nodes * sum(value * math.cos(j * angle) for value, angle in zip(values, angles, strict=True))
        for j in range(nodes)
    ]
    found[0] /= 2
    largest = max(abs(value) for value in found)
    kept = max(j for j, value in enumerate(found) if abs(value) > 1e-13 * largest)
    return tuple(found[: kept + 1])
