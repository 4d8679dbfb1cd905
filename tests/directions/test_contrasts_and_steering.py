"""Directions, their scores in other groups, their files; states moved and ablated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowly.directions import store
from narrowly.directions.activations import Batch
from narrowly.directions.contrast import CHUNK, Contrast, Side
from narrowly.directions.layers import reading
from narrowly.directions.steering import ablated, added, random_like
from narrowly.records.answers import AskedModel
from narrowly.records.directions import DirectionCard, Separability, default_layer
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from tiny_decoders import BLOCKS, HIDDEN, tiny_decoder

IDS = torch.tensor([[3, 4, 5, 6]])


def batches_of(states: torch.Tensor, size: int) -> list[Batch]:
    order = list(reversed(range(len(states))))
    return [Batch(order[at : at + size], states[order[at : at + size]].float()) for at in range(0, len(order), size)]


def made_contrast(rows: int = 3 * CHUNK, groups: int = 6) -> tuple[list[Side], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sides = [Side(f"g{row % groups}", (row // groups) % 2 == 0) for row in range(rows)]
    states = torch.randn((rows, 2, HIDDEN), generator=generator)
    for row, side in enumerate(sides):
        states[row, 1, int(side.group[1:])] += 5.0  # what the group is about
        states[row, 1, 10] += 2.0 * side.positive
    return sides, states


def test_directions_and_scores_are_those_of_a_plain_version_in_float64() -> None:
    sides, states = made_contrast()
    with Contrast(sides) as contrast:
        for batch in batches_of(states, 50):
            contrast.add(batch)
        direction = contrast.direction()
        found = {row: values for one in contrast.scores() for row, values in zip(one.rows, one.values_B_L, strict=True)}
    states = states.float().double()

    def plain(groups: list[str]) -> torch.Tensor:
        differences = []
        for group in groups:
            mean = [
                torch.stack([states[r] for r, side in enumerate(sides) if side == Side(group, positive)]).mean(dim=0)
                for positive in (True, False)
            ]
            differences.append(mean[0] - mean[1])
        return torch.stack(differences).mean(dim=0)

    groups = [f"g{g}" for g in range(6)]
    assert torch.allclose(direction, plain(groups), atol=1e-12)
    assert int(direction[1].abs().argmax()) == 10
    for row in (0, 5, 700):
        own = plain([group for group in groups if group != sides[row].group])
        wanted = (states[row] * own / own.norm(dim=-1, keepdim=True)).sum(dim=-1)
        assert torch.allclose(found[row], wanted, atol=1e-9)
    assert len(found) == len(sides)


def test_a_row_is_never_scored_along_a_direction_that_it_took_part_in() -> None:
    """A group whose sides differ by something of its own alone gets scores at chance."""
    sides, states = made_contrast()
    for row, side in enumerate(sides):
        states[row, 1, 10] -= 2.0 * side.positive  # no common direction left
        states[row, 1, 11] += 50.0 * (side.positive and side.group == "g0")
    with Contrast(sides) as contrast:
        for batch in batches_of(states, 100):
            contrast.add(batch)
        found = {row: float(v[1]) for one in contrast.scores() for row, v in zip(one.rows, one.values_B_L, strict=True)}
        told = [found[r] for r, side in enumerate(sides) if side == Side("g0", True)]
        not_told = [found[r] for r, side in enumerate(sides) if side == Side("g0", False)]
        gap = abs(sum(told) / len(told) - sum(not_told) / len(not_told))
        assert gap < 25, "along a direction of its own the gap would be near 50"
        only = {row for one in contrast.scores(["g0", "g1"]) for row in one.rows}
        assert only == set(range(len(sides))), "groups that took no part are scored too"


@given(st.integers(1, 40), st.integers(0, 3))
def test_a_group_with_more_rows_of_a_side_shifts_nothing(extra: int, group: int) -> None:
    """Duplicating rows of one side of one group leaves the direction as it is."""
    sides = [Side(f"g{g}", positive) for g in range(4) for positive in (True, False)]
    states = torch.arange(8 * HIDDEN, dtype=torch.float32).reshape(8, 1, HIDDEN).sin()
    found = []
    for rows in (list(range(8)), [*range(8), *([2 * group] * extra)]):
        with Contrast([sides[row] for row in rows], keep_rows=False) as contrast:
            contrast.add(Batch(list(range(len(rows))), states[rows]))
            found.append(contrast.direction())
    assert torch.allclose(found[0], found[1], atol=1e-9)


def test_an_empty_contrast_and_one_without_a_difference_are_one_line() -> None:
    with pytest.raises(SpecError, match="the contrast is empty, accepted"):
        Contrast([])
    with pytest.raises(SpecError, match="empty in money: no negative text"):
        Contrast([Side("money", True), Side("work", True), Side("work", False)])
    with Contrast([Side("a", True), Side("a", False)], keep_rows=False) as contrast:
        contrast.add(Batch([0, 1], torch.ones(2, 2, HIDDEN)))
        with pytest.raises(SpecError, match="the same states at every layer"):
            contrast.direction()
        with pytest.raises(SpecError, match="no group is left"):
            contrast.direction([])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_is_no_steering_bit_for_bit_and_another_adds_the_vector_once(dtype: torch.dtype) -> None:
    model = tiny_decoder(dtype=dtype)
    v = torch.linspace(-1, 1, HIDDEN)
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        with added(model, {2: v}, 0.0):
            assert torch.equal(model(input_ids=IDS).logits, plain)
        with reading(model, [1, 2, 3]) as found:
            model(input_ids=IDS)
            before = dict(found)
            with added(model, {2: v}, -1.5):
                moved = model(input_ids=IDS).logits
                after = dict(found)
        assert torch.equal(after[1], before[1]), "no layer before it"
        assert torch.equal(after[2], (before[2].float() - 1.5 * v).to(dtype)), "summed in float32, rounded once"
        assert not torch.equal(after[3], before[3]) and not torch.equal(moved, plain)
        assert torch.equal(model(input_ids=IDS).logits, plain), "nothing is left behind"


def test_every_layer_can_be_steered_the_last_one_behind_the_norm() -> None:
    model = tiny_decoder()
    v = torch.ones(HIDDEN)
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        for layer in range(BLOCKS + 1):
            with added(model, {layer: v}, 0.3):
                assert not torch.equal(model(input_ids=IDS).logits, plain)
        with added(model, {BLOCKS: v}, 0.3):
            shifted = model(input_ids=IDS).logits
    assert torch.allclose(shifted - plain, (0.3 * model.lm_head(v)).expand_as(plain), atol=1e-4)


def test_gradients_of_a_training_step_are_those_of_a_constant_bias() -> None:
    """Preventative steering: the same gradients as with a bias of the block, which is no parameter of the model."""
    model = tiny_decoder()
    v = torch.linspace(-1, 1, HIDDEN)
    model.train()
    with added(model, {1: v}, 2.0):
        model(input_ids=IDS, labels=IDS).loss.backward()
    steered = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.model.layers[0].mlp.down_proj.bias = torch.nn.Parameter(2.0 * v, requires_grad=False)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for one, parameter in zip(steered, [p for p in model.parameters() if p.requires_grad], strict=True):
        assert torch.allclose(one, parameter.grad, atol=1e-5)


def test_ablation_leaves_the_projection_that_it_is_told_and_nothing_else() -> None:
    model = tiny_decoder()
    v = torch.linspace(-1, 1, HIDDEN) * 7
    unit = v / v.norm()
    with torch.no_grad(), reading(model, [2]) as found:
        model(input_ids=IDS)
        before = found[2].clone()
        with ablated(model, {2: v}):
            model(input_ids=IDS)
        zero = found[2].clone()
        with ablated(model, {2: v}, {2: 0.75}):
            model(input_ids=IDS)
        level = found[2].clone()
    assert float((zero @ unit).abs().max()) < 1e-5
    assert torch.allclose(level @ unit, torch.full((1, 4), 0.75), atol=1e-5)
    across = torch.eye(HIDDEN) - torch.outer(unit, unit)
    assert torch.allclose(zero @ across, before @ across, atol=1e-5)


def test_a_random_direction_has_the_same_length_and_follows_from_its_seed() -> None:
    v = torch.linspace(-3, 1, HIDDEN)
    one, again, other = random_like(v, 0), random_like(v, 0), random_like(v, 1)
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert float(one.norm()) == pytest.approx(float(v.norm()), rel=1e-6)


def test_vectors_and_strengths_that_do_not_fit_are_refused() -> None:
    model = tiny_decoder()
    v = torch.ones(HIDDEN)
    for act, words in (
        (lambda: added(model, {2: v}, float("nan")), "strength is nan"),
        (lambda: added(model, {2: torch.ones(5)}, 1.0), r"shape \(5,\), accepted: \(16,\)"),
        (lambda: added(model, {9: v}, 1.0), "layer 9 does not exist"),
        (lambda: added(model, {2: v * float("inf")}, 1.0), "NaN or infinite"),
        (lambda: ablated(model, {2: v * 0}), "length 0"),
    ):
        with pytest.raises(SpecError, match=words), act():
            pass


def card(**changed: Any) -> DirectionCard:
    model = AskedModel(
        name="m", base="m", base_sha256="a" * 64, config_sha256="b", tokenizer_sha256="c", template_sha256="d",
        dtype="float32",
    )  # fmt: skip
    fields: dict[str, Any] = {
        "name": "careless", "kind": "trait", "contrast_sha256": "e", "model": model, "hidden": HIDDEN, "top": 3,
        "layers": (1, 2), "layer": 2, "position": "answer_mean", "made_from": ("a",), "held_out": (), "positive": 1,
        "negative": 1, "norms": (1.0, 1.0), "rms": (1.0, 1.0), "sha256": "",
        "separability": (Separability(layer=1, auc=0.5, low=None, high=None, groups=1, method="t"),),
    }  # fmt: skip
    return DirectionCard(**(fields | changed))


def test_directions_come_back_as_they_were_saved_and_only_those_of_the_same_base_and_layer(tmp_path: Path) -> None:
    file = tmp_path / "careless.safetensors"
    vectors = {1: torch.linspace(-1, 1, HIDDEN), 2: torch.linspace(0, 3, HIDDEN)}
    saved = store.save(file, vectors, card())
    found = store.load(file)
    assert found.card == saved and len(saved.sha256) == 64
    assert all(torch.equal(found.vectors[layer], vectors[layer]) for layer in (1, 2))
    assert torch.equal(found.at(), vectors[2]) and torch.equal(found.at(1), vectors[1])
    store.check_base(found, "a" * 64, "m")
    with pytest.raises(IntegrityError, match=r"are of base m \(sha256 aaaaaaaaaaaaaaaa\), not of other"):
        store.check_base(found, "f" * 64, "other")
    with pytest.raises(SpecError, match="of another layer: 3 found, accepted: 1, 2"):
        found.at(3)


def test_files_that_are_not_those_of_their_card_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(RunDirectoryError, match="no directions in"):
        store.load(file)
    with pytest.raises(SpecError, match=r"saved as \.safetensors"):
        store.load(tmp_path / "x.pt")
    store.save(file, {1: torch.ones(HIDDEN), 2: torch.ones(HIDDEN)}, card())
    other = tmp_path / "y.safetensors"
    store.save(other, {1: torch.ones(HIDDEN), 2: torch.zeros(HIDDEN)}, card())
    place = file.with_suffix(".card.json")
    kept = place.read_text(encoding="utf-8")
    file.write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError, match="one of them was exchanged"):
        store.load(file)
    place.write_text(json.dumps(json.loads(kept) | {"hiden": 3}), encoding="utf-8")
    with pytest.raises(IntegrityError, match="no card of directions"):
        store.load(file)
    place.unlink()
    with pytest.raises(IntegrityError, match="cannot read"):
        store.load(file)
    wrong = store.save(file, {1: torch.ones(HIDDEN)}, card())
    with pytest.raises(IntegrityError, match="one vector of 16 numbers for each layer"):
        store.load(file)
    assert wrong.layers == (1, 2)


@pytest.mark.parametrize(("top", "layer"), [(1, 1), (2, 1), (4, 2), (30, 16), (36, 20)])
def test_the_layer_that_is_used_where_none_is_named_is_a_share_of_the_depth(top: int, layer: int) -> None:
    assert default_layer(top) == layer
