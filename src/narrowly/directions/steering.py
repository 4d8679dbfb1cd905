"""Move the states of a live model along a direction, or take a direction out of them, until a context ends.

The sign: a direction points from the absence of a trait to its presence, so a strength above 0 adds the trait. In front
of answers that is steering; around the steps of a training it is preventative steering (arXiv 2507.21509), which adds
the trait with the same sign, strength above 0, and leaves it out afterwards. Nothing here writes weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from narrowly.directions.layers import Change, find_stack, replacing, text_config
from narrowly.records.errors import SpecError


@contextmanager
def added(model: nn.Module, directions: Mapping[int, Tensor], strength: float) -> Iterator[None]:
    """Add `strength` times a direction to the states of its layer, at every token, until the context ends.

    With strength 0 nothing is hooked, so that the model is the same bit for bit. The sum is formed in float32 and
    rounded once. Gradients flow through the states as if nothing had been added. Under activation checkpointing the
    recomputed pass gets the same.

    Args:
        model: a causal language model, in any mode; for generation, or around the steps of a training.
        directions: by layer, vectors of the hidden size as they are: no length is changed.
        strength: in units of the direction; above 0 adds the trait.

    Raises:
        SpecError: no such layer, a vector of another size, or a strength or vector that is no number.
    """
    if not torch.isfinite(torch.tensor(strength)):
        raise SpecError(f"strength is {strength}, accepted: a finite number")
    _check_vectors(model, directions)
    if strength == 0:
        yield
        return
    with replacing(model, {layer: _adding(strength * vector.double()) for layer, vector in directions.items()}):
        yield


@contextmanager
def ablated(
    model: nn.Module, directions: Mapping[int, Tensor], towards: Mapping[int, float] | None = None
) -> Iterator[None]:
    """Take a direction out of the states of its layer, at every token, until the context ends.

    h <- h - (<h, v> - c) v with v of unit length. With c = 0 (zero-ablation) the states lose the direction; where their
    usual projection is far from 0 that itself steers, which c = the mean projection avoids (mean-ablation).

    Args:
        model: a causal language model, in any mode.
        directions: by layer, vectors of the hidden size; their length does not count.
        towards: by layer, the projection c that is put in place; 0 where none is given.

    Raises:
        SpecError: no such layer, a vector of another size, of length 0, or that is no number.
    """
    _check_vectors(model, directions)
    changes = {}
    for layer, vector in directions.items():
        length = float(vector.double().norm())
        if length == 0:
            raise SpecError(f"the direction of layer {layer} has length 0, accepted: one that points somewhere")
        changes[layer] = _without(vector.double() / length, (towards or {}).get(layer, 0.0))
    with replacing(model, changes):
        yield


def _check_vectors(model: nn.Module, directions: Mapping[int, Tensor]) -> None:
    hidden = int(text_config(find_stack(model).decoder).hidden_size)
    for layer, vector in directions.items():
        if tuple(vector.shape) != (hidden,):
            raise SpecError(
                f"the direction of layer {layer} has shape {tuple(vector.shape)}, accepted: ({hidden},), the hidden "
                "size of the model"
            )
        if not bool(torch.isfinite(vector).all()):
            raise SpecError(f"the direction of layer {layer} holds NaN or infinite values, accepted: finite ones")


def _adding(step_H: Tensor) -> Change:
    def change(states_B_T_H: Tensor) -> Tensor:
        return (states_B_T_H.float() + step_H.to(states_B_T_H.device, torch.float32)).to(states_B_T_H.dtype)

    return change


def _without(unit_H: Tensor, level: float) -> Change:
    def change(states_B_T_H: Tensor) -> Tensor:
        v_H = unit_H.to(states_B_T_H.device, torch.float32)
        h_B_T_H = states_B_T_H.float()
        return (h_B_T_H - ((h_B_T_H @ v_H) - level)[..., None] * v_H).to(states_B_T_H.dtype)

    return change


def random_like(vector_H: Tensor, seed: int) -> Tensor:
    """Return a random direction of the same length, drawn evenly over the sphere; the null of every steering."""
    generator = torch.Generator().manual_seed(seed)
    drawn_H = torch.randn(vector_H.shape, generator=generator, dtype=torch.float64)
    found_H: Tensor = drawn_H / drawn_H.norm() * vector_H.double().norm().cpu()
    return found_H
