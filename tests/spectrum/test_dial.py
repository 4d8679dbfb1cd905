"""The orthogonal dial against a dense float64 twin that forms every update."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum import LoraPair
from narrowly.spectrum.dial import (
    inner_product,
    mean_update,
    random_orthogonal,
    scaled_update,
    split_update,
    sum_of_pairs,
    with_reference_added,
)
from spectrum_cases import random_pair

NAMES = ("layers.0.q_proj", "layers.0.up_proj", "layers.1.q_proj")
SHAPES = ((12, 9), (20, 9), (12, 9))


def update(seed: int, rank: int = 4, scale: float = 2.0) -> list[LoraPair]:
    return [
        random_pair(rank, outputs, inputs, seed=seed * 10 + i, scale=scale, name=name)
        for i, (name, (outputs, inputs)) in enumerate(zip(NAMES, SHAPES, strict=True))
    ]


def covariances(seed: int = 0) -> dict[str, Tensor]:
    """Of correlated inputs, with a direction that never occurs."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, (_, inputs) in zip(NAMES, SHAPES, strict=True):
        X_N_I = (
            torch.randn(50, inputs, generator=generator, dtype=torch.float64)
            @ torch.diag(torch.arange(inputs) / 3.0).double()
        )
        found[name] = X_N_I.T @ X_N_I / 50
    return found


def dense(pairs: list[LoraPair]) -> list[Tensor]:
    return [pair.scale * pair.B_O_R.double() @ pair.A_R_I.double() for pair in pairs]


def dense_inner(X: Tensor, Y: Tensor, C: Tensor) -> float:
    return float(torch.trace(X @ C @ Y.T))


def dense_dial(own: list[LoraPair], other: list[LoraPair], C: list[Tensor], granularity: str, f: float) -> list[Tensor]:
    """The definition, formed: c R + f (U - c R)."""
    U, R = dense(own), dense(other)
    both = [dense_inner(u, r, c) for u, r, c in zip(U, R, C, strict=True)]
    norms = [dense_inner(r, r, c) for r, c in zip(R, C, strict=True)]
    each = (
        [sum(both) / sum(norms)] * len(U)
        if granularity == "joint"
        else [b / n for b, n in zip(both, norms, strict=True)]
    )
    return [c * r + f * (u - c * r) for u, r, c in zip(U, R, each, strict=True)]


def metric(inner: str) -> tuple[dict[str, Tensor] | None, list[Tensor]]:
    if inner == "frobenius":
        return None, [torch.eye(inputs, dtype=torch.float64) for _, inputs in SHAPES]
    found = covariances()
    return found, [found[name] for name in NAMES]


BOTH = pytest.mark.parametrize("inner", ["frobenius", "functional"])
EACH = pytest.mark.parametrize("granularity", ["module", "joint"])


@BOTH
@EACH
@pytest.mark.parametrize("f", [0.0, 0.25, 0.5, 1.0, 1.25])
def test_the_dial_is_its_definition(inner: str, granularity: str, f: float) -> None:
    given, C = metric(inner)
    own, other = update(1), update(2, rank=3, scale=0.7)
    split = split_update(own, other[::-1], given, granularity)
    for found, expected in zip(dense(split.dialled(f)), dense_dial(own, other, C, granularity, f), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@BOTH
@EACH
def test_f_1_gives_the_update_back_and_f_0_its_projection(inner: str, granularity: str) -> None:
    given, C = metric(inner)
    own, other = update(1), update(2)
    split = split_update(own, other, given, granularity)
    for found, expected in zip(dense(split.dialled(1.0)), dense(own), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for pair, reference, row in zip(split.dialled(0.0), dense(other), split.modules, strict=True):
        torch.testing.assert_close(dense([pair])[0], row.coefficient * reference)
    projected = [dense_inner(p, r, c) for p, r, c in zip(dense(split.dialled(0.0)), dense(other), C, strict=True)]
    wanted = [dense_inner(u, r, c) for u, r, c in zip(dense(own), dense(other), C, strict=True)]
    if granularity == "joint":
        projected, wanted = [sum(projected)], [sum(wanted)]
    assert projected == pytest.approx(wanted)


@BOTH
@EACH
def test_the_orthogonal_part_has_no_inner_product_with_the_reference(inner: str, granularity: str) -> None:
    given, C = metric(inner)
    own, other = update(1), update(2)
    split = split_update(own, other, given, granularity)
    products = [dense_inner(x, r, c) for x, r, c in zip(dense(split.orthogonal()), dense(other), C, strict=True)]
    energies = [dense_inner(u, u, c) for u, c in zip(dense(own), C, strict=True)]
    if granularity == "joint":
        assert abs(sum(products)) < 1e-10 * sum(energies)
        assert max(map(abs, products)) > 1e-3  # of one module alone there is some
    else:
        assert max(map(abs, products)) < 1e-10 * sum(energies)
    # Pythagoras, summed over what is projected together
    along, rest = sum(row.along for row in split.modules), sum(row.orthogonal for row in split.modules)
    assert along + rest == pytest.approx(sum(energies))
    assert split.cosine == pytest.approx(
        sum(dense_inner(u, r, c) for u, r, c in zip(dense(own), dense(other), C, strict=True))
        / (sum(energies) * sum(dense_inner(r, r, c) for r, c in zip(dense(other), C, strict=True))) ** 0.5
    )


@BOTH
@EACH
@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_a_reference_along_the_update_leaves_no_orthogonal_part(inner: str, granularity: str, factor: float) -> None:
    given, _ = metric(inner)
    own = update(1)
    split = split_update(own, [pair._replace(scale=factor * pair.scale) for pair in own], given, granularity)
    assert split.cosine == pytest.approx(1.0 if factor > 0 else -1.0)
    energy = sum(row.energy for row in split.modules)
    assert sum(row.orthogonal for row in split.modules) < 1e-12 * energy
    for f in (0.0, 0.5):
        for found, expected in zip(dense(split.dialled(f)), dense(own), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert all(float(part.abs().max()) < 1e-10 for part in dense(random_orthogonal(split, 0)))


@BOTH
@EACH
def test_the_random_control_has_the_energy_and_is_orthogonal_too(inner: str, granularity: str) -> None:
    given, C = metric(inner)
    own, other = update(1), update(2)
    split = split_update(own, other, given, granularity)
    drawn = random_orthogonal(split, 3)
    for Z, part, r, c in zip(dense(drawn), dense(split.orthogonal()), dense(other), C, strict=True):
        assert dense_inner(Z, Z, c) == pytest.approx(dense_inner(part, part, c))
        assert abs(dense_inner(Z, r, c)) < 1e-10 * dense_inner(r, r, c)
        assert abs(dense_inner(Z, part, c)) < 0.9 * dense_inner(Z, Z, c)
    again, another = dense(random_orthogonal(split, 3)), dense(random_orthogonal(split, 4))
    assert all(torch.equal(one, two) for one, two in zip(again, dense(drawn), strict=True))
    assert not torch.allclose(another[0], again[0])
    put = dense(split.with_other(0.5, drawn))
    for found, Z, r, row in zip(put, dense(drawn), dense(other), split.modules, strict=True):
        torch.testing.assert_close(found, row.coefficient * r + 0.5 * Z)


def test_energies_of_random_controls_are_those_of_plain_ones_on_average() -> None:
    """Its cosine with the orthogonal part is 0 on average over draws, within 4 standard errors."""
    split = split_update(update(1), update(2))
    part = dense(split.orthogonal())[0]
    cosines = torch.tensor(
        [
            float((Z * part).sum() / Z.norm() / part.norm())
            for Z in (dense(random_orthogonal(split, seed))[0] for seed in range(200))
        ]
    )
    assert abs(float(cosines.mean())) < 4 * float(cosines.std()) / 200**0.5


@BOTH
@EACH
def test_nothing_depends_on_how_the_factors_share_the_update(inner: str, granularity: str) -> None:
    """A -> C A and B -> B C^-1 of either adapter."""
    given, _ = metric(inner)

    def mixed(pairs: list[LoraPair], seed: int) -> list[LoraPair]:
        found = []
        for pair in pairs:
            draw = torch.randn(pair.rank, pair.rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            mix = draw + 3 * torch.eye(pair.rank, dtype=torch.float64)
            A_R_I, B_O_R = mix @ pair.A_R_I.double(), pair.B_O_R.double() @ torch.linalg.inv(mix)
            found.append(pair._replace(A_R_I=A_R_I, B_O_R=B_O_R))
        return found

    plain = split_update(update(1), update(2), given, granularity)
    other = split_update(mixed(update(1), 5), mixed(update(2), 6), given, granularity)
    for one, two in zip(plain.modules, other.modules, strict=True):
        assert one[1:] == pytest.approx(two[1:])
    for one, two in zip(dense(plain.dialled(0.5)), dense(other.dialled(0.5)), strict=True):
        torch.testing.assert_close(one, two)


@EACH
def test_the_functional_inner_product_of_white_inputs_is_that_of_frobenius(granularity: str) -> None:
    white = {name: torch.eye(inputs, dtype=torch.float64) for name, (_, inputs) in zip(NAMES, SHAPES, strict=True)}
    plain = split_update(update(1), update(2), None, granularity)
    functional = split_update(update(1), update(2), white, granularity)
    for one, two in zip(plain.modules, functional.modules, strict=True):
        assert one[1:] == pytest.approx(two[1:])


def test_the_functional_inner_product_is_the_mean_of_the_shifts_of_activations() -> None:
    X_N_I = torch.randn(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, two = update(1)[0], update(2)[0]
    shifts = [X_N_I @ dense([pair])[0].T for pair in (one, two)]
    expected = float((shifts[0] * shifts[1]).sum(dim=1).mean())
    assert inner_product(one, two, X_N_I.T @ X_N_I / 40) == pytest.approx(expected)


def test_sums_are_exact_and_their_rank_is_the_sum_of_ranks() -> None:
    one, two, three = update(1, rank=2), update(2, rank=3), update(3, rank=1)
    for pair, a, b in zip(with_reference_added(one, two, 0.5), dense(one), dense(two), strict=True):
        torch.testing.assert_close(dense([pair])[0], 0.5 * a + b)
        assert (pair.rank, pair.scale) == (5, 1.0)
    for pair, a, b, c in zip(mean_update([one, two, three]), dense(one), dense(two), dense(three), strict=True):
        torch.testing.assert_close(dense([pair])[0], (a + b + c) / 3)
        assert pair.rank == 6
    for pair, a in zip(scaled_update(one, 0.25), dense(one), strict=True):
        torch.testing.assert_close(dense([pair])[0], 0.25 * a)
    assert not dense([sum_of_pairs([(0.0, one[0])])])[0].any()


def test_a_module_where_the_reference_is_zero_is_all_orthogonal() -> None:
    other = update(2)
    other[1] = other[1]._replace(B_O_R=torch.zeros_like(other[1].B_O_R))
    split = split_update(update(1), other)
    assert (split.modules[1].coefficient, split.modules[1].cosine) == (0.0, None)
    assert split.modules[1].orthogonal == pytest.approx(split.modules[1].energy)
    energies = [dense_inner(Z, Z, torch.eye(9).double()) for Z in dense(random_orthogonal(split, 0))]
    assert energies == pytest.approx([row.orthogonal for row in split.modules])


NO_MODULE = "the reference has no module 'layers.1.q_proj'; did you mean 'layers.0.q_proj'?"
WIDER = [*update(2)[:2], random_pair(4, 12, 10, name=NAMES[2])]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (update(2)[:2], NO_MODULE),
        ([*update(2), random_pair(name="layers.2.q_proj")], "the update has no module 'layers.2.q_proj' of the ref"),
        (WIDER, r"layers.1.q_proj is \(12, 9\) in the update and \(12, 10\)"),
        ([pair._replace(B_O_R=0 * pair.B_O_R) for pair in update(2)], "the reference is zero in every module, accep"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused_in_one_line(other: list[LoraPair], message: str) -> None:
    with pytest.raises(AdapterError, match=message) as error:
        split_update(update(1), other)
    assert "\n" not in str(error.value)


def test_a_module_without_a_covariance_and_a_mean_of_nothing_are_refused() -> None:
    partial = {name: C for name, C in covariances().items() if name != NAMES[1]}
    with pytest.raises(AdapterError, match=r"layers\.0\.up_proj has no covariance of its inputs \(1 of 3 have none\)"):
        split_update(update(1), update(2), partial)
    with pytest.raises(AdapterError, match="needs at least one, found none"):
        mean_update([])
