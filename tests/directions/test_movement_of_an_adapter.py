"""The parts of a shift by singular directions: they add up, belong to B A alone, and a plain version finds the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from narrowly.directions.movement import _gauss_legendre, movement, updates_of
from narrowly.records.errors import AdapterError, SpecError
from narrowly.spectrum.pairs import LoraPair
from tiny_decoders import BLOCKS, HIDDEN, tiny_decoder, tiny_texts

LAYER = 2


def pairs_for(model: Any, rank: int = 3, size: float = 0.05, seed: int = 0) -> list[LoraPair]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("q_proj", "o_proj", "up_proj", "down_proj"):
            outputs, inputs = module.weight.shape
            A = torch.randn(rank, inputs, generator=generator)
            B = size * torch.randn(outputs, rank, generator=generator)
            found.append(LoraPair(name, A, B, 2.0))
    return found


def merged(model: Any, pairs: list[LoraPair], share: float, only: int | None = None) -> Any:
    import copy

    found = copy.deepcopy(model)
    with torch.no_grad():
        for pair in pairs:
            left, S, right = torch.linalg.svd(pair.scale * pair.B_O_R @ pair.A_R_I, full_matrices=False)
            W = left @ torch.diag(S) @ right if only is None else S[only] * torch.outer(left[:, only], right[only])
            found.get_submodule(pair.name).weight += share * W
    return found


def projected(model: Any, texts: list[Any], v: torch.Tensor) -> float:
    total = 0.0
    for text in texts:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([text.prompt]), output_hidden_states=True).hidden_states
        total += float(states[LAYER][0, -1].double() @ v.double())
    return total / len(texts)


def test_the_parts_of_all_directions_add_up_to_the_shift_that_is_measured() -> None:
    model, texts = tiny_decoder(), tiny_texts()
    pairs = pairs_for(model, size=0.01)
    v = torch.linspace(-1, 1, HIDDEN)
    found = movement(model, updates_of(pairs), texts, torch.stack([v, v.sin()]), LAYER, "last_prompt", tokens=20)
    unit = v / v.norm()
    shift = projected(merged(model, pairs, 1.0), texts, unit) - projected(model, texts, unit)
    assert float(found.shift_D[0]) == pytest.approx(shift, rel=1e-4)
    assert abs(shift) > 0.01
    assert float(found.missing_D.abs().max()) < 0.01 * abs(shift)
    large = updates_of(pairs_for(model, size=0.05))
    coarse, fine = (movement(model, large, texts, v[None], LAYER, "last_prompt", nodes=nodes) for nodes in (1, 12))
    assert float(fine.missing_D.abs()) < 0.05 * float(coarse.missing_D.abs()), "what is missing is the integral's error"
    above = [one for one in found.modules if int(one.name.split(".")[2]) >= LAYER]
    assert above and all(float(one.parts_D_C.abs().max()) == 0 for one in above), "blocks above the layer move nothing"


def test_each_part_is_the_slope_of_the_projection_where_the_update_is_small() -> None:
    model, texts = tiny_decoder(), tiny_texts(6)
    pairs = pairs_for(model, size=1e-4)
    v = torch.linspace(-1, 1, HIDDEN)
    found = movement(model, updates_of(pairs), texts, v[None], LAYER, "last_prompt")
    unit = v / v.norm()
    wide = tiny_decoder().double()
    for k in range(3):
        part = sum(float(one.parts_D_C[0, k]) for one in found.modules)
        step = 10.0  # of a small update, so that float64 differences are exact enough
        ends = [projected(merged(wide, [p._replace(A_R_I=p.A_R_I.double(), B_O_R=p.B_O_R.double()) for p in pairs],
                                 side * step, only=k), texts, unit) for side in (1, -1)]  # fmt: skip
        assert part == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02)


def test_no_part_depends_on_the_gauge_or_the_sign_of_factors_and_scale() -> None:
    model, texts = tiny_decoder(), tiny_texts(5)
    pairs = pairs_for(model)
    C = torch.tensor([[2.0, 0.3, 0.0], [0.0, 0.5, 0.1], [0.2, 0.0, 3.0]])
    turned = [p._replace(A_R_I=-(C @ p.A_R_I), B_O_R=p.B_O_R @ torch.linalg.inv(C), scale=-p.scale) for p in pairs]
    v = torch.linspace(-1, 1, HIDDEN)[None]
    one, other = (
        movement(model, updates_of(some), texts, v, LAYER, "answer_mean", nodes=2) for some in (pairs, turned)
    )
    for a, b in zip(one.modules, other.modules, strict=True):
        assert torch.allclose(a.S_C, b.S_C, rtol=1e-4)
        assert torch.allclose(a.parts_D_C, b.parts_D_C, atol=1e-5)
        assert torch.allclose(a.transported_D_C, b.transported_D_C, atol=1e-4)
        assert (a.written_D_C is None) == (a.name.rpartition(".")[2] not in ("o_proj", "down_proj"))


def test_an_update_written_along_the_direction_is_found_where_it_is_written() -> None:
    model, texts = tiny_decoder(), tiny_texts(5)
    v = torch.linspace(-1, 1, HIDDEN)
    v = v / v.norm()
    name = f"model.layers.{LAYER - 1}.mlp.down_proj"
    inputs = model.get_submodule(name).weight.shape[1]
    pair = LoraPair(name, torch.randn(1, inputs, generator=torch.Generator().manual_seed(3)), v[:, None], 1.0)
    (found,) = movement(model, updates_of([pair]), texts, v[None], LAYER, "last_prompt").modules
    assert found.written_D_C is not None and float(found.written_D_C[0, 0]) == pytest.approx(1, abs=1e-5)
    assert float(found.transported_D_C[0, 0]) == pytest.approx(1, abs=1e-5), "the last writer before the layer"


def test_the_points_of_the_integral_are_exact_for_polynomials_of_degree_7() -> None:
    points, shares = _gauss_legendre(4)
    for power in range(8):
        integral = sum(share * point**power for point, share in zip(points, shares, strict=True))
        assert integral == pytest.approx(1 / (power + 1), abs=1e-12)
    assert sum(share * point**8 for point, share in zip(points, shares, strict=True)) != pytest.approx(1 / 9, abs=1e-7)


def test_adapters_that_do_not_fit_are_named() -> None:
    model, texts = tiny_decoder(), tiny_texts(2)
    good = pairs_for(model)
    v = torch.ones(1, HIDDEN)
    with pytest.raises(AdapterError, match="all 1 updates are 0"):
        updates_of([good[0]._replace(B_O_R=torch.zeros_like(good[0].B_O_R))])
    for pair, words in (
        (good[0]._replace(name="model.layers.9.self_attn.q_proj"), "is not in the base"),
        (good[0]._replace(A_R_I=torch.ones(3, 5)), r"\(16 x 5\) is a Linear with a weight of shape \(16, 16\)"),
    ):
        with pytest.raises(AdapterError, match=words):
            movement(model, updates_of([pair]), texts, v, LAYER, "last_prompt")
    with pytest.raises(SpecError, match="layer 7 does not exist"):
        movement(model, updates_of(good), texts, v, 7, "last_prompt")
    assert BLOCKS == 3
