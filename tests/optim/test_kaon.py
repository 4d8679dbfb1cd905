"""Kaon: its singular values against the scalar map of arXiv 2605.11181, and the norm of its step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowly.optim.kaon import Kaon
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.registry import KaonSpec

GOLDEN = {  # singular value -> what five rounds of s <- 4.1 s (1 - s^2)^2 make of it in plain Python
    0.8: 0.1738974418335714,
    0.5: 1.1703831039483341,
    0.3: 0.3958344940576987,
    0.1: 0.15431578998048073,
}


def step_on(D: Tensor, **changes: Any) -> Tensor:
    """Return the step, without the minus sign and the scale rule, on a momentum that is this direction."""
    parameter = nn.Parameter(torch.zeros_like(D))
    parameter.grad = D.clone()
    spec = KaonSpec(**{"lr": 1.0, "momentum": 0.0, **changes})
    Kaon([parameter], **spec.model_dump(exclude={"kind"})).step()
    return -parameter.detach() / max(1.0, D.shape[0] / D.shape[1]) ** 0.5


def mapped(values: Tensor, rounds: int) -> Tensor:
    for _ in range(rounds):
        values = 4.1 * values * (1 - values**2) ** 2
    return values


def direction(values: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    r = len(values)
    U = torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(columns, r, generator=generator, dtype=torch.float64)).Q
    return (U * values) @ V.T, U, V


@pytest.mark.parametrize("rounds", [1, 3, 5])
@pytest.mark.parametrize("tall", [False, True])
def test_the_singular_vectors_stay_and_the_values_follow_the_scalar_map(rounds, tall) -> None:
    values = torch.tensor([0.8, 0.5, 0.3, 0.1], dtype=torch.float64)
    values = values / values.norm()
    D, U, V = direction(7.0 * values, 9)
    found = step_on(D.T.contiguous() if tall else D, rounds=rounds)
    found = found.T if tall else found
    expected = mapped(values, rounds)
    expected = expected / expected.norm() * 2.0
    torch.testing.assert_close(U.T @ found @ V, torch.diag(expected), rtol=1e-9, atol=1e-9)


def test_the_map_of_five_rounds_has_its_golden_values() -> None:
    starts = torch.tensor(list(GOLDEN), dtype=torch.float64)
    torch.testing.assert_close(mapped(starts, 5), torch.tensor(list(GOLDEN.values()), dtype=torch.float64))


def test_the_step_has_the_norm_of_muons_and_does_not_depend_on_the_size_of_the_gradient() -> None:
    D = torch.randn(4, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(step_on(D).norm()) == pytest.approx(2.0, rel=1e-12)
    torch.testing.assert_close(step_on(1e3 * D), step_on(D), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_momentum_that_is_nothing_or_of_rank_one_gives_no_step(rank) -> None:
    D = torch.outer(torch.arange(1.0, 4.0), torch.arange(1.0, 9.0)).double() * rank
    assert float(step_on(D).norm()) == 0.0


def test_no_round_is_refused() -> None:
    fields = KaonSpec(lr=1.0).model_dump(exclude={"kind", "rounds"})
    with pytest.raises(OptimiserError, match="rounds is 0"):
        Kaon([nn.Parameter(torch.zeros(2, 3))], rounds=0, **fields)
