"""LoRA-Muon: one step against its definition by SVD, invariance under a change of gauge, B = 0, decay, bad input."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from narrowly.optim import build_optimizer
from narrowly.optim.lora_muon import LoRAMuon
from narrowly.records.errors import OptimiserError, UnknownNameError
from narrowly.records.optimisers.registry import LoRAMuonSpec, MuonSpec

RANK, OUT, IN = 4, 10, 14


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conditioned(condition: float, seed: int) -> Tensor:
    """Return an invertible r x r matrix with this condition."""
    U, _, Vh = torch.linalg.svd(noise(RANK, RANK, seed=seed))
    return (U * torch.logspace(0, float(torch.tensor(condition).log10()), RANK, dtype=torch.float64)) @ Vh


def pair(*, zero: bool = False, seed: int = 0, C: Tensor | None = None) -> tuple[nn.Parameter, nn.Parameter]:
    A, B = noise(RANK, IN, seed=seed), noise(OUT, RANK, seed=seed + 1) * (0 if zero else 1)
    if C is not None:
        A, B = C @ A, B @ torch.linalg.inv(C)
    return nn.Parameter(A), nn.Parameter(B)


def optimiser(pairs: list[Any], **changes: Any) -> LoRAMuon:
    return LoRAMuon(pairs, **LoRAMuonSpec(**{"lr": 0.05, **changes}).model_dump(exclude={"kind"}))


def descend(factors: tuple[nn.Parameter, nn.Parameter], steps: int, **changes: Any) -> list[Tensor]:
    """Return BA after every step on a smooth loss of BA alone."""
    A, B = factors
    optimizer = optimiser([factors], **changes)
    target, mix = noise(OUT, IN, seed=5), noise(OUT, IN, seed=6)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        product = B @ A
        ((product - target).square().mean() + torch.tanh(product * mix).mean()).backward()
        optimizer.step()
        path.append((B @ A).detach())
    return path


def polar(matrix: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U @ Vh


def inverse_root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return (vectors * values.rsqrt()) @ vectors.T


@pytest.mark.parametrize("nesterov", [True, False])
def test_without_a_floor_the_steps_are_those_of_the_published_rule(nesterov) -> None:
    A, B = pair()
    path = descend((A, B), 4, orthogonaliser="exact", nesterov=nesterov, floor=0.0, weight_decay=0.2)
    weights = [parameter.detach().clone() for parameter in pair()]
    buffers = [torch.zeros_like(weight) for weight in weights]
    target, mix = noise(OUT, IN, seed=5), noise(OUT, IN, seed=6)
    for expected in path:
        live = [weight.clone().requires_grad_(True) for weight in weights]
        product = live[1] @ live[0]
        ((product - target).square().mean() + torch.tanh(product * mix).mean()).backward()
        moved = []
        for index, factor in enumerate(live):
            buffers[index] = 0.95 * buffers[index] + 0.05 * factor.grad
            moved.append(0.05 * factor.grad + 0.95 * buffers[index] if nesterov else buffers[index])
        on_A, on_B = inverse_root(weights[0] @ weights[0].T), inverse_root(weights[1].T @ weights[1])
        shrink = (1 - 0.05 * 0.2) ** 0.5
        dA, dB = -0.025 * on_B @ polar(on_B @ moved[0]), -0.025 * polar(moved[1] @ on_A) @ on_A
        weights = [shrink * weights[0] + dA / shrink, shrink * weights[1] + dB / shrink]
        torch.testing.assert_close(weights[1] @ weights[0], expected, rtol=0, atol=1e-9)


def test_no_other_change_of_the_same_length_lowers_the_linearised_loss_more() -> None:
    A, B = pair()
    gradient = noise(OUT, IN, seed=9)
    A.grad, B.grad = B.detach().T @ gradient, gradient @ A.detach().T
    before = [A.detach().clone(), B.detach().clone()]
    optimiser([(A, B)], orthogonaliser="exact", momentum=0.0, floor=0.0).step()
    dA, dB = A.detach() - before[0], B.detach() - before[1]
    assert float(torch.linalg.matrix_norm(dB @ before[0], 2)) == pytest.approx(0.025)
    assert float(torch.linalg.matrix_norm(before[1] @ dA, 2)) == pytest.approx(0.025)
    best = float((B.grad * dB).sum())
    for seed in range(50):
        rival = noise(OUT, RANK, seed=seed) * 0.3 + dB * 10
        rival = rival * 0.025 / torch.linalg.matrix_norm(rival @ before[0], 2)
        assert float((B.grad * rival).sum()) >= best - 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), log_condition=st.floats(0, 4), zero=st.booleans())
@pytest.mark.parametrize("method", ["newton_schulz5", "polar_express", "exact"])
def test_factors_that_differ_by_a_gauge_at_the_start_have_the_same_product_for_ever(
    method, seed, log_condition, zero
) -> None:
    C = conditioned(10**log_condition, seed)
    options = {"orthogonaliser": method, "weight_decay": 0.1}
    plain = descend(pair(zero=zero, seed=seed), 6, **options)
    turned = descend(pair(zero=zero, seed=seed, C=C), 6, **options)
    for one, other in zip(plain, turned, strict=True):
        assert float((one - other).norm()) < 1e-5 * float(one.norm())


def test_a_well_conditioned_gauge_is_invisible_to_rounding_and_a_fixed_eps_would_not_be() -> None:
    C = conditioned(1e3, 3)
    for zero in (False, True):
        plain = descend(pair(zero=zero), 8)
        for one, other in zip(plain, descend(pair(zero=zero, C=C), 8), strict=True):
            assert float((one - other).norm()) < 1e-9 * float(one.norm())
    # the control: factor-wise Muon sees the gauge
    paths = []
    for factors in (pair(), pair(C=C)):
        A, B = factors
        named = [("m.lora_A.weight", A), ("m.lora_B.weight", B)]
        optimizer = build_optimizer(MuonSpec(lr=0.05), named)
        (B @ A).square().sum().backward()
        optimizer.step()
        paths.append((B @ A).detach())
    assert float((paths[0] - paths[1]).norm()) > 1e-2 * float(paths[0].norm())


def test_from_b_zero_only_b_moves_first_and_the_product_grows_by_half_a_step() -> None:
    A, B = pair(zero=True)
    start = A.detach().clone()
    path = descend((A, B), 1, orthogonaliser="exact")
    assert torch.equal(A.detach(), start)
    values = torch.linalg.svdvals(path[0])[:RANK]
    torch.testing.assert_close(values, torch.full_like(values, 0.025), rtol=1e-6, atol=0)


def test_no_step_changes_the_product_by_more_than_lr_and_its_square() -> None:
    path = descend(pair(zero=True), 30, orthogonaliser="exact")
    for one, other in pairwise(path):
        assert float(torch.linalg.matrix_norm(other - one, 2)) <= 0.05 * 1.5 + 1e-12


def test_gradients_of_low_rank_leave_the_factors_finite_and_small() -> None:
    A, B = pair(zero=True)
    optimizer = optimiser([(A, B)])
    gradient = noise(OUT, 1, seed=1) @ noise(1, IN, seed=2)  # B is singular after the first step
    for _ in range(20):
        A.grad, B.grad = B.detach().T @ gradient, gradient @ A.detach().T
        optimizer.step()
    assert bool(A.isfinite().all()) and bool(B.isfinite().all())
    assert float(A.detach().norm()) < 10 * float(pair()[0].detach().norm())


def test_decay_shrinks_the_product_by_one_minus_lr_times_decay() -> None:
    A, B = pair()
    before = (B @ A).detach()
    optimizer = optimiser([(A, B)], weight_decay=0.3)
    A.grad, B.grad = torch.zeros_like(A), torch.zeros_like(B)
    optimizer.step()
    torch.testing.assert_close((B @ A).detach(), (1 - 0.05 * 0.3) * before, rtol=1e-12, atol=1e-14)


def test_pairs_of_many_shapes_move_as_they_do_alone_and_a_pair_without_gradients_stays() -> None:
    shapes = [(2, 5, 7), (2, 5, 7), (3, 6, 4), (2, 7, 5), (4, 9, 9)]

    def make() -> list[tuple[nn.Parameter, nn.Parameter]]:
        made = []
        for i, (r, m, n) in enumerate(shapes):
            A, B = nn.Parameter(noise(r, n, seed=i)), nn.Parameter(noise(m, r, seed=10 + i))
            A.grad, B.grad = noise(r, n, seed=20 + i), noise(m, r, seed=30 + i)
            made.append((A, B))
        return made

    together, alone = make(), make()
    together.append(pair())
    still = [factor.detach().clone() for factor in together[-1]]
    optimiser(together).step()
    for one in alone:
        optimiser([one]).step()
    for one, other in zip(together[:-1], alone, strict=True):
        for factor, expected in zip(one, other, strict=True):
            torch.testing.assert_close(factor.detach(), expected.detach(), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(one.detach(), other) for one, other in zip(together[-1], still, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_parameters_follow_the_float64_path(dtype) -> None:
    factors = tuple(nn.Parameter(factor.detach().to(dtype)) for factor in pair())
    exact = tuple(nn.Parameter(factor.detach().double()) for factor in factors)
    for A, B in (factors, exact):
        A.grad, B.grad = noise(RANK, IN, seed=1).to(A.dtype), noise(OUT, RANK, seed=2).to(A.dtype)
        optimiser([(A, B)], lr=1.0).step()
    for low, high in zip(factors, exact, strict=True):
        torch.testing.assert_close(
            low.detach().double(), high.detach(), rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1
        )


def test_a_learning_rate_of_zero_moves_nothing_even_from_b_zero() -> None:
    A, B = pair(zero=True)
    optimizer = optimiser([(A, B)])
    optimizer.param_groups[0]["lr"] = 0.0
    start = A.detach().clone()
    A.grad, B.grad = torch.zeros_like(A), noise(OUT, RANK, seed=3)
    optimizer.step()
    assert torch.equal(A.detach(), start)
    assert float(B.detach().abs().max()) == 0


def test_what_is_no_pair_is_refused_with_what_was_found() -> None:
    A, B = pair()
    with pytest.raises(OptimiserError, match=r"shapes \(10, 4\) and \(4, 14\); accepted: A \(rank x in\)"):
        optimiser([(B, A)])
    with pytest.raises(OptimiserError, match="rank 4 for 3 x 14"):
        optimiser([(A, nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)))])
    with pytest.raises(OptimiserError, match="1 parameters"):
        optimiser([{"params": [A]}])
    with pytest.raises(OptimiserError, match=r"torch\.float32"):
        optimiser([(A, nn.Parameter(B.detach().float()))])
    with pytest.raises(UnknownNameError, match="did you mean 'exact'"):
        LoRAMuon([(A, B)], **(LoRAMuonSpec(lr=0.1).model_dump(exclude={"kind"}) | {"orthogonaliser": "exat"}))
    optimizer = optimiser([(A, B)])
    A.grad = torch.zeros_like(A)
    with pytest.raises(OptimiserError, match="one gradient, accepted: both or none"):
        optimizer.step()
    zero = nn.Parameter(torch.zeros_like(A))
    zero.grad, B.grad = torch.zeros_like(A), torch.zeros_like(B)
    with pytest.raises(OptimiserError, match="A that is 0, accepted: full row rank"):
        optimiser([(zero, B)]).step()


@pytest.mark.parametrize("orthogonaliser", ["newton_schulz5", "exact"])
@pytest.mark.parametrize("fault", ["zero row", "equal rows"])
def test_an_A_without_full_rank_is_refused_before_anything_moves(orthogonaliser, fault) -> None:
    A, B = (nn.Parameter(p.detach().float()) for p in pair(zero=True))
    with torch.no_grad():
        A[2] = 0 if fault == "zero row" else A[1]
    before = A.detach().clone()
    (B @ A - 1).square().sum().backward()
    with pytest.raises(OptimiserError, match=r"A \(4, 14\) with dependent rows, accepted: full row rank"):
        optimiser([(A, B)], orthogonaliser=orthogonaliser).step()
    assert torch.equal(A, before)
    assert not B.any()


def test_rows_of_A_on_very_different_scales_are_accepted() -> None:
    A, B = pair(C=torch.diag(torch.tensor([1.0, 1e-9, 1e6, 1e-3], dtype=torch.float64)))
    assert bool(descend((A, B), 3)[-1].isfinite().all())


def test_a_decay_that_leaves_nothing_of_the_product_is_refused() -> None:
    with pytest.raises(OptimiserError, match=r"lr 4 with weight_decay 0\.5, accepted: a product below 1"):
        optimiser([pair()], lr=4.0, weight_decay=0.5)


@pytest.mark.parametrize("zero", [True, False])
def test_in_float32_a_gauge_costs_its_condition_and_not_the_square_of_it(zero) -> None:
    """With r x r matrices rounded to float32 before the last product, a condition of 1e4 cost a quarter of BA."""
    A, B = pair(zero=zero)
    C = conditioned(1e4, seed=3)
    plain = [nn.Parameter(factor.detach().float()) for factor in (A, B)]
    turned = [nn.Parameter(factor.detach().float()) for factor in (C @ A, B @ torch.linalg.inv(C))]
    target = noise(OUT, IN, seed=5).float()
    for factors in (plain, turned):
        optimizer = optimiser([tuple(factors)], orthogonaliser="exact")
        for _ in range(10):
            optimizer.zero_grad()
            (factors[1] @ factors[0] - target).square().mean().backward()
            optimizer.step()
    one, other = (factors[1].detach().double() @ factors[0].detach().double() for factors in (plain, turned))
    assert float((one - other).norm() / one.norm()) < 5e-3
