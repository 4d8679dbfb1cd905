"""Optimisers composed into one: what a scheduler, a trainer and a checkpoint see, and the two composites with Muon."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from narrowly.optim import Muon, build_optimizer
from narrowly.optim.composite import CompositeOptimizer
from narrowly.records.errors import OptimiserError, UnknownNameError
from narrowly.records.optimisers.registry import MuonBAdamASpec, MuonSpec


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(norm: bool = False) -> list[tuple[str, nn.Parameter]]:
    named = []
    for i, name in enumerate(("q", "up")):
        named.append((f"{name}.lora_A.weight", nn.Parameter(noise(3, 8, seed=i))))
        named.append((f"{name}.lora_B.weight", nn.Parameter(noise(9, 3, seed=10 + i))))
    return named + ([("norm.weight", nn.Parameter(noise(5, seed=20)))] if norm else [])


def drive(named: list[tuple[str, nn.Parameter]], optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        for i, (_, parameter) in enumerate(named):
            parameter.grad = noise(*parameter.shape, seed=100 * step + i)
        for optimizer in optimizers:
            optimizer.step()


def separate(named: list[tuple[str, nn.Parameter]], spec: Any) -> list[torch.optim.Optimizer]:
    """The same two optimisers, each by itself: the twin."""
    fields = MuonSpec(lr=spec.lr, weight_decay=spec.weight_decay).model_dump(exclude={"kind", "other"})
    if isinstance(spec, MuonBAdamASpec):
        on_muon = [p for name, p in named if "lora_B" in name]
        rest, lr, decay = [p for name, p in named if "lora_A" in name], spec.lr_A, spec.weight_decay
    else:
        on_muon = [p for name, p in named if "lora_" in name]
        rest, lr, decay = [p for name, p in named if "norm" in name], spec.other.lr, spec.other.weight_decay
    return [Muon(on_muon, **fields), torch.optim.AdamW(rest, lr=lr, weight_decay=decay)]


SPECS = [
    (MuonBAdamASpec(lr=0.05, lr_A=0.02, weight_decay=0.1), False),
    (MuonSpec(lr=0.05, other={"kind": "adamw", "lr": 0.03, "weight_decay": 0.2}), True),
]


@pytest.mark.parametrize(("spec", "norm"), SPECS)
def test_a_composite_steps_as_its_parts_do_by_themselves(spec, norm) -> None:
    named, twins = factors(norm), factors(norm)
    optimizer = build_optimizer(spec, named)
    drive(named, [optimizer], range(5))
    drive(twins, separate(twins, spec), range(5))
    for (_, one), (_, other) in zip(named, twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("spec", "norm"), SPECS)
def test_a_saved_composite_resumes_bit_for_bit(spec, norm, tmp_path) -> None:
    named = factors(norm)
    optimizer = build_optimizer(spec, named)
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    for step in range(3):
        drive(named, [optimizer], range(step, step + 1))
        scheduler.step()
    saved = [optimizer.state_dict(), scheduler.state_dict(), [p.detach() for _, p in named]]
    torch.save(saved, tmp_path / "state.pt")
    again = factors(norm)
    resumed = build_optimizer(spec, again)
    rescheduled = LambdaLR(resumed, lambda step: 0.9**step)
    state, schedule, weights = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state)
    rescheduled.load_state_dict(schedule)
    for (_, parameter), weight in zip(again, weights, strict=True):
        parameter.data.copy_(weight)
    for pairs, one, plan in ((named, optimizer, scheduler), (again, resumed, rescheduled)):
        for step in range(3, 6):
            drive(pairs, [one], range(step, step + 1))
            plan.step()
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(named, again, strict=True))
    rates = [group["lr"] for group in resumed.param_groups]
    assert rates == pytest.approx([group["initial_lr"] * 0.9**6 for group in resumed.param_groups])


def test_there_is_one_list_of_groups_one_state_and_one_state_dict() -> None:
    named = factors(norm=True)
    optimizer = build_optimizer(SPECS[1][0], named)
    assert isinstance(optimizer, CompositeOptimizer)
    assert [group["part"] for group in optimizer.param_groups] == ["muon", "other"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.03]
    drive(named, [optimizer], range(2))
    assert set(optimizer.state) == {parameter for _, parameter in named}
    assert sorted(optimizer.state_dict()["state"]) == list(range(5))
    for part, group in zip(optimizer.parts.values(), optimizer.param_groups, strict=True):
        assert part.param_groups[0] is group
        assert part.state is optimizer.state
    optimizer.zero_grad()
    assert all(parameter.grad is None for _, parameter in named)


def test_a_scheduler_moves_every_part_also_after_a_load() -> None:
    named = factors(norm=True)
    optimizer = build_optimizer(SPECS[1][0], named)
    drive(named, [optimizer], range(1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [parameter.detach().clone() for _, parameter in named]
    drive(named, [optimizer], range(1, 3))
    assert all(torch.equal(parameter.detach(), old) for (_, parameter), old in zip(named, before, strict=True))


def test_a_closure_is_evaluated_once_with_gradients() -> None:
    named = factors(norm=True)
    optimizer = build_optimizer(SPECS[1][0], named)
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((parameter**2).sum() for _, parameter in named)
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    found = optimizer.step(closure)
    assert float(found.detach()) == calls[0]
    assert len(calls) == 1
    optimizer.step(closure)
    assert calls[1] < calls[0]


def test_a_group_is_added_to_the_part_it_names_with_that_parts_defaults_and_checks() -> None:
    named = factors(norm=True)
    optimizer = build_optimizer(SPECS[1][0], named)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 4))], "part": "muon", "lr": 0.5})
    assert optimizer.parts["muon"].param_groups[-1] is optimizer.param_groups[-1]
    assert optimizer.param_groups[-1]["ns_steps"] == 5
    for group, kind, message in (
        ({"params": [nn.Parameter(torch.ones(4))], "part": "muon"}, OptimiserError, "accepted: matrices of floats"),
        (
            {"params": [nn.Parameter(torch.ones(4))]},
            OptimiserError,
            "group without 'part', accepted: one of muon, other",
        ),
        ({"params": [nn.Parameter(torch.ones(4))], "part": "mun"}, UnknownNameError, "did you mean 'muon'"),
        ({"params": [named[0][1]], "part": "other"}, ValueError, "more than one parameter group"),
    ):
        with pytest.raises(kind, match=message):
            optimizer.add_param_group(group)
        assert [len(part.param_groups) for part in optimizer.parts.values()] == [2, 1]
        assert len(optimizer.param_groups) == 3
    drive(named, [optimizer], range(1))
    other = build_optimizer(SPECS[1][0], factors(norm=True))
    with pytest.raises(
        OptimiserError, match=r"the state has the parts \['muon', 'other', 'muon'\], accepted: \['muon'"
    ):
        other.load_state_dict(optimizer.state_dict())


def test_a_copy_is_a_composite_of_its_own() -> None:
    named = factors(norm=True)
    optimizer = build_optimizer(SPECS[1][0], named)
    drive(named, [optimizer], range(1))
    twin = copy.deepcopy(optimizer)
    before = [parameter.detach().clone() for _, parameter in named]
    moving = [parameter for group in twin.param_groups for parameter in group["params"]]
    for parameter in moving:
        parameter.grad = torch.ones_like(parameter)
    start = [parameter.detach().clone() for parameter in moving]
    twin.step()
    assert all(torch.equal(parameter.detach(), old) for (_, parameter), old in zip(named, before, strict=True))
    assert not any(torch.equal(parameter.detach(), old) for parameter, old in zip(moving, start, strict=True))


def test_parts_that_share_a_parameter_have_stepped_or_are_missing_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(2, 3))
    with pytest.raises(ValueError, match="more than one parameter group"):
        CompositeOptimizer({"a": torch.optim.SGD([parameter], lr=0.1), "b": torch.optim.SGD([parameter], lr=0.1)})
    with pytest.raises(OptimiserError, match="no parts found"):
        CompositeOptimizer({})
    parameter.grad = torch.ones_like(parameter)
    used = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    used.step()
    with pytest.raises(OptimiserError, match="part 'a' has a state"):
        CompositeOptimizer({"a": used})


def test_muon_trains_other_parameters_only_where_it_is_told_how() -> None:
    named = factors(norm=True)
    with pytest.raises(OptimiserError, match=r"found 1 other trainable parameters: norm\.weight\. Freeze them, give"):
        build_optimizer(MuonSpec(lr=0.1), named)
    with pytest.raises(OptimiserError, match="no LoRA factor"):
        build_optimizer(SPECS[1][0], named[-1:])
    with pytest.raises(OptimiserError, match="muon_B_adam_A updates LoRA factors only"):
        build_optimizer(MuonBAdamASpec(lr=0.1), named)
    with pytest.raises(OptimiserError, match="found 0 trainable A and 2 B"):
        build_optimizer(MuonBAdamASpec(lr=0.1), [pair for pair in factors() if "lora_B" in pair[0]])
    assert isinstance(build_optimizer(SPECS[1][0], factors()), Muon)
    assert "other" not in MuonSpec(lr=0.1).model_dump()
