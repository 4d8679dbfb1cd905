"""Muon from Gram matrices: equal to the plain iteration matrix by matrix, and the invariances a step must have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from narrowly.optim import Muon, gram_optimizer
from narrowly.optim.orthogonalise import RANK_FLOOR, coefficients, gram, orthogonalise, polar_of_gram
from narrowly.optim.spectral_power import SpectralPower
from narrowly.records.optimisers.registry import MuonSpec, SpectralPowerSpec

LORA = [(32, 4096), (32, 12288), (4096, 32), (1024, 32), (12288, 32)]
"""The factors of Qwen3-8B at rank 32."""

OURS: dict[str, Any] = {
    "newton_schulz5": lambda params: muon(params, orthogonaliser="newton_schulz5"),
    "polar_express": lambda params: muon(params, orthogonaliser="polar_express"),
    "exact": lambda params: muon(params, orthogonaliser="exact"),
    "power_down": lambda params: power(params, power=-0.5),
    "power_up": lambda params: power(params, power=0.5),
}


def muon(params: Any, **changes: Any) -> Muon:
    return Muon(params, **MuonSpec(**{"lr": 0.1, **changes}).model_dump(exclude={"kind"}))


def power(params: Any, **changes: Any) -> SpectralPower:
    return SpectralPower(params, **SpectralPowerSpec(**{"lr": 0.1, **changes}).model_dump(exclude={"kind"}))


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_condition(condition: float, shape: tuple[int, int], seed: int) -> Tensor:
    rows, columns = shape
    r = min(shape)
    U, V = torch.linalg.qr(noise(rows, r, seed=seed)).Q, torch.linalg.qr(noise(columns, r, seed=seed + 1)).Q
    return (U * torch.logspace(0, -float(torch.tensor(condition).log10()), r, dtype=torch.float64)) @ V.T


def plain_iteration(D: Tensor, method: Any, steps: int, eps: float = 1e-7) -> Tensor:
    """The quintic iteration on the matrix itself, in its own dtype: the twin."""
    X = D if D.shape[0] <= D.shape[1] else D.T
    X = X / X.norm().clamp(min=eps)
    for a, b, c in coefficients(method, steps):
        G = X @ X.T
        X = a * X + (b * G + c * G @ G) @ X
    return X if D.shape[0] <= D.shape[1] else X.T


def error(found: Tensor, expected: Tensor) -> float:
    """Relative in Frobenius norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("shape", LORA)
def test_steps_of_lora_factors_equal_the_float32_twin_within_1e_5(shape) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    optimizer = muon([parameter], lr=1.0, scale_rule="spectral_norm")
    buffer = torch.zeros(shape)
    for seed in range(2):
        before = parameter.detach().clone()
        parameter.grad = noise(*shape, seed=seed).float()
        optimizer.step()
        buffer = 0.95 * buffer + 0.05 * parameter.grad
        step = plain_iteration(0.05 * parameter.grad + 0.95 * buffer, "newton_schulz5", 5)
        factor = gram_optimizer.SCALE_RULES["spectral_norm"](*shape)
        assert error(before - parameter.detach(), factor * step) < 1e-5


@pytest.mark.parametrize("condition", [1.0, 10.0, 40.0, 100.0, 1e3, 1e5])
@pytest.mark.parametrize(("method", "steps"), [("newton_schulz5", 5), ("polar_express", 5), ("polar_express", 8)])
def test_a_badly_conditioned_momentum_costs_no_accuracy(method, steps, condition) -> None:
    for shape in [(32, 512), (512, 32)]:
        D = with_condition(condition, shape, seed=7).float()
        found = orthogonalise(D[None], method, steps, 1e-7)[0]
        truth = plain_iteration(D.double(), method, steps)
        # as close to the float64 iteration as the plain float32 iteration is, up to a factor, or closer than 1e-5
        assert error(found, truth) < max(1e-5, 2 * error(plain_iteration(D, method, steps), truth))
    if (method, steps) == ("newton_schulz5", 5):
        assert error(found, plain_iteration(D, method, steps)) < 1.1e-5


def test_gram_matrices_are_float64_sums_or_nearly_so_over_many_rows() -> None:
    for shape in ((16, 2000), (2000, 16), (16, 400), (8, 2000)):
        stack = torch.stack([with_condition(c, shape, seed=2) for c in (2.0, 1e4)]).float()
        wide = stack.double() if shape[0] < shape[1] else stack.double().mT
        truth = wide @ wide.mT
        assert error(gram(stack), truth) < 1e-14
        found = gram(stack, precise=False)
        assert found.dtype == torch.float64
        in_blocks = max(shape) == 2000 and min(shape) == 16
        assert (error(found, truth) > 1e-12) == in_blocks
        assert error(found, truth) < 1e-7


def test_exact_is_closer_to_the_polar_factor_than_a_float32_svd_and_ends_at_the_rank_floor() -> None:
    for condition in (10.0, 1e3, 1e5):
        D = with_condition(condition, (8, 60), seed=4).float()
        U, _, Vh = torch.linalg.svd(D.double(), full_matrices=False)
        U32, _, Vh32 = torch.linalg.svd(D, full_matrices=False)
        assert error(orthogonalise(D[None], "exact", 5, 1e-7)[0], U @ Vh) < error(U32 @ Vh32, U @ Vh)
    faint = with_condition(10 / RANK_FLOOR, (8, 60), seed=4)
    values = torch.linalg.svdvals(orthogonalise(faint[None], "exact", 5, 1e-7)[0])
    assert float(values[6]) == pytest.approx(1, abs=1e-3)
    assert float(values[7]) < 1e-6


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
@pytest.mark.parametrize("kind", sorted(OURS))
def test_the_order_of_the_parameters_does_not_matter(kind, seed, data) -> None:
    sizes = st.tuples(st.integers(1, 6), st.integers(1, 12))
    shapes = data.draw(st.lists(sizes, min_size=1, max_size=6))
    order = data.draw(st.permutations(range(len(shapes))))

    def moved(indices: list[int]) -> dict[int, Tensor]:
        params = {i: nn.Parameter(noise(*shapes[i], seed=seed + i)) for i in indices}
        for i, parameter in params.items():
            parameter.grad = noise(*shapes[i], seed=seed + 100 + i)
        OURS[kind](list(params.values())).step()
        return {i: parameter.detach() for i, parameter in params.items()}

    plain, permuted = moved(list(range(len(shapes)))), moved(order)
    for i, expected in plain.items():
        torch.testing.assert_close(permuted[i], expected, rtol=1e-7, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e6), rows=st.integers(1, 6), columns=st.integers(1, 12))
@pytest.mark.parametrize("kind", sorted(OURS))
def test_the_scale_of_the_gradient_and_a_transposition_do_not_change_the_step(kind, seed, scale, rows, columns) -> None:
    gradient = noise(rows, columns, seed=seed)

    def step(change: Any) -> Tensor:
        parameter = nn.Parameter(torch.zeros_like(change(gradient)))
        parameter.grad = change(gradient).contiguous()
        optimizer = OURS[kind]([parameter])
        optimizer.param_groups[0]["scale_rule"] = "match_rms_adamw"
        optimizer.step()
        return parameter.detach()

    plain = step(lambda G: G)
    torch.testing.assert_close(step(lambda G: G * scale), plain, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(step(lambda G: G.T).T, plain, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(step(lambda G: -G), -plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", sorted(OURS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_stacks_as_on_an_accelerator_give_what_one_matrix_at_a_time_gives(kind, dtype, monkeypatch) -> None:
    shapes = [(3, 20), (3, 20), (20, 3), (3, 40), (3, 20), (40, 3), (2, 9)]

    def moved(stacked: bool) -> list[Tensor]:
        params = [nn.Parameter(noise(*shape, seed=i).to(dtype)) for i, shape in enumerate(shapes)]
        optimizer = OURS[kind](params)
        optimizer.param_groups[0]["weight_decay"] = 0.1
        if stacked:
            monkeypatch.setattr(optimizer, "_step_in_turn", optimizer._step_stacked)
        for step in range(2):
            for i, parameter in enumerate(params):
                parameter.grad = noise(*parameter.shape, seed=50 + i + 100 * step).to(dtype)
            optimizer.step()
        return [parameter.detach() for parameter in params]

    for one, other in zip(moved(True), moved(False), strict=True):
        loose = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.02}
        torch.testing.assert_close(one, other, **loose)


def test_parameters_are_taken_by_rank_and_as_many_as_there_is_room_for(monkeypatch) -> None:
    shapes = [(3, 20), (3, 20), (20, 3), (3, 40), (3, 20), (40, 3), (2, 9)]
    for device, sizes in (("cpu", [1, 6]), ("meta", [1, 1, 2, 3])):
        monkeypatch.setattr(gram_optimizer, "SCRATCH", {"cpu": 10**6, "other": 190})
        params = [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]
        assert sorted(len(batch) for batch in gram_optimizer.batches(params)) == sizes


@pytest.mark.parametrize("kind", sorted(OURS))
def test_zero_and_rank_deficient_gradients_and_absent_ones_are_harmless(kind) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        params = [
            nn.Parameter(noise(*shape, seed=i).to(dtype)) for i, shape in enumerate([(4, 9), (9, 4), (4, 9), (2, 3)])
        ]
        before = [parameter.detach().clone() for parameter in params]
        optimizer = OURS[kind](params)
        params[0].grad = torch.zeros_like(params[0])
        params[1].grad = (noise(9, 1, seed=5) @ noise(1, 4, seed=6)).to(dtype)
        params[2].grad = noise(4, 9, seed=7).to(dtype) * 1e-18
        for _ in range(3):
            optimizer.step()
        assert torch.equal(params[0].detach(), before[0])
        assert torch.equal(params[3].detach(), before[3])
        assert params[3] not in optimizer.state
        assert all(bool(parameter.isfinite().all()) for parameter in params)
        assert float((params[1] - before[1]).detach().norm()) < 3


@pytest.mark.parametrize("kind", sorted(OURS))
def test_bfloat16_parameters_take_the_step_of_their_float32_copies(kind) -> None:
    shapes = [(4, 30), (30, 4), (4, 30)]
    low = [nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16)) for shape in shapes]
    high = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for i, (one, other) in enumerate(zip(low, high, strict=True)):
        one.grad = noise(*shapes[i], seed=i).bfloat16()
        other.grad = one.grad.float()
    for params in (low, high):
        OURS[kind](params).step()
    for one, other in zip(low, high, strict=True):
        assert one.dtype == torch.bfloat16
        assert error(one.detach(), other.detach()) < 0.02


@pytest.mark.parametrize("kind", sorted(OURS))
def test_a_saved_state_loads_and_continues_bit_for_bit(kind, tmp_path) -> None:
    def start() -> tuple[list[nn.Parameter], Any]:
        params = [nn.Parameter(noise(*shape, seed=i).float()) for i, shape in enumerate([(3, 8), (8, 3), (2, 5)])]
        return params, OURS[kind](params)

    def drive(params: list[nn.Parameter], optimizer: Any, steps: range) -> None:
        for step in steps:
            for i, parameter in enumerate(params):
                parameter.grad = noise(*parameter.shape, seed=100 * step + i).float()
            optimizer.step()

    params, optimizer = start()
    drive(params, optimizer, range(3))
    torch.save([optimizer.state_dict(), [p.detach() for p in params]], tmp_path / "state.pt")
    again, resumed = start()
    state, weights = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state)
    for parameter, weight in zip(again, weights, strict=True):
        parameter.data.copy_(weight)
    drive(params, optimizer, range(3, 6))
    drive(again, resumed, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(params, again, strict=True))


def test_a_learning_rate_in_a_tensor_gives_the_same_step() -> None:
    steps = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        parameter = nn.Parameter(noise(3, 7, seed=0))
        parameter.grad = noise(3, 7, seed=1)
        Muon([parameter], **(MuonSpec(lr=0.1, weight_decay=0.1).model_dump(exclude={"kind"}) | {"lr": lr})).step()
        steps.append(parameter.detach())
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-12, atol=1e-14)


def test_the_function_of_the_gram_matrix_serves_wide_and_tall_alike() -> None:
    D = noise(5, 40, seed=3)
    Q = polar_of_gram(gram(D[None]), "polar_express", 9, 1e-7)[0]
    U, _, Vh = torch.linalg.svd(D, full_matrices=False)
    torch.testing.assert_close(Q @ D, U @ Vh, rtol=0, atol=1e-6)
    torch.testing.assert_close(polar_of_gram(gram(D.T[None]), "polar_express", 9, 1e-7)[0], Q, rtol=1e-9, atol=1e-12)
