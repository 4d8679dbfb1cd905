"""Step matrices by a function of their small Gram matrices times their momentum, batched by rank.

Muon and SpectralPower differ in that function only. The momentum is an exponential moving average, as in
torch.optim.Muon: `M <- m M + (1 - m) G`, and with Nesterov the step is taken on `D = (1 - m) G + m M`. Heavy-ball
momentum differs by a factor that both optimisers normalise away.

Matrices of one rank go through one batched function Q of their r x r Gram matrices, wide and tall ones alike, a bounded
number of elements at a time: `W <- W - lr f Q D` in place. On the CPU the large products run matrix by matrix in
scratch memory that is kept between steps; elsewhere equal shapes are stacked, so that launches are few. Beside the
momentum only that scratch is needed.

Read the plain twins first: `twin` in tests/optim/test_muon.py and `by_svd` in tests/optim/test_spectral_power.py. They
are the same steps, one matrix at a time, by a singular value decomposition in float64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from narrowly.optim.closure_step import ClosureOptimizer
from narrowly.optim.orthogonalise import gram, write_gram
from narrowly.records.errors import OptimiserError, unknown_name
from narrowly.records.optimisers.scale_rules import SCALE_RULES

SCRATCH = {"cpu": 2**22, "other": 2**25}
"""Elements of D kept at a time: on a CPU what its last cache holds (17 MB), so that D is not fetched from memory again;
on an accelerator 134 MB, and Gram matrices are summed from a float64 copy of one shape's."""


def room(device: torch.device) -> int:
    """Return the elements that are worked on at a time on a device."""
    return SCRATCH["cpu" if device.type == "cpu" else "other"]


class GramOptimizer(ClosureOptimizer):
    """Base of the optimisers of this kind; a subclass gives `transform` and its own fields.

    Nothing is read back from an accelerator, so there a step can be captured in a CUDA graph after one ordinary step
    has made the state, as long as `lr` is a tensor on the device and `transform` uses no solver.

    Args:
        params: matrices, or parameter groups of them.
        defaults: lr, momentum, nesterov, weight_decay, scale_rule, and the fields of the subclass.

    Raises:
        OptimiserError: a parameter that is no matrix of floats.
        UnknownNameError: an unknown scale rule.
    """

    def __init__(self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        if defaults["scale_rule"] not in SCALE_RULES:
            raise unknown_name("scale rule", defaults["scale_rule"], SCALE_RULES)
        super().__init__(params, defaults)

    @abstractmethod
    def transform(self, gram_K_R_R: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the r x r matrices Q of the steps `Q D`, from the Gram matrices of the directions D (see `gram`)."""

    def precise(self, group: dict[str, Any]) -> bool:
        """Return whether `transform` needs every digit of the Gram matrices (see `gram`)."""
        return True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; as in the constructor, which calls this too, every parameter must be a matrix of floats."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.ndim != 2 or not parameter.is_floating_point():
                self.param_groups.pop()
                raise OptimiserError(
                    f"{type(self).__name__}: found a parameter of shape {tuple(parameter.shape)} and dtype "
                    f"{parameter.dtype}; accepted: matrices of floats "
                    "(leave other parameters frozen or choose another optimiser)"
                )

    def move(self) -> None:
        """Take one step on every parameter that has a gradient."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            for parameter in moving:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            for batch in batches(moving):
                on_cpu = batch[0].device.type == "cpu"
                with torch.autocast(device_type=batch[0].device.type, enabled=False):
                    (self._step_in_turn if on_cpu else self._step_stacked)(batch, group)

    def _step_in_turn(self, batch: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Move matrices of one rank and dtype, one after the other but for the r x r work."""
        dtype, r = _working_dtype(batch[0]), min(batch[0].shape)
        # memory for the directions D of the whole batch, kept from step to step
        size = sum(p.numel() for p in batch)
        kept = self.__dict__.get("_scratch")
        if kept is None or kept.numel() < size or kept.dtype != dtype:
            self._scratch = kept = torch.empty(size, dtype=dtype)  # fresh memory would come page by page in every step
        pieces = kept[:size].split([p.numel() for p in batch])
        directions = [piece.view(p.shape) for piece, p in zip(pieces, batch, strict=True)]
        gram_K_R_R = torch.empty(len(batch), r, r, dtype=torch.float64)
        precise = self.precise(group)
        new = 1 - group["momentum"]
        # the momentum M, the direction D from it, and the Gram matrix of D while D is still in the cache
        for parameter, D, gram_R_R in zip(batch, directions, gram_K_R_R, strict=True):
            buffer, gradient = self.state[parameter]["momentum_buffer"], parameter.grad
            assert gradient is not None
            buffer.lerp_(gradient, new)
            if group["nesterov"] and buffer.dtype == dtype:
                torch.lerp(buffer, gradient, new, out=D)
            else:
                D.copy_(buffer)
                if group["nesterov"]:
                    D.lerp_(gradient.to(dtype), new)
            write_gram(D, precise, gram_R_R)
        # the r x r work of all matrices at once; -lr and the scale rule's factor go into Q, which is small
        Q_K_R_R = self.transform(gram_K_R_R, group)
        factors_K = Q_K_R_R.new_tensor([SCALE_RULES[group["scale_rule"]](*p.shape) for p in batch])
        Q_K_R_R = (Q_K_R_R * (-group["lr"] * factors_K)[:, None, None]).to(dtype)
        # decay, then the step
        for parameter, Q_R_R, D in zip(batch, Q_K_R_R, directions, strict=True):
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            add_product(parameter, Q_R_R, D)

    def _step_stacked(self, batch: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Move matrices of one rank, dtype and device, equal shapes next to each other."""
        alike = [list(members) for _, members in groupby(batch, lambda p: p.shape)]
        # one stack of directions D per shape, and one Q per matrix, of all shapes at once
        stacks, grams = zip(*(self._directions(members, group) for members in alike), strict=True)
        Q_K_R_R = self.transform(torch.cat(grams), group)
        if group["weight_decay"]:
            torch._foreach_mul_(list[Tensor](batch), 1 - group["lr"] * group["weight_decay"])
        # each shape takes its part of Q, with -lr and the scale rule's factor in it
        begin = 0
        for members, stack in zip(alike, stacks, strict=True):
            factor = SCALE_RULES[group["scale_rule"]](*members[0].shape)
            part = (Q_K_R_R[begin : begin + len(members)] * (-group["lr"] * factor)).to(stack.dtype)
            add_products(members, part, stack)
            begin += len(members)

    def _directions(self, members: list[nn.Parameter], group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Update the momentum of matrices of one shape.

        Returns:
            Their directions D, (matrices, rows, columns), and the Gram matrices of these, (matrices, r, r).
        """
        gradients = [p.grad for p in members if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in members]
        new = 1 - group["momentum"]
        dtype = _working_dtype(members[0])
        stack = torch.empty(len(members), *members[0].shape, dtype=dtype, device=members[0].device)
        torch._foreach_lerp_(buffers, gradients, new)
        views = list(stack.unbind())
        torch._foreach_copy_(views, buffers)
        if group["nesterov"]:
            torch._foreach_lerp_(views, [gradient.to(dtype) for gradient in gradients], new)
        return stack, gram(stack, self.precise(group))


def _working_dtype(parameter: nn.Parameter) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def batches(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters of one rank, dtype and device, in runs of equal shape, as many as there is room for."""

    def key(parameter: nn.Parameter) -> tuple[Any, ...]:
        return (min(parameter.shape), str(parameter.device), str(parameter.dtype))

    for _, members in groupby(sorted(parameters, key=lambda p: (key(p), tuple(p.shape))), key):
        batch: list[nn.Parameter] = []
        left = 0
        for parameter in members:
            if batch and parameter.numel() > left:
                yield batch
                batch = []
            if not batch:
                left = room(parameter.device)
            batch.append(parameter)
            left -= parameter.numel()
        if batch:
            yield batch


def add_products(parameters: list[nn.Parameter], Q_K_R_R: Tensor, stack: Tensor) -> None:
    """Add `Q D` (wide) or `D Q` (tall) to each parameter in place, Q and D in the working dtype."""
    if stack.device.type == "cpu":
        for parameter, Q_R_R, direction in zip(parameters, Q_K_R_R.unbind(), stack.unbind(), strict=True):
            add_product(parameter, Q_R_R, direction)
        return
    steps = Q_K_R_R @ stack if stack.shape[-2] <= stack.shape[-1] else stack @ Q_K_R_R
    torch._foreach_add_(list[Tensor](parameters), steps.unbind())


def add_product(parameter: nn.Parameter, Q_R_R: Tensor, direction: Tensor) -> None:
    """Add `Q D` (wide) or `D Q` (tall) to a parameter in place."""
    one, other = (Q_R_R, direction) if direction.shape[0] <= direction.shape[1] else (direction, Q_R_R)
    if parameter.dtype == direction.dtype:
        parameter.addmm_(one, other)
    else:
        parameter.add_(one @ other)
