"""A model that was looked at is afterwards what it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from narrowly.models.undisturbed import undisturbed


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_modes_of_every_module_random_states_and_gradients_come_back_even_after_an_error() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(2, 2), torch.nn.Dropout(0.5), torch.nn.Sequential(torch.nn.Dropout(0.5))
    )
    model.train()
    model[2].eval()  # a part that its owner keeps frozen
    model[0].weight.grad = torch.ones(2, 2)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    expected = draws()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    with pytest.raises(ZeroDivisionError), undisturbed(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        draws()
        raise ZeroDivisionError
    assert [module.training for module in model] == [True, True, False] and not model[2][0].training
    assert draws() == expected
    assert torch.equal(model[0].weight.grad, torch.ones(2, 2)) and torch.is_grad_enabled()
