"""Two adapters compared from their factors against dense matrices in float64, and the eight hybrids of a swap."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from narrowly.records.errors import AdapterError
from narrowly.spectrum.compare import (
    HYBRIDS,
    compare_adapters,
    compare_pairs,
    difference_summary,
    factorial_effects,
    hybrids,
    principal_angles,
    simple_effects,
)
from spectrum_cases import dense, dense_values, pair_of_spectrum, random_pair


def dense_spaces(pair, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The leading left and right singular vectors of the dense update."""
    U, _, Vh = torch.linalg.svd(dense(pair), full_matrices=False)
    return U[:, :count], Vh[:count].T


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.float64]))
def test_a_comparison_from_factors_is_that_of_the_dense_updates(rank_a, rank_b, seed, dtype) -> None:
    a = random_pair(rank_a, 13, 17, seed=seed, scale=1.7, dtype=dtype)
    b = random_pair(rank_b, 13, 17, seed=seed + 1, scale=-0.4, dtype=dtype)
    found = compare_pairs(a, b, top=2)
    M_a, M_b = dense(a), dense(b)
    assert (found.rank_a, found.rank_b) == (rank_a, rank_b)
    assert found.norm_a == pytest.approx(float(M_a.norm()), rel=1e-9)
    assert found.cosine == pytest.approx(float((M_a * M_b).sum() / (M_a.norm() * M_b.norm())), abs=1e-9)
    assert found.values_b == pytest.approx(dense_values(b).tolist(), rel=1e-7)
    for side, space in ((0, found.column), (1, found.row)):
        twin = sorted(math.degrees(x) for x in subspace_angles(
            dense_spaces(a, rank_a)[side].numpy(), dense_spaces(b, rank_b)[side].numpy()
        ))  # fmt: skip
        assert space.smallest == pytest.approx(twin[0], abs=1e-6)
        assert space.largest == pytest.approx(twin[-1], abs=1e-6)
        cosines = [math.cos(math.radians(x)) ** 2 for x in twin]
        assert space.overlap == pytest.approx(math.fsum(cosines) / len(cosines), abs=1e-9)
    width = min(2, rank_a, rank_b)
    top = dense_spaces(a, width)[0].T @ dense_spaces(b, width)[0]
    assert found.top_column.overlap == pytest.approx(float(top.square().sum()) / width, abs=1e-7)


def test_a_tiny_angle_is_seen_where_its_cosine_rounds_to_one() -> None:
    base = torch.eye(6, 2, dtype=torch.float64)
    angle = 1e-9
    turned = base.clone()
    turned[0, 0], turned[5, 0] = math.cos(angle), math.sin(angle)
    assert principal_angles(base, turned).tolist() == pytest.approx([0.0, math.degrees(angle)], rel=1e-6, abs=1e-12)


def test_an_update_lies_at_no_angle_to_itself_and_at_a_right_angle_to_an_orthogonal_one() -> None:
    pair = random_pair(3, 12, 9)
    same = compare_pairs(pair, pair._replace(scale=-pair.scale))
    assert same.cosine == pytest.approx(-1.0)
    assert same.column.largest == pytest.approx(0.0, abs=1e-6)
    assert same.row.overlap == pytest.approx(1.0)
    eye = torch.eye(8)
    one = pair._replace(A_R_I=eye[:2], B_O_R=eye[:, :2])
    other = pair._replace(A_R_I=eye[4:6], B_O_R=eye[:, 4:6])
    assert compare_pairs(one, other).cosine == 0.0
    assert compare_pairs(one, other).column.smallest == pytest.approx(90.0)


def test_the_gauge_changes_nothing() -> None:
    a, b = random_pair(3, 12, 9, dtype=torch.float64), random_pair(3, 12, 9, seed=1, dtype=torch.float64)
    mix = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 2 * torch.eye(3)
    turned = a._replace(A_R_I=mix @ a.A_R_I, B_O_R=a.B_O_R @ torch.linalg.inv(mix))
    one, two = compare_pairs(a, b), compare_pairs(turned, b)
    assert two.cosine == pytest.approx(one.cosine, abs=1e-10)
    assert two.row == pytest.approx(one.row, abs=1e-6)


@pytest.mark.parametrize("size", [1e-150, 1e-40, 1e60])
def test_a_comparison_does_not_depend_on_the_size_of_an_update_however_small_or_large(size) -> None:
    a, b = random_pair(3, 12, 9, dtype=torch.float64), random_pair(3, 12, 9, seed=1, dtype=torch.float64)
    scaled = a._replace(B_O_R=a.B_O_R * size)
    one, two = compare_pairs(a, b), compare_pairs(scaled, b)
    assert two.cosine == pytest.approx(one.cosine, abs=1e-12)
    assert two.column == pytest.approx(one.column, abs=1e-6)
    found, expected = (difference_summary(compare_adapters([x], [x]).modules) for x in (scaled, a))
    assert found["cosine"] == pytest.approx(expected["cosine"])


def test_an_update_without_a_norm_in_float64_has_no_angles_or_is_refused() -> None:
    pair = random_pair(3, 12, 9, dtype=torch.float64)
    nothing = compare_pairs(pair, pair._replace(A_R_I=pair.A_R_I * 1e-150, B_O_R=pair.B_O_R * 1e-150))
    assert (nothing.cosine, nothing.column) == (None, None)
    for size in (1e100, 1e160):
        with pytest.raises(AdapterError, match="accepted: finite updates"):
            compare_pairs(pair, pair._replace(A_R_I=pair.A_R_I * size, B_O_R=pair.B_O_R * size))


def test_random_subspaces_overlap_by_chance_as_stated() -> None:
    rows = [compare_pairs(random_pair(4, 40, 60, seed=s), random_pair(6, 40, 60, seed=s + 500)) for s in range(60)]
    for field in ("column", "row"):
        found = [getattr(row, field) for row in rows]
        assert math.fsum(space.overlap for space in found) / 60 == pytest.approx(found[0].chance, rel=0.15)


def test_a_zero_update_has_no_angles_and_a_rank_deficient_one_its_own_rank() -> None:
    pair = random_pair(3, 12, 9)
    zero = pair._replace(B_O_R=torch.zeros_like(pair.B_O_R))
    found = compare_pairs(pair, zero)
    assert (found.cosine, found.column, found.rank_b, found.norm_b) == (None, None, 0, 0.0)
    deficient = pair._replace(B_O_R=pair.B_O_R.clone())
    deficient.B_O_R[:, 2] = deficient.B_O_R[:, 0]
    assert compare_pairs(deficient, pair).rank_a == 2


def test_modules_of_one_adapter_only_and_of_other_shapes_are_listed_with_reasons() -> None:
    a = [random_pair(2, 8, 6, name=name) for name in ("x", "y", "z")]
    b = [random_pair(3, 8, 6, name="y", seed=5), random_pair(2, 9, 6, name="z"), random_pair(2, 8, 6, name="w")]
    found = compare_adapters(a, b)
    assert [row.module for row in found.modules] == ["y"]
    assert [(one.name, one.reason.split(":")[0]) for one in found.skipped] == [
        ("x", "only the first adapter has it"),
        ("z", "outputs x inputs are (8, 6) and (9, 6)"),
        ("w", "only the second adapter has it"),
    ]
    with pytest.raises(AdapterError, match="no module in common"):
        compare_adapters(a[:1], b[:1])


def test_the_summary_is_that_of_the_whole_updates() -> None:
    a = [random_pair(2, 8, 6, name=name, seed=s) for s, name in enumerate("xyz")]
    b = [random_pair(3, 8, 6, name=name, seed=s + 9) for s, name in enumerate("xyz")]
    whole = [torch.cat([dense(pair).flatten() for pair in pairs]) for pairs in (a, b)]
    summary = difference_summary(compare_adapters(a, b).modules)
    assert summary["cosine"] == pytest.approx(float(torch.cosine_similarity(*whole, dim=0)), abs=1e-9)
    assert summary["update_norm_b"] == pytest.approx(float(whole[1].norm()), rel=1e-6)
    assert summary["column_chance"] == pytest.approx(3 / 8)


# ------------------------------------------------------------------------------------------------- hybrids


def adapters() -> tuple[list, list]:
    names = ("x", "y")
    a = [random_pair(3, 8, 6, name=name, seed=s, scale=2.0, dtype=torch.float64) for s, name in enumerate(names)]
    b = [random_pair(3, 8, 6, name=name, seed=s + 9, scale=-0.5, dtype=torch.float64) for s, name in enumerate(names)]
    return a, b


def test_aaa_and_bbb_are_the_adapters_themselves() -> None:
    a, b = adapters()
    found = dict(hybrids(a, b))
    assert tuple(found) == HYBRIDS
    for name, pairs in (("AAA", a), ("BBB", b)):
        for hybrid, pair, target in zip(found[name], pairs, a, strict=True):
            assert hybrid.scale == target.scale
            torch.testing.assert_close(dense(hybrid), dense(pair), rtol=1e-10, atol=1e-10)


def test_every_hybrid_has_the_shape_norm_and_directions_that_its_name_says() -> None:
    a, b = adapters()
    source = {"A": a, "B": b}
    for name, pairs in hybrids(a, b):
        for place, hybrid in enumerate(pairs):
            shape, norm, vectors = (source[letter][place] for letter in name)
            values, expected = dense_values(hybrid), dense_values(shape)
            torch.testing.assert_close(values / values.norm(), expected / expected.norm(), rtol=1e-9, atol=1e-12)
            assert float(values.norm()) == pytest.approx(float(dense(norm).norm()), rel=1e-10)
            U, _, Vh = torch.linalg.svd(dense(vectors), full_matrices=False)
            torch.testing.assert_close((U[:, :3].T @ dense(hybrid) @ Vh[:3].T).diagonal(), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:1], "adapt different modules: y"),
        (lambda b: [random_pair(2, 8, 6, name="x"), b[1]], "x: factors are .* accepted: equal ranks"),
        (lambda b: [b[0]._replace(B_O_R=b[0].B_O_R * 0), b[1]], "x: the update of adapter B is zero"),
    ],
)
def test_adapters_that_cannot_be_swapped_are_refused(change, message) -> None:
    a, b = adapters()
    with pytest.raises(AdapterError, match=message):
        list(hybrids(a, change(b)))


def test_effects_of_an_additive_response_are_its_terms_and_add_up_to_the_whole_difference() -> None:
    terms = {"shape": 0.5, "norms": -2.0, "vectors": 3.0}
    values = {
        name: sum(size for letter, size in zip(name, terms.values(), strict=True) if letter == "B") for name in HYBRIDS
    }
    found = factorial_effects(values)
    assert {key: found[key] for key in terms} == pytest.approx(terms)
    assert all(abs(value) < 1e-12 for key, value in found.items() if key not in terms)
    generator = torch.Generator().manual_seed(0)
    values = {name: float(torch.randn((), generator=generator)) for name in HYBRIDS}
    found = factorial_effects(values)
    odd = [value for key, value in found.items() if key.count(" x ") != 1]
    assert math.fsum(odd) == pytest.approx(values["BBB"] - values["AAA"])
    by_hand = (sum(values[n] for n in HYBRIDS if n[1] == "B") - sum(values[n] for n in HYBRIDS if n[1] == "A")) / 4
    assert found["norms"] == pytest.approx(by_hand)
    assert found["shape x vectors"] == pytest.approx(sum(values[n] * (1 if n[0] == n[2] else -1) for n in HYBRIDS) / 4)


def test_simple_effects_are_the_main_effect_minus_and_plus_the_interaction_and_show_a_crossing() -> None:
    """F15: a main effect of -.44 hid an effect of -1.41 with one adapter's vectors and of +.53 with the other's."""
    values = {name: (-1.41 if name[2] == "A" else 0.53) * (name[0] == "B") for name in HYBRIDS}
    simple, whole = simple_effects(values), factorial_effects(values)
    assert (simple["shape, vectors A"], simple["shape, vectors B"]) == pytest.approx((-1.41, 0.53))
    assert (whole["shape"], whole["shape x vectors"]) == pytest.approx((-0.44, 0.97))
    generator = torch.Generator().manual_seed(1)
    values = {name: float(torch.randn((), generator=generator)) for name in HYBRIDS}
    simple, whole = simple_effects(values), factorial_effects(values)
    for main, other, both in (
        ("shape", "vectors", "shape x vectors"),
        ("norms", "shape", "shape x norms"),
        ("vectors", "norms", "norms x vectors"),
    ):
        assert simple[f"{main}, {other} A"] == pytest.approx(whole[main] - whole[both])
        assert simple[f"{main}, {other} B"] == pytest.approx(whole[main] + whole[both])
    assert len(simple) == 12


def test_a_repeated_spectrum_is_no_obstacle() -> None:
    a, b = [pair_of_spectrum([2.0, 2.0, 2.0])], [pair_of_spectrum([4.0, 1.0, 1e-3], seed=1)]
    mixed = dict(hybrids(a, b))["BAA"][0]
    assert float(dense(mixed).norm()) == pytest.approx(12**0.5, rel=1e-5)
    assert all(torch.isfinite(part).all() for part in (mixed.A_R_I, mixed.B_O_R))
