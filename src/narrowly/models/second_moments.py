"""Measure what the adapted modules of a base read on given prompts: the second moment of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def input_second_moments(model: Any, prompts: Iterable[Sequence[int]]) -> dict[str, Tensor]:
    """Return E[x x^T] of the inputs of every adapted module of the base, over all tokens of the prompts, in float64.

    It is the metric of the functional inner product: tr(dW C dW'^T) is the mean over these tokens of the inner product
    of the shifts dW x and dW' x. The adapter is switched off meanwhile.

    Args:
        model: a PEFT model whose adapter is not merged, in eval mode.
        prompts: token ids, each prompt alone in its pass, so that there is no padding; at least one token in all.

    Returns:
        Module name without PEFT's prefixes -> inputs x inputs.
    """
    import torch

    from narrowly.spectrum.pairs import lora_layers

    moments: dict[str, Tensor] = {}
    tokens = 0

    def see(name: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...]) -> None:
            X_N_I = args[0].detach().double().flatten(0, -2)
            moments[name] = moments.get(name, 0) + X_N_I.mT @ X_N_I

        return hook

    handles = [layer.register_forward_pre_hook(see(name)) for name, layer, _ in lora_layers(model)]
    try:
        with torch.no_grad(), model.disable_adapter():
            for prompt in prompts:
                model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=False)
                tokens += len(prompt)
    finally:
        for handle in handles:
            handle.remove()
    return {name: moment / tokens for name, moment in moments.items()}
