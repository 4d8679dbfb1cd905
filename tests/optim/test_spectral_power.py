"""SpectralPower: its singular values against a float64 SVD, its two known members, its floor, its range."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from narrowly.optim import build_optimizer
from narrowly.optim.muon import Muon
from narrowly.optim.spectral_power import SpectralPower, power_of
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.muon import smallest_floor
from narrowly.records.optimisers.registry import MuonSpec, SpectralPowerSpec

SHAPES = [(4, 16), (16, 4), (8, 40), (4, 16), (5, 5)]


def power(params: list[nn.Parameter], **changes: Any) -> SpectralPower:
    return SpectralPower(params, **SpectralPowerSpec(**{"lr": 0.1, **changes}).model_dump(exclude={"kind"}))


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step_on(directions: list[Tensor], **changes: Any) -> list[Tensor]:
    """Return the steps, without the minus sign, on momenta that are these directions."""
    params = [nn.Parameter(torch.zeros_like(D)) for D in directions]
    for parameter, D in zip(params, directions, strict=True):
        parameter.grad = D.clone()
    power(params, **{"lr": 1.0, "momentum": 0.0, "scale_rule": "original", **changes}).step()
    scale = [max(1.0, D.shape[0] / D.shape[1]) ** 0.5 for D in directions]
    return [-parameter.detach() / s for parameter, s in zip(params, scale, strict=True)]


def by_svd(D: Tensor, p: float, floor: float) -> Tensor:
    """The definition: singular values to the power p, faded below the floor, at Frobenius norm sqrt(r)."""
    U, S, Vh = torch.linalg.svd(D, full_matrices=False)
    S = S / S.norm()
    weights = S * (S**2 + floor**2) ** ((p - 1) / 2)
    return (U * (weights / weights.norm() * len(S) ** 0.5)) @ Vh


@settings(max_examples=40, deadline=None)
@given(
    p=st.floats(-2, 1),
    floor=st.sampled_from([1e-4, 1e-3, 1e-2, 0.3]),
    log_condition=st.floats(0, 5),
    seed=st.integers(0, 10**6),
)
def test_any_power_equals_its_float64_twin_by_svd(p, floor, log_condition, seed) -> None:
    floor = max(floor, smallest_floor(p))
    U, V = torch.linalg.qr(noise(6, 6, seed=seed)).Q, torch.linalg.qr(noise(20, 6, seed=seed + 1)).Q
    D = (U * torch.logspace(0, -log_condition, 6, dtype=torch.float64)) @ V.T
    for found, direction in zip(step_on([D, D.T.contiguous()], power=p, floor=floor), (D, D.T), strict=True):
        expected = by_svd(direction, p, floor)
        assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_a_power_of_one_is_momentum_sgd_at_a_fixed_norm() -> None:
    directions = [noise(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    for found, D in zip(step_on(directions, power=1.0), directions, strict=True):
        torch.testing.assert_close(found, D / D.norm() * min(D.shape) ** 0.5, rtol=1e-12, atol=1e-14)


def test_a_power_of_zero_is_muon_with_the_exact_polar_factor() -> None:
    ours = [nn.Parameter(noise(*shape, seed=i)) for i, shape in enumerate(SHAPES)]
    muons = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    spec = MuonSpec(lr=0.1, orthogonaliser="exact", weight_decay=0.1)
    optimizers = [
        power(ours, power=0.0, floor=1e-4, weight_decay=0.1),
        Muon(muons, **spec.model_dump(exclude={"kind", "other"})),
    ]
    for step in range(4):
        for params, optimizer in zip((ours, muons), optimizers, strict=True):
            for i, parameter in enumerate(params):
                parameter.grad = noise(*parameter.shape, seed=100 * step + i)
            optimizer.step()
    for one, other in zip(ours, muons, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)  # the floor takes (1e-4 / s)^2 / 2 off a direction


@pytest.mark.parametrize(("p", "order"), [(1.0, "falling"), (0.5, "falling"), (-0.5, "rising"), (-1.0, "rising")])
def test_below_zero_the_weak_directions_go_first(p, order) -> None:
    U, V = torch.linalg.qr(noise(4, 4, seed=1)).Q, torch.linalg.qr(noise(9, 4, seed=2)).Q
    D = (U * torch.tensor([1.0, 0.5, 0.2, 0.1], dtype=torch.float64)) @ V.T
    weights = (U.T @ step_on([D], power=p)[0] @ V).diagonal()
    pairs = list(zip(weights[:-1].tolist(), weights[1:].tolist(), strict=True))
    assert all(one > other if order == "falling" else one < other for one, other in pairs)
    assert float(weights.norm()) == pytest.approx(2)


def test_below_the_floor_directions_fade_and_what_is_not_there_is_not_amplified() -> None:
    U, V = torch.linalg.qr(noise(4, 4, seed=1)).Q, torch.linalg.qr(noise(9, 4, seed=2)).Q
    D = (U * torch.tensor([1.0, 1e-2, 1e-5, 0.0], dtype=torch.float64)) @ V.T
    weights = (U.T @ step_on([D], power=-1.0, floor=1e-2)[0] @ V).diagonal()
    assert float(weights[1]) > 0.99 * 2  # at the floor: the heaviest
    assert float(weights[2]) < 0.01 * float(weights[1])
    assert abs(float(weights[3])) < 1e-9


@pytest.mark.parametrize("p", [0.0, -0.5, -1.0, -1.5, -2.0])
def test_a_float32_momentum_of_low_rank_is_not_led_by_its_rounding(p) -> None:
    rank, directions = 32, 8
    U, V = torch.linalg.qr(noise(rank, rank, seed=1)).Q, torch.linalg.qr(noise(512, rank, seed=2)).Q
    values = torch.cat([torch.logspace(0, -1, directions), torch.zeros(rank - directions)]).double()
    D = ((U * values) @ V.T).float()
    (found,) = step_on([D], power=p, floor=smallest_floor(p))
    shares = (U.T @ found.double()).square().sum(1)
    assert float(shares[directions:].sum() / shares.sum()) < 1e-4
    assert float(shares.sum()) == pytest.approx(rank, rel=1e-2)


def test_powers_outside_the_range_and_floors_that_do_not_converge_are_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    fields = SpectralPowerSpec(lr=0.1).model_dump(exclude={"kind"})
    for change, message in (
        ({"power": 1.5}, r"power is 1\.5, accepted: -2 to 1"),
        ({"floor": 1e-6}, "floor is 1e-06, accepted with power 0.0: 0.0001 to below 1"),
        ({"power": -2.0}, r"floor is 0\.001, accepted with power -2\.0: 0\.01 to below 1"),
    ):
        with pytest.raises(OptimiserError, match=message):
            SpectralPower([parameter], **(fields | change))
        with pytest.raises(ValueError, match=r"power|floor"):
            SpectralPowerSpec(lr=0.1, **change)
    optimizer = SpectralPower([parameter], **fields)
    with pytest.raises(OptimiserError, match="power is -3"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 3))], "power": -3})
    assert len(optimizer.param_groups) == 1


def test_the_function_itself_is_a_power_up_to_one_factor() -> None:
    values = torch.tensor([1.0, 0.3, 1e-2, 1e-5, 0.0], dtype=torch.float64)
    found = power_of(-0.7, torch.diag(values)[None], 1e-2)[0].diagonal()
    expected = ((values + 1e-4) / (1 + 1e-4)) ** -0.7
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_other_trainable_parameters_are_refused() -> None:
    norm = ("norm.weight", nn.Parameter(torch.ones(3)))
    with pytest.raises(OptimiserError, match=r"SpectralPower updates LoRA factors only; found 1 .*norm\.weight"):
        build_optimizer(SpectralPowerSpec(lr=0.1), [norm, ("m.lora_A.weight", nn.Parameter(torch.ones(2, 3)))])
