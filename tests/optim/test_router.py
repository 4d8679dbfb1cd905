"""The router: every trainable parameter in exactly one list, and no optimiser that leaves one out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spectralign.optim import check_complete, route
from spectralign.records.errors import OptimiserError


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def lora(module: str, rank: int = 2, outputs: int = 4, inputs: int = 3) -> list[tuple[str, nn.Parameter]]:
    return [
        (f"{module}.lora_A.default.weight", matrix(rank, inputs)),
        (f"{module}.lora_B.default.weight", matrix(outputs, rank)),
    ]


def test_factors_go_to_their_lists_and_everything_else_to_other() -> None:
    named = [
        *lora("layers.0.q_proj"),
        ("layers.0.norm.weight", matrix(4)),
        ("layers.0.q_proj.lora_magnitude_vector.default.weight", matrix(4)),
        ("layers.0.conv.lora_A.default.weight", matrix(2, 3, 1, 1)),
        ("embed.lora_embedding_A.default", matrix(2, 9)),
        ("lora_A.weight", matrix(2, 3)),
        ("lora_B.weight", matrix(3, 2)),
    ]
    routing = route(named)
    assert [name for name, _ in routing.lora_A] == ["layers.0.q_proj.lora_A.default.weight", "lora_A.weight"]
    assert [name for name, _ in routing.lora_B] == ["layers.0.q_proj.lora_B.default.weight", "lora_B.weight"]
    assert [name for name, _ in routing.other] == [name for name, _ in named[2:6]]


@given(st.lists(st.tuples(st.sampled_from(["lora", "norm", "bias", "frozen"]), st.booleans()), min_size=1, max_size=9))
def test_the_lists_partition_the_trainable_parameters(kinds) -> None:
    named: list[tuple[str, nn.Parameter]] = []
    for index, (kind, _) in enumerate(kinds):
        new = lora(f"m.{index}") if kind in ("lora", "frozen") else [(f"m.{index}.{kind}", matrix(3))]
        for _, parameter in new if kind == "frozen" else []:
            parameter.requires_grad_(False)
        named += new
    trainable = [id(parameter) for _, parameter in named if parameter.requires_grad]
    if not trainable:
        with pytest.raises(OptimiserError, match="no trainable parameter"):
            route(named)
        return
    routed = [id(parameter) for part in route(named) for _, parameter in part]
    assert sorted(routed) == sorted(trainable)


def test_a_parameter_listed_twice_and_a_factor_without_its_partner_are_refused() -> None:
    twice = matrix(3)
    with pytest.raises(OptimiserError, match="b is the same tensor as a"):
        route([("a", twice), ("b", twice)])
    with pytest.raises(OptimiserError, match=r"no trainable partner: m\.1\.lora_"):
        route([*lora("m.0"), lora("m.1")[0]])


def test_a_frozen_side_is_legal_when_it_is_the_same_for_every_module() -> None:
    routing = route([lora("m.0")[1], lora("m.1")[1]])
    assert (len(routing.lora_A), len(routing.lora_B)) == (0, 2)


def test_an_optimiser_that_leaves_a_parameter_out_is_refused_with_its_name() -> None:
    named = [*lora("m.0"), ("m.0.norm.weight", matrix(4))]
    complete = torch.optim.SGD([parameter for _, parameter in named], lr=0.1)
    check_complete(named, complete)
    # What several tools do: only matrices reach the optimiser, vectors are forgotten.
    forgetful = torch.optim.SGD([parameter for _, parameter in named if parameter.ndim == 2], lr=0.1)
    with pytest.raises(OptimiserError, match=r"incomplete partition, 1 trainable but in no group \(m\.0\.norm\.weight"):
        check_complete(named, forgetful)


def test_a_frozen_a_foreign_and_a_repeated_parameter_are_named() -> None:
    named = lora("m.0")
    optimizer = torch.optim.SGD([*(parameter for _, parameter in named), matrix(2)], lr=0.1)
    with pytest.raises(OptimiserError, match="1 not of this model"):
        check_complete(named, optimizer)
    optimizer.param_groups[0]["params"].pop()
    named[0][1].requires_grad_(False)
    with pytest.raises(OptimiserError, match=r"1 frozen \(m\.0\.lora_A"):
        check_complete(named, optimizer)
    named[0][1].requires_grad_(True)
    optimizer.param_groups[0]["params"].append(named[1][1])
    with pytest.raises(OptimiserError, match=r"1 in several groups \(m\.0\.lora_B"):
        check_complete(named, optimizer)
