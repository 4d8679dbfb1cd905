"""The running second moment C of what adapted modules read, for the spectrum of dW C^(1/2), as inputs see it.

`C <- decay C + X^T X` over the tokens X of each optimiser step. Only its shape matters to a ratio, so it is not
divided by their number. A singular value of dW counts for little there if its input direction hardly occurs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spectralign.records.errors import SpecError, unknown_name
from spectralign.spectrum.pairs import lora_layers
from spectralign.spectrum.values import full_precision

LARGEST = 2 * 2**30
"""Bytes that full covariances may take."""

TOKENS = 1024
"""Tokens of a micro-batch that a module looks at, evenly spaced; all would cost as much as a full weight gradient."""


class InputCovariance:
    """Watches the inputs of every LoRA layer of a live PEFT model while it trains.

    Positions that the model's `attention_mask` (tokens x batch, 2-D) marks as padding are left out. Under DDP every
    process sees its own inputs.

    Args:
        model: the PEFT model.
        decay: share kept per optimiser step, in [0, 1).
        kind: "full" (I x I floats for each module) or "diagonal" (I floats).

    Raises:
        SpecError: decay is 1, or full covariances would take more than 2 GiB.
        UnknownNameError: another kind.
    """

    def __init__(self, model: nn.Module, decay: float, kind: Literal["full", "diagonal"]) -> None:
        if kind not in ("full", "diagonal"):
            raise unknown_name("covariance", str(kind), ("full", "diagonal"))
        if decay >= 1:
            raise SpecError(f"penalty decay is {decay!r}, accepted: from 0 to below 1")
        readers = [layer.lora_A[adapter] for _, layer, adapter in lora_layers(model)]
        sizes = [int(reader.weight.shape[1]) for reader in readers]
        if kind == "full" and sum(4 * size**2 for size in sizes) > LARGEST:
            raise SpecError(
                f"functional penalty: full covariances of {len(sizes)} modules take "
                f"{sum(4 * size**2 for size in sizes) / 2**30:.1f} GiB, accepted: up to {LARGEST / 2**30:.0f} GiB "
                "(covariance: diagonal, or fewer target modules)"
            )
        self.decay, self.kind = decay, kind
        self._mask: Tensor | None = None
        self._moments = [
            torch.zeros((size, size) if kind == "full" else (size,), device=reader.weight.device)
            for size, reader in zip(sizes, readers, strict=True)
        ]
        model.register_forward_pre_hook(self._see_mask, with_kwargs=True)
        for reader, moment in zip(readers, self._moments, strict=True):
            reader.register_forward_pre_hook(self._hook(moment))

    def _see_mask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def _hook(self, moment: Tensor) -> Callable[[nn.Module, Any], None]:
        def watch(reader: nn.Module, args: Any) -> None:
            if not reader.training:
                return
            X = args[0].detach()
            with torch.no_grad(), full_precision(X.device):
                X = X.float()
                if self._mask is not None and X.shape[:-1] == self._mask.shape:
                    X = X * self._mask.to(X.device, X.dtype)[..., None]
                X_N_I = X.flatten(0, -2)
                X_N_I = X_N_I[:: max(1, X_N_I.shape[0] // TOKENS)]
                if self.kind == "full":
                    moment.addmm_(X_N_I.T, X_N_I)
                else:
                    moment.add_(X_N_I.square().sum(0))

        return watch

    def begin_step(self) -> None:
        """Let the past fade by one optimiser step."""
        torch._foreach_mul_(self._moments, self.decay)

    def current(self) -> list[Tensor]:
        """Return C of every module, in the order of `pairs_from_model`; zeros where nothing has been read yet."""
        return self._moments

    def state(self) -> list[Tensor]:
        """Return copies on the CPU."""
        return [moment.cpu().clone() for moment in self._moments]

    def load(self, state: Sequence[Tensor]) -> None:
        """Set every C.

        Raises:
            SpecError: other shapes than those of this model.
        """
        if [tuple(one.shape) for one in state] != [tuple(one.shape) for one in self._moments]:
            raise SpecError(
                f"covariances of {len(state)} modules do not fit, accepted: {len(self._moments)} of this model"
            )
        for moment, one in zip(self._moments, state, strict=True):
            moment.copy_(one)
