"""Every optimiser from a library against a plain float64 transcription of its published algorithm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import plain_optimisers as plain
from narrowly.optim import build_optimizer
from narrowly.records.optimisers.registry import (
    AdafactorSpec,
    AdEMAMixSpec,
    LoRARITESpec,
    ProdigySpec,
    ScheduleFreeAdamWSpec,
    SOAPSpec,
)

SHAPES = {"up": (6, 3, 8), "down": (5, 2, 4)}
"""Inputs, rank, outputs of two adapted layers."""
STEPS = 13


def generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(sum(number * 1009**place for place, number in enumerate(key)))


def lora(dtype: torch.dtype = torch.float64, scale_B: float = 1.0) -> dict[str, nn.Parameter]:
    """Return factors by PEFT's names, A (rank x in) and B (out x rank)."""
    factors = {}
    for index, (name, (inputs, rank, outputs)) in enumerate(SHAPES.items()):
        A = torch.randn(rank, inputs, generator=generator(index, 0), dtype=torch.float64)
        B = scale_B * torch.randn(outputs, rank, generator=generator(index, 1), dtype=torch.float64)
        factors[f"layers.0.{name}.lora_A.default.weight"] = nn.Parameter(A.to(dtype))
        factors[f"layers.0.{name}.lora_B.default.weight"] = nn.Parameter(B.to(dtype))
    return factors


def gradients(steps: int = STEPS) -> list[dict[str, Tensor]]:
    """Return noise around a constant gradient, so that slow moments and estimates of a distance have work to do."""
    drawn = []
    for step in range(steps):
        drawn.append(
            {
                name: 0.1 * torch.randn(p.shape, generator=generator(step, i, 7), dtype=torch.float64)
                + 0.05 * torch.randn(p.shape, generator=generator(99, i), dtype=torch.float64)
                for i, (name, p) in enumerate(lora().items())
            }
        )
    return drawn


def driven(spec: Any, factors: dict[str, nn.Parameter], rates: list[float] | None = None) -> tuple[list[Any], Any]:
    """Return the factors after every step, and the optimiser."""
    optimizer = build_optimizer(spec, factors.items())
    states = []
    for step, drawn in enumerate(gradients()):
        for name, parameter in factors.items():
            parameter.grad = drawn[name].to(parameter.dtype).clone()
        if rates is not None:
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
        optimizer.step()
        states.append({name: p.detach().clone() for name, p in factors.items()})
    return states, optimizer


def assert_path(found: list[dict[str, Tensor]], name: str, expected: list[Tensor], atol: float = 1e-9) -> None:
    assert len(found) == len(expected) == STEPS
    for step, (state, weight) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            state[name].double(), weight, rtol=0, atol=atol, msg=lambda text, s=step: f"{name}, step {s + 1}: {text}"
        )


def per_parameter(name: str) -> tuple[Tensor, list[Tensor]]:
    return lora()[name].detach(), [drawn[name] for drawn in gradients()]


@pytest.mark.parametrize("warmup", [None, 6, 40])
def test_ademamix_follows_algorithm_1_of_its_paper(warmup: int | None) -> None:
    spec = AdEMAMixSpec(lr=0.02, beta3=0.99, alpha=3.0, warmup_steps=warmup, eps=1e-6, weight_decay=0.1)
    found, _ = driven(spec, lora())
    for name in lora():
        W, Gs = per_parameter(name)
        expected = plain.ademamix(
            W, Gs, lr=0.02, betas=(0.9, 0.999, 0.99), alpha=3.0, warmup=warmup, eps=1e-6, decay=0.1
        )
        assert_path(found, name, expected)


@pytest.mark.parametrize("changes", [{}, {"lr": 0.5, "clip": 2.0, "eps1": 1e-2, "weight_decay": 0.1}])
def test_adafactor_follows_its_paper_with_torchs_floor(changes: dict[str, float]) -> None:
    spec = AdafactorSpec(**{"lr": 0.02, **changes})
    found, _ = driven(spec, lora(scale_B=1e-5))  # so that eps2 is what B's steps are relative to
    eps1 = torch.finfo(torch.float64).eps if spec.eps1 is None else spec.eps1
    for name, parameter in lora(scale_B=1e-5).items():
        expected = plain.adafactor(
            parameter.detach(), per_parameter(name)[1], lr=spec.lr, beta2_decay=-0.8, eps1=eps1, eps2=1e-3,
            clip=spec.clip, decay=spec.weight_decay,
        )  # fmt: skip
        assert_path(found, name, expected)


def test_adafactor_does_not_factor_a_vector() -> None:
    w = torch.linspace(-1, 1, 7, dtype=torch.float64)
    parameter = nn.Parameter(w.clone())
    optimizer = build_optimizer(AdafactorSpec(lr=0.3), [("norm.weight", parameter)])
    drawn = [torch.randn(7, generator=generator(i), dtype=torch.float64) for i in range(5)]
    for g in drawn:
        parameter.grad = g.clone()
        optimizer.step()
    expected = plain.adafactor_vector(w, drawn, lr=0.3, beta2_decay=-0.8, eps2=1e-3)[-1]
    torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias_correction": True, "weight_decay": 0.1},
        {"safeguard_warmup": True, "lr": 0.5, "beta3": 0.9},
        {"growth_rate": 1.5, "d_coef": 2.0},
    ],
    ids=str,
)
def test_prodigy_follows_its_papers_adam_variant_and_so_does_its_distance(changes: dict[str, Any]) -> None:
    spec = ProdigySpec(**{"d0": 1e-3, **changes})
    found, optimizer = driven(spec, lora())
    names = list(lora())
    expected, distances = plain.prodigy(
        [lora()[name].detach() for name in names],
        [[drawn[name] for name in names] for drawn in gradients()],
        lr=spec.lr, betas=(0.9, 0.999), beta3=spec.beta3, d0=1e-3, d_coef=spec.d_coef,
        growth=float("inf") if spec.growth_rate is None else spec.growth_rate, decay=spec.weight_decay,
        bias_correction=spec.bias_correction, safeguard=spec.safeguard_warmup, eps=1e-8,
    )  # fmt: skip
    assert distances[-1] > 2e-3  # the estimate has grown, so the paths test more than Adam
    assert optimizer.param_groups[0]["d"] == pytest.approx(distances[-1], rel=1e-5)
    for name, path in zip(names, expected, strict=True):
        assert_path(found, name, path, atol=1e-6)  # the library sums the distance in float32


@pytest.mark.parametrize("warm_in", ["schedule", "spec", "nowhere"])
@pytest.mark.parametrize(
    "changes", [{}, {"weight_decay": 0.1, "weight_step_power": 1.0, "weight_lr_power": 1.0, "beta1": 0.8}]
)
def test_schedule_free_follows_algorithm_1_and_its_two_modes_are_x_and_y(
    changes: dict[str, float], warm_in: str
) -> None:
    lr = 0.03
    rates = {
        "schedule": [lr * min(1.0, step / 4) for step in range(STEPS)],
        "spec": [lr * min(1.0, (step + 1) / 4) for step in range(STEPS)],
        "nowhere": [lr] * STEPS,
    }[warm_in]
    spec = ScheduleFreeAdamWSpec(lr=lr, warmup_steps=4 if warm_in == "spec" else 0, **changes)
    found, optimizer = driven(spec, factors := lora(), rates if warm_in == "schedule" else None)
    optimizer.eval()
    for name, parameter in factors.items():
        W, Gs = per_parameter(name)
        xs, ys, zs = plain.schedule_free_adamw(
            W, Gs, lrs=rates, betas=(spec.beta1, 0.999), eps=1e-8, decay=spec.weight_decay, r=spec.weight_step_power,
            power=spec.weight_lr_power,
        )  # fmt: skip
        assert_path(found, name, ys)
        torch.testing.assert_close(parameter.detach(), xs[-1], rtol=0, atol=1e-9)
        torch.testing.assert_close(optimizer.state[parameter]["z"], zs[-1], rtol=0, atol=1e-9)


def first_bases(spec: Any) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Return SOAP's bases after one step, having checked that they are eigenbases by falling eigenvalue."""
    factors, drawn = lora(), gradients()[0]
    optimizer = build_optimizer(spec, factors.items())
    for name, parameter in factors.items():
        parameter.grad = drawn[name].clone()
    optimizer.step()
    bases: dict[str, Any] = {}
    for name, parameter in factors.items():
        assert torch.equal(parameter, lora()[name])  # the first step moves nothing
        G = drawn[name]
        pair: list[Tensor | None] = []
        for Q, P in zip(optimizer.state[parameter]["Q"], (G @ G.T, G.T @ G), strict=True):
            if len(P) > spec.max_precondition_dim:
                assert len(Q) == 0
                pair.append(None)
                continue
            torch.testing.assert_close(Q.T @ Q, torch.eye(len(P), dtype=torch.float64))
            turned = Q.T @ P @ Q
            torch.testing.assert_close(turned, torch.diag(torch.linalg.eigvalsh(P).flip(0)), rtol=0, atol=1e-12)
            pair.append(Q.clone())
        bases[name] = tuple(pair)
    return bases


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({"precondition_frequency": 3}, 10000),
        ({"precondition_frequency": 4, "shampoo_beta": 0.8, "weight_decay": 0.1}, 6),
        ({"precondition_frequency": 1, "beta1": 0.9, "beta2": 0.99}, 3),
    ],
)
def test_soap_follows_its_paper_with_the_authors_idle_first_step(changes: dict[str, Any], longest: int) -> None:
    spec = SOAPSpec(**{"lr": 0.02, "eps": 1e-6, "weight_decay": 0.0, **changes}, max_precondition_dim=longest)
    bases = first_bases(spec)
    found, _ = driven(spec, lora())
    for name in lora():
        W, Gs = per_parameter(name)
        expected = plain.soap(
            W, Gs, lr=0.02, betas=(spec.beta1, spec.beta2), shampoo_beta=spec.shampoo_beta or spec.beta2, eps=1e-6,
            decay=spec.weight_decay, frequency=spec.precondition_frequency, first_bases=bases[name],
        )  # fmt: skip
        assert_path(found, name, expected, atol=1e-5)  # the library's QR is in float32


def test_soap_on_a_vector_is_adam_behind_an_idle_first_step() -> None:
    w = torch.linspace(-1, 1, 7, dtype=torch.float64)
    parameter = nn.Parameter(w.clone())
    optimizer = build_optimizer(
        SOAPSpec(lr=0.02, weight_decay=0.0, precondition_frequency=2), [("norm.weight", parameter)]
    )
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(6):
        g = torch.randn(7, generator=generator(t), dtype=torch.float64)
        parameter.grad = g.clone()
        optimizer.step()
        if t > 0:
            first, second = 0.95 * first + 0.05 * g, 0.95 * second + 0.05 * g**2
            w = w - 0.02 * (1 - 0.95**t) ** 0.5 / (1 - 0.95**t) * first / (second.sqrt() + 1e-8)
    torch.testing.assert_close(parameter.detach(), w, rtol=0, atol=1e-9)


RITE: list[dict[str, Any]] = [
    {},
    {"apply_escape": True, "weight_decay": 0.1},
    {"clip_unmagnified_grad": 0.0, "update_capping": 0.05},
    {"update_skipping": 0.08},
    {"relative_epsilon": True, "eps": 1e-2},
    {"balance_param": True},
]


@pytest.mark.parametrize("changes", RITE, ids=str)
def test_lora_rite_follows_its_paper_in_any_orthonormal_basis(changes: dict[str, Any]) -> None:
    spec = LoRARITESpec(**{"lr": 0.02, "clip_unmagnified_grad": 0.4, **changes})
    found, _ = driven(spec, lora())
    names = [(f"layers.0.{n}.lora_A.default.weight", f"layers.0.{n}.lora_B.default.weight") for n in SHAPES]
    expected = plain.lora_rite(
        [(lora()[a].detach(), lora()[b].detach()) for a, b in names],
        [[(drawn[a], drawn[b]) for a, b in names] for drawn in gradients()],
        lr=0.02, betas=(0.9, 0.999), eps=spec.eps, clip=spec.clip_unmagnified_grad, decay=spec.weight_decay,
        escape=spec.apply_escape, skip=spec.update_skipping, cap=spec.update_capping, relative=spec.relative_epsilon,
        balance=spec.balance_param,
    )  # fmt: skip
    for pair, (a, b) in enumerate(names):
        assert_path(found, a, [state[pair][0] for state in expected], atol=1e-7)
        assert_path(found, b, [state[pair][1] for state in expected], atol=1e-7)


@given(seed=st.integers(0, 2**20), options=st.sampled_from(RITE))
@settings(max_examples=8, deadline=None)
def test_the_product_under_lora_rite_does_not_depend_on_how_it_is_split(seed: int, options: dict[str, Any]) -> None:
    spec = LoRARITESpec(lr=0.02, **options)
    products = []
    for mixed in (False, True):
        factors = lora()
        mixes = {}
        for index, (name, (_, rank, _)) in enumerate(SHAPES.items()):
            noise = torch.randn(rank, rank, generator=generator(seed, index), dtype=torch.float64)
            mixes[name] = torch.linalg.matrix_exp(noise) if mixed else torch.eye(rank, dtype=torch.float64)
            A, B = (factors[f"layers.0.{name}.lora_{side}.default.weight"] for side in "AB")
            with torch.no_grad():
                A.copy_(mixes[name] @ A)
                B.copy_(B @ torch.linalg.inv(mixes[name]))
        optimizer = build_optimizer(spec, factors.items())
        for step in range(4):
            for index, name in enumerate(SHAPES):
                A, B = (factors[f"layers.0.{name}.lora_{side}.default.weight"] for side in "AB")
                G = torch.randn(
                    B.shape[0], A.shape[1], generator=generator(seed, step, index), dtype=torch.float64
                )  # of the product, whatever its split
                A.grad, B.grad = (B.T @ G).detach(), (G @ A.T).detach()
            optimizer.step()
        products.append([p for name in SHAPES for p in [product(factors, name)]])
    for one, other in zip(*products, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def product(factors: dict[str, nn.Parameter], name: str) -> Tensor:
    A, B = (factors[f"layers.0.{name}.lora_{side}.default.weight"] for side in "AB")
    return (B @ A).detach()


@pytest.mark.parametrize(
    "spec",
    [
        AdEMAMixSpec(lr=0.02, warmup_steps=5),
        AdafactorSpec(lr=0.1),
        ProdigySpec(d0=1e-3),
        ScheduleFreeAdamWSpec(lr=0.02, lora_plus_ratio=4),
        SOAPSpec(lr=0.02, precondition_frequency=2, max_precondition_dim=5),
        LoRARITESpec(lr=0.02, apply_escape=True),
    ],
    ids=lambda spec: spec.kind,
)
def test_the_whole_state_survives_a_file_that_holds_tensors_and_numbers_only(spec: Any, tmp_path) -> None:
    factors = lora(torch.float32)
    _, optimizer = driven(spec, factors)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copied = {name: nn.Parameter(p.detach().clone()) for name, p in factors.items()}
    again = build_optimizer(spec, copied.items())
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for one, other in ((optimizer, factors), (again, copied)):
        for drawn in gradients():
            for name, parameter in other.items():
                parameter.grad = drawn[name].float().clone()
            one.step()
    assert all(torch.equal(factors[name], copied[name]) for name in factors)
    assert plain_state(optimizer.state_dict()) == plain_state(again.state_dict())


def plain_state(state: Any) -> Any:
    """Return a state with tensors as lists, so that it can be compared whole."""
    if isinstance(state, Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {key: plain_state(value) for key, value in state.items()}
    return [plain_state(value) for value in state] if isinstance(state, list | tuple) else copy.copy(state)
