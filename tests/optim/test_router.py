"""The router: every trainable parameter in exactly one list, and no optimiser that leaves one out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from narrowly.optim import build_optimizer, check_complete, route
from narrowly.optim.router import hidden_matrices
from narrowly.records.errors import OptimiserError
from narrowly.records.optimisers.registry import MuonSpec


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


def whole_model() -> list[tuple[str, nn.Parameter]]:
    return [
        ("model.embed_tokens.weight", matrix(9, 4)),
        ("model.layers.0.self_attn.q_proj.weight", matrix(4, 4)),
        ("model.layers.0.self_attn.q_proj.bias", matrix(4)),
        ("model.layers.0.mlp.experts.up_proj", matrix(2, 4, 4)),
        ("model.layers.11.mlp.down_proj.weight", matrix(4, 8)),
        ("model.layers.11.norm.weight", matrix(4)),
        ("model.norm.weight", matrix(4)),
        ("lm_head.weight", matrix(9, 4)),
    ]


def test_of_a_whole_model_the_matrices_of_numbered_blocks_are_told_from_embedding_head_norms_and_biases() -> None:
    named = whole_model()
    hidden, other = hidden_matrices(route(named))
    assert [name for name, _ in hidden] == [named[1][0], named[4][0]]
    assert [name for name, _ in other] == [named[i][0] for i in (0, 2, 3, 5, 6, 7)]


def test_beside_an_adapter_no_matrix_counts_as_hidden() -> None:
    routing = route([*lora("model.layers.0.q_proj"), *whole_model()])
    assert hidden_matrices(routing) == ([], routing.other)


def test_muon_takes_the_hidden_matrices_of_a_whole_model_and_adamw_the_rest() -> None:
    named = whole_model()
    optimizer = build_optimizer(MuonSpec(lr=0.1, other={"kind": "adamw", "lr": 0.01}), named)
    by_part = {group["part"]: [id(parameter) for parameter in group["params"]] for group in optimizer.param_groups}
    assert by_part["muon"] == [id(named[i][1]) for i in (1, 4)]
    assert len(by_part["other"]) == 6
    with pytest.raises(OptimiserError, match=r"found 6 other trainable parameters: model\.embed_tokens\.weight"):
        build_optimizer(MuonSpec(lr=0.1), named)
    with pytest.raises(OptimiserError, match="no LoRA factor and no matrix of a numbered block"):
        build_optimizer(MuonSpec(lr=0.1, other={"kind": "adamw", "lr": 0.01}), named[:1])
