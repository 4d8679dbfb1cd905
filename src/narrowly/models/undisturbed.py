"""Look at a model that is being trained, and leave everything as it was: modes, random states, gradients."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def same_random_state() -> Iterator[None]:
    """Give Python, NumPy and torch (all devices) back the random state they had."""
    import numpy as np
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, and afterwards the mode of every module and the random states as before.

    A module that its owner keeps in another mode than the model, such as a frozen one, gets its own mode back.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    deterministic = torch.get_deterministic_debug_mode()
    model.eval()
    # the run's demand for deterministic kernels is not an observer's business, which may sample
    torch.set_deterministic_debug_mode("default")
    try:
        with same_random_state(), torch.no_grad():
            yield
    finally:
        torch.set_deterministic_debug_mode(deterministic)
        for module, training in modes:
            module.training = training
