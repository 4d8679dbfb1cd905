"""The spectrum of W - W0: whole up to a smaller side of 1024, beyond it leading values that say that they are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.records.run_spec import RunSpec
from narrowly.spectrum import difference
from narrowly.spectrum.difference import EXACT_SIDE, difference_row, exact_values, leading_values
from narrowly.spectrum.metrics import NEED_ALL, SpectrumMetrics, spectrum_metrics, spectrum_summary

NAME = "model.layers.3.mlp.up_proj"


def matrix_with(values: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return a rows x columns matrix in float64 with these singular values and random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(side, len(values), generator=generator, dtype=torch.float64)).Q
        for side in (rows, columns)
    )
    return (U * values) @ V.T


SHAPES = {
    "decaying": lambda n: 0.9 ** torch.arange(n, dtype=torch.float64),
    "flat": lambda n: torch.ones(n, dtype=torch.float64),
    "noise": lambda n: torch.linspace(1, 0, n, dtype=torch.float64),
    "few": lambda n: torch.cat([torch.tensor([9.0, 8.0, 7.0]).double(), torch.zeros(n - 3).double()]),
}


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 24), columns=st.integers(1, 24), seed=st.integers(0, 999), scale=st.sampled_from([1e-4, 1, 50])
)
def test_all_values_are_those_of_a_dense_svd(rows: int, columns: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, change = (torch.randn(rows, columns, generator=generator) for _ in range(2))
    now = start + scale * change
    row = difference_row(NAME, now, start, 2)
    expected = torch.linalg.svdvals(now.double() - start.double())
    assert row["singular_values"] == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-7 * float(expected[0]))
    assert (row["module"], row["layer"], row["kind"], row["rank"]) == (NAME, 3, "up_proj", min(rows, columns))
    for field, value in spectrum_metrics(expected)._asdict().items():
        if field != "condition_number":
            assert row[field] == pytest.approx(value, rel=1e-6)


def test_a_base_in_half_precision_is_subtracted_as_it_is() -> None:
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    now = start.float() + 1e-6
    row = difference_row(NAME, now, start, 2)
    assert row["frobenius_norm"] == pytest.approx(float((now.double() - start.double()).norm()), rel=1e-12)


@pytest.mark.parametrize("side", [8, EXACT_SIDE + 1])
def test_no_change_is_no_update_as_it_is_for_an_adapter_with_b_0(side: int) -> None:
    row = difference_row(NAME, torch.ones(side, side + 1), torch.ones(side, side + 1).bfloat16(), 4)
    assert row["frobenius_norm"] == row["spectral_norm"] == 0.0
    assert all(row[name] is None for name in ("stable_rank", *NEED_ALL))
    assert set(row.get("singular_values") or row["leading_singular_values"]) == {0.0}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("rows", "columns"), [(120, 300), (300, 120)])
@pytest.mark.parametrize("keep", [1, 5, 32, 120])
def test_leading_values_are_those_of_a_dense_svd(shape: str, rows: int, columns: int, keep: int) -> None:
    D = matrix_with(SHAPES[shape](120), rows, columns).float()
    expected, found = torch.linalg.svdvals(D.double())[:keep], leading_values(D, keep)
    assert len(found) == keep
    assert float(((found - expected).abs() / expected[0]).max()) < 1e-3
    assert float((found - expected).max() / expected[0]) < 1e-5  # never too large but for rounding


def test_leading_values_of_a_trained_like_update_with_a_long_tail_are_accurate() -> None:
    """Strong directions over noise, 700 x 900, more than the blocks of the iteration can span at once."""
    generator = torch.Generator().manual_seed(1)
    strong = matrix_with(torch.linspace(60, 40, 12, dtype=torch.float64), 700, 900)
    D = (strong + torch.randn(700, 900, generator=generator).double()).float()
    expected = torch.linalg.svdvals(D.double())[:32]
    found = leading_values(D, 32)
    assert found[:12].tolist() == pytest.approx(expected[:12].tolist(), rel=1e-5)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_leading_values_of_an_update_of_low_rank_are_never_too_large() -> None:
    """What the matrix maps to zero spans a block of noise, which must be made orthogonal once more."""
    for seed in (8, 21, 93, 137):
        D = torch.zeros(100, 120)
        D[:5] = torch.randn(5, 120, generator=torch.Generator().manual_seed(seed))
        expected = torch.linalg.svdvals(D.double())[:20]
        assert float((leading_values(D, 20) - expected).abs().max() / expected[0]) < 1e-6


def test_a_truncated_row_never_passes_for_a_whole_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    D = matrix_with(SHAPES["decaying"](40), 40, 60)
    whole = difference_row(NAME, D, torch.zeros(40, 60), 4)
    monkeypatch.setattr(difference, "EXACT_SIDE", 39)
    cut = difference_row(NAME, D, torch.zeros(40, 60), 4)
    assert "singular_values" not in cut and len(cut["leading_singular_values"]) == 4
    assert cut["leading_singular_values"] == pytest.approx(whole["singular_values"][:4], rel=1e-4)
    assert cut["frobenius_norm"] == pytest.approx(whole["frobenius_norm"], rel=1e-9)
    assert cut["stable_rank"] == pytest.approx(whole["stable_rank"], rel=1e-3)
    assert [cut[name] for name in (*NEED_ALL, "nuclear_norm")] == [None] * 4
    assert cut.keys() - {"leading_singular_values"} == whole.keys() - {"singular_values"}
    assert whole.keys() >= set(SpectrumMetrics._fields)


def test_one_truncated_module_takes_the_means_that_need_all_values_away(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = matrix_with(SHAPES["flat"](4), 4, 6), matrix_with(SHAPES["decaying"](9), 9, 9)
    rows = [difference_row(NAME, D, torch.zeros_like(D), 2) for D in (small, large)]
    assert None not in spectrum_summary(rows).values()
    monkeypatch.setattr(difference, "EXACT_SIDE", 8)
    mixed = [rows[0], difference_row(NAME, large, torch.zeros_like(large), 2)]
    summary = spectrum_summary(mixed)
    assert [summary[name] for name in NEED_ALL] == [None] * 3
    assert summary["stable_rank"] == pytest.approx((mixed[0]["stable_rank"] + mixed[1]["stable_rank"]) / 2)
    assert summary["update_norm"] == pytest.approx(math.hypot(*(row["frobenius_norm"] for row in rows)))


def test_a_singular_update_has_no_condition_number() -> None:
    D = matrix_with(SHAPES["few"](20), 20, 30)
    assert difference_row(NAME, D, torch.zeros(20, 30), 4)["condition_number"] is None
    for seed in range(6):  # beyond what the Gram matrix resolves, whatever it makes of it
        D = matrix_with(torch.logspace(0, -9, 20, dtype=torch.float64), 20, 30, seed)
        assert difference_row(NAME, D, torch.zeros(20, 30), 4)["condition_number"] is None
    full = matrix_with(torch.linspace(1, 1e-3, 20, dtype=torch.float64), 20, 30)
    assert difference_row(NAME, full, torch.zeros(20, 30), 4)["condition_number"] == pytest.approx(1e3, rel=1e-6)


def test_training_that_has_diverged_is_named() -> None:
    for bad in (math.nan, math.inf):
        D = torch.ones(3, 4)
        D[1, 2] = bad
        with pytest.raises(AdapterError, match=rf"{NAME}: W - W0 holds NaN or infinite values"):
            difference_row(NAME, D, torch.zeros(3, 4), 2)


def test_the_field_of_the_spec_names_the_bound_and_a_gram_matrix_at_it_is_accurate() -> None:
    assert str(EXACT_SIDE) in str(RunSpec.model_fields["spectrum_rank"].description)
    values = torch.logspace(0, -4, 64, dtype=torch.float64)
    D = matrix_with(values, 64, 80)
    assert exact_values(D).tolist() == pytest.approx(values.tolist(), rel=1e-6)
