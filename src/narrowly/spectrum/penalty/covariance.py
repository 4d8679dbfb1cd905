"""Keep the running second moment C of what adapted modules read, for the spectrum of dW C^(1/2).

`C <- decay C + X^T X` over the tokens X of each optimiser step. Only its shape matters to a ratio, so it is not
divided by their number. A singular value of dW counts for little there if its input direction hardly occurs.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.penalty_names import COVARIANCES, CovarianceKind
from narrowly.spectrum.pairs import lora_layers
from narrowly.spectrum.penalty.task_gradient import remove_all
from narrowly.spectrum.values import full_precision

LARGEST = 2 * 2**30
"""Bytes that full covariances may take."""

TOKENS = 1024
"""Tokens of a micro-batch, evenly spaced, that a module looks at, or up to twice as many.

All of them would cost as much as a full weight gradient. Every step begins at another one: a fixed grid would always
hold the first token of a sequence, whose activations can be hundreds of times as large as all others.
"""


class InputCovariance:
    """Watch the inputs of every LoRA layer of a live PEFT model while it trains, as long as it lives itself.

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

    def __init__(self, model: nn.Module, decay: float, kind: CovarianceKind) -> None:
        if kind not in COVARIANCES:
            raise unknown_name("covariance", str(kind), COVARIANCES)
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
        self.has_read, self._step = False, 0
        handles = [model.register_forward_pre_hook(_Hook(self, None), with_kwargs=True)]
        handles += [
            reader.register_forward_pre_hook(_Hook(self, index), with_kwargs=True)
            for index, reader in enumerate(readers)
        ]
        weakref.finalize(self, remove_all, handles)

    def see_mask(self, mask: object) -> None:
        """Keep the mask of the batch that the model reads next, if it is one of tokens."""
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def see(self, index: int, X: Tensor) -> None:
        """Add what one module reads (... x inputs) to its C."""
        self.has_read = True
        with torch.no_grad(), full_precision(X.device):
            X = X.detach().float()
            if self._mask is not None and X.shape[:-1] == self._mask.shape:
                X = X * self._mask.to(X.device, X.dtype)[..., None]
            X_N_I = X.flatten(0, -2)
            stride = X_N_I.shape[0] // TOKENS
            if stride > 1:
                X_N_I = X_N_I[self._step % stride :: stride]
            if self._moments[index].device != X.device:  # model.to(...) since
                self._moments[index] = self._moments[index].to(X.device)
            if self.kind == "full":
                self._moments[index].addmm_(X_N_I.T, X_N_I)
            else:
                self._moments[index].add_(X_N_I.square().sum(0))

    def begin_step(self, step: int) -> None:
        """Let the past fade by one optimiser step; steps are counted so that a resumed run looks at the same tokens."""
        self._step = step
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
        self.has_read = True
        for moment, one in zip(self._moments, state, strict=True):
            moment.copy_(one)


class _Hook:
    """A hook that does not keep its owner alive. Copies of a module, deep or pickled, are not watched.

    Args:
        owner: who watches.
        index: of the module; None for the model, whose mask is looked at.
    """

    def __init__(self, owner: InputCovariance | None, index: int | None) -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self._index = index

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        owner = None if self._owner is None else self._owner()
        if owner is None:
            return
        if self._index is None:
            owner.see_mask(kwargs.get("attention_mask"))
        elif module.training:
            owner.see(self._index, args[0])

    def __reduce__(self) -> Any:
        return _Hook, (None, self._index)
