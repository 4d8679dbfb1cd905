"""Muon: against a slow float64 twin, against torch.optim.Muon, its scale rules, schedules and resume."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowly.optim import SCALE_RULES, Muon
from narrowly.records.errors import OptimiserError, UnknownNameError
from narrowly.records.optimisers.registry import MuonSpec

SHAPES = [(4, 16), (16, 4), (4, 16), (24, 4), (4, 24), (6, 6)]


def fields(**changes: Any) -> dict[str, Any]:
    return MuonSpec(lr=0.02, **changes).model_dump(exclude={"kind"})


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def gradients(step: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def drive(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(params, gradients(step, params[0].dtype), strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def twin(params: list[nn.Parameter], steps: range, spec: MuonSpec) -> list[Tensor]:
    """One matrix at a time, in float64, the polar factor by SVD, heavy-ball momentum: the definition."""
    weights, buffers = [p.detach().double().clone() for p in params], [torch.zeros(p.shape).double() for p in params]
    for step in steps:
        for index, G in enumerate(gradients(step)):
            buffers[index] = spec.momentum * buffers[index] + G
            direction = G + spec.momentum * buffers[index] if spec.nesterov else buffers[index]
            U, _, Vh = torch.linalg.svd(direction, full_matrices=False)
            rows, columns = G.shape
            factor = {
                "original": math.sqrt(max(1, rows / columns)),
                "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
                "spectral_norm": math.sqrt(rows / columns),
            }[spec.scale_rule]
            weights[index] = (1 - spec.lr * spec.weight_decay) * weights[index] - spec.lr * factor * U @ Vh
    return weights


@pytest.mark.parametrize("scale_rule", sorted(SCALE_RULES))
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_exact_form_equals_a_slow_float64_twin(scale_rule, nesterov, weight_decay) -> None:
    spec = MuonSpec(
        lr=0.02, nesterov=nesterov, weight_decay=weight_decay, scale_rule=scale_rule, orthogonaliser="exact"
    )
    params = parameters()
    expected = twin(params, range(6), spec)
    drive(Muon(params, **spec.model_dump(exclude={"kind"})), params, range(6))
    for parameter, weight in zip(params, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale_rule", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_newton_schulz_steps_point_and_reach_as_those_of_torch_optim_muon(scale_rule, nesterov) -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    start = [p.detach().clone() for p in ours]
    drive(Muon(ours, **fields(scale_rule=scale_rule, nesterov=nesterov, weight_decay=0.1)), ours, range(5))
    reference = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.95, nesterov=nesterov, weight_decay=0.1, ns_steps=5, adjust_lr_fn=scale_rule
    )
    drive(reference, theirs, range(5))
    for one, other, zero in zip(ours, theirs, start, strict=True):
        step, expected = (one.detach() - zero).flatten(), (other.detach() - zero).flatten()
        assert float(torch.nn.functional.cosine_similarity(step, expected, dim=0)) > 0.999  # theirs runs in bfloat16
        assert float(step.norm() / expected.norm()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "columns", "original", "match_rms_adamw", "spectral_norm"),
    [  # the table of knowledge/engineering 2.4, rank 32
        (32, 4096, 1.0, 12.8, 0.088),
        (32, 12288, 1.0, 22.2, 0.051),
        (4096, 32, 11.3, 12.8, 11.3),
        (1024, 32, 5.7, 6.4, 5.7),
        (12288, 32, 19.6, 22.2, 19.6),
    ],
)
def test_the_scale_rules_have_the_factors_of_the_published_table(
    rows, columns, original, match_rms_adamw, spectral_norm
) -> None:
    assert SCALE_RULES["original"](rows, columns) == pytest.approx(original, rel=0.01)
    assert SCALE_RULES["match_rms_adamw"](rows, columns) == pytest.approx(match_rms_adamw, rel=0.01)
    assert SCALE_RULES["spectral_norm"](rows, columns) == pytest.approx(spectral_norm, rel=0.01)


@pytest.mark.parametrize("scale_rule", sorted(SCALE_RULES))
def test_one_exact_step_has_the_spectral_norm_that_its_rule_promises(scale_rule) -> None:
    params = parameters()
    start = [p.detach().clone() for p in params]
    drive(Muon(params, **fields(scale_rule=scale_rule, orthogonaliser="exact")), params, range(1))
    for parameter, zero in zip(params, start, strict=True):
        values = torch.linalg.svdvals(parameter.detach() - zero)
        expected = 0.02 * SCALE_RULES[scale_rule](*parameter.shape)
        torch.testing.assert_close(values, torch.full_like(values, expected), rtol=1e-9, atol=0)


def test_a_zero_gradient_moves_nothing_and_no_gradient_is_left_alone_without_decay() -> None:
    params = parameters(torch.float32)
    optimizer = Muon(params, **fields(weight_decay=0.1))
    before = [p.detach().clone() for p in params]
    for parameter in params[1:]:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(params[0], before[0])
    assert params[0] not in optimizer.state
    for parameter, old in zip(params[1:], before[1:], strict=True):
        torch.testing.assert_close(parameter.detach(), old * (1 - 0.02 * 0.1), rtol=0, atol=1e-7)


def test_resuming_from_a_state_dict_continues_bit_for_bit(tmp_path) -> None:
    params = parameters(torch.float32)
    optimizer = Muon(params, **fields())
    drive(optimizer, params, range(4))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = Muon(copies, **fields(momentum=0.5, scale_rule="spectral_norm"))
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    drive(optimizer, params, range(4, 8))
    drive(resumed, copies, range(4, 8))
    assert all(torch.equal(one, other) for one, other in zip(params, copies, strict=True))


def test_a_learning_rate_scheduler_sets_the_length_of_each_step() -> None:
    params = parameters()
    optimizer = Muon(params, **fields(orthogonaliser="exact"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
    lengths = []
    for step in range(3):
        before = params[0].detach().clone()
        drive(optimizer, params, range(step, step + 1))
        scheduler.step()
        lengths.append(float(torch.linalg.matrix_norm(params[0].detach() - before, ord=2)))
    assert lengths == pytest.approx([0.02, 0.01, 0.02 / 3])


def test_parameter_groups_may_differ_and_a_closure_is_evaluated_with_gradients() -> None:
    params = parameters()
    optimizer = Muon([{"params": params[:1], "lr": 0.5}, {"params": params[1:]}], **fields(orthogonaliser="exact"))
    before = copy.deepcopy([p.detach() for p in params])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) > 0
    assert float(torch.linalg.matrix_norm(params[0].detach() - before[0], ord=2)) == pytest.approx(0.5)
    assert float(torch.linalg.matrix_norm(params[2].detach() - before[2], ord=2)) == pytest.approx(0.02)


def test_vectors_and_unknown_names_are_refused_at_construction() -> None:
    with pytest.raises(OptimiserError, match=r"shape \(3,\).*accepted: matrices of floats"):
        Muon([nn.Parameter(torch.zeros(3))], **fields())
    with pytest.raises(UnknownNameError, match="did you mean 'spectral_norm'"):
        Muon(parameters(), **(fields() | {"scale_rule": "spectral"}))
    with pytest.raises(UnknownNameError, match="did you mean 'polar_express'"):
        Muon(parameters(), **(fields() | {"orthogonaliser": "polar_expres"}))


@pytest.mark.parametrize("shape", [(300, 1100), (1100, 300)])
def test_a_matrix_of_a_whole_model_takes_the_step_of_newton_schulz_on_all_of_it(shape: tuple[int, int]) -> None:
    """Ranks far above an adapter's: five steps on the matrix itself in float64, without Gram matrices of it."""
    W = nn.Parameter(torch.zeros(shape))
    W.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    X = W.grad.double() if shape[0] < shape[1] else W.grad.double().T
    X = X / X.norm()
    for _ in range(5):
        S = X @ X.T
        X = 3.4445 * X + (-4.7750 * S + 2.0315 * S @ S) @ X
    Muon([W], **fields()).step()
    expected = -0.02 * max(1.0, shape[0] / shape[1]) ** 0.5 * (X if shape[0] < shape[1] else X.T)
    torch.testing.assert_close(W.detach(), expected.float(), rtol=1e-4, atol=1e-8)
