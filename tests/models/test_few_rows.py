"""Linear layers of few rows, with the weights first: the same numbers as torch's own order, up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from narrowly.models import few_rows
from narrowly.models.few_rows import FewRows
from ulps import ulps_of_largest


@pytest.mark.parametrize("shape", [(2, 24), (2, 1, 24), (1, 3, 24), (4, 1, 24), (2, 2, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_first_gives_what_torch_gives(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    states, weight = torch.randn(shape, generator=draw), torch.randn(40, 24, generator=draw)
    given = torch.randn(40, generator=draw) if bias else None
    expected = linear(states.double(), weight.double(), None if given is None else given.double())
    used: list[int] = []
    plain = few_rows.weights_first
    monkeypatch.setattr(few_rows, "weights_first", lambda *given: (used.append(1), plain(*given))[1])
    with torch.inference_mode(), FewRows():
        found = linear(states, weight, given)
    assert used and found.shape == expected.shape and found.is_contiguous()
    assert ulps_of_largest(found, expected.float()) <= 16


@pytest.mark.parametrize(
    ("rows", "outputs", "dtype"),
    [(1, 40, torch.float32), (5, 40, torch.float32), (9, few_rows.TALL, torch.float32), (2, 40, torch.bfloat16)],
)
def test_one_row_many_rows_and_other_dtypes_are_left_to_torch(
    rows: int, outputs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_rows, "weights_first", lambda *given: pytest.fail("not left to torch"))
    layer = torch.nn.Linear(8, outputs).to(dtype)
    states = torch.ones(rows, 8, dtype=dtype)
    with torch.inference_mode():
        with FewRows():
            found = layer(states)
        assert torch.equal(found, layer(states))


def test_eight_rows_of_a_tall_matrix_come_second(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(few_rows, "weights_first", lambda states, *rest: used.append(states.shape[0]))
    with FewRows():
        linear(torch.ones(8, 4), torch.ones(few_rows.TALL, 4))
        linear(torch.ones(8, 4), torch.ones(few_rows.TALL - 1, 4))
    assert used == [8]
