"""Muon on LoRA factors: orthogonalised momentum on every A and every B by itself, batched by shape.

What public tools leave open is a named field here: the orthogonaliser, the scale rule, the decay, the form of the
momentum. The last is an exponential moving average, as in torch.optim.Muon: `M <- m M + (1 - m) G`, and with Nesterov
the step is taken on `(1 - m) G + m M`. Heavy-ball momentum differs by a factor that orthogonalising removes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import nn

from spectralign.optim.orthogonalise import Orthogonaliser, orthogonalise
from spectralign.records.errors import OptimiserError, unknown_name

ScaleRule = Literal["original", "match_rms_adamw", "spectral_norm"]

SCALE_RULES: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_norm": lambda rows, columns: math.sqrt(rows / columns),
}
"""Factor on the learning rate of a rows x columns matrix: torch 2.13 default; Moonlight, arXiv 2502.16982; dion."""


class Muon(torch.optim.Optimizer):
    """Muon for two-dimensional parameters.

    Args:
        params: matrices, or parameter groups of them.
        lr: step length in spectral norm before the scale rule's factor, above 0.
        momentum: decay of the moving average, in [0, 1).
        nesterov: look ahead by one gradient.
        weight_decay: decoupled; each step multiplies a parameter by 1 - lr * weight_decay.
        orthogonaliser: newton_schulz5, polar_express or exact.
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
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        orthogonaliser: Orthogonaliser,
        ns_steps: int,
        scale_rule: ScaleRule,
        eps: float,
    ) -> None:
        if scale_rule not in SCALE_RULES:
            raise unknown_name("scale rule", scale_rule, SCALE_RULES)
        accepted = ("newton_schulz5", "polar_express", "exact")
        if orthogonaliser not in accepted:
            raise unknown_name("orthogonaliser", orthogonaliser, accepted)
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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; as in the constructor, which calls this too, every parameter must be a matrix of floats."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.ndim != 2 or not parameter.is_floating_point():
                self.param_groups.pop()
                raise OptimiserError(
                    f"Muon: found a parameter of shape {tuple(parameter.shape)} and dtype {parameter.dtype}; "
                    "accepted: matrices of floats (leave other parameters frozen or choose another optimiser)"
                )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on every parameter that has a gradient; return the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _by_shape(p for p in group["params"] if p.grad is not None):
                self._step_alike(parameters, group)
        return loss

    def _step_alike(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers.append(state["momentum_buffer"])
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        moved = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        # A tall matrix and its wide transpose share one stack: r x n is the cheap side for the iteration.
        stack = torch.stack([m if m.shape[0] <= m.shape[1] else m.T for m in moved])
        steps = orthogonalise(stack, group["orthogonaliser"], group["ns_steps"], group["eps"])
        for parameter, step in zip(parameters, steps.unbind(), strict=True):
            rows, columns = parameter.shape
            factor = SCALE_RULES[group["scale_rule"]](rows, columns)
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_((step if rows <= columns else step.T).to(parameter.dtype), alpha=-group["lr"] * factor)


def _by_shape(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for parameter in parameters:
        key = (*sorted(parameter.shape), parameter.device, parameter.dtype)
        groups.setdefault(key, []).append(parameter)
    return list(groups.values())
