"""The measure of rounding that other tests state their limits in, against distances known beforehand."""

from __future__ import annotations

import math

import pytest
import torch

from ulps import ulps_apart, ulps_of_largest

EPSILON = {torch.float32: 2.0**-23, torch.float64: 2.0**-52, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@pytest.mark.parametrize("dtype", EPSILON)
def test_from_one_the_next_number_is_one_unit_away_and_the_steps_add_up(dtype: torch.dtype) -> None:
    one = torch.ones(3, dtype=dtype)
    for steps in (0, 1, 2, 5):
        other = one.clone()
        other[1] = 1.0 + steps * EPSILON[dtype]
        assert ulps_apart(one, other) == ulps_apart(other, one) == steps
        assert ulps_of_largest(other, one) == steps


@pytest.mark.parametrize("dtype", EPSILON)
def test_the_steps_are_those_of_nextafter_across_powers_of_two_signs_and_zero(dtype: torch.dtype) -> None:
    for start in (1.0, -2.0, 0.5, 0.0, -0.0):
        now = torch.tensor([start], dtype=dtype)
        up, down = (torch.full_like(now, end) for end in (math.inf, -math.inf))
        assert ulps_apart(torch.nextafter(now, up), now) == ulps_apart(now, torch.nextafter(now, down)) == 1
        assert ulps_apart(torch.nextafter(now, up), torch.nextafter(now, down)) == 2


def test_the_two_zeros_are_equal_and_the_largest_numbers_are_far_apart() -> None:
    assert ulps_apart(torch.tensor([0.0]), torch.tensor([-0.0])) == 0
    for dtype, largest in ((torch.float32, 0x7F7FFFFF), (torch.float64, 0x7FEFFFFFFFFFFFFF)):
        most = torch.tensor([torch.finfo(dtype).max], dtype=dtype)
        assert ulps_apart(most, -most) == 2 * largest


def test_an_entry_near_zero_is_measured_by_the_largest_of_its_tensor() -> None:
    expected, found = torch.tensor([1.5, 0.0]), torch.tensor([1.5, 2.0**-23])
    assert ulps_of_largest(found, expected) == 1.0
    assert ulps_apart(found, expected) > 10**8


def test_what_has_no_distance_is_an_error() -> None:
    one = torch.ones(2)
    for other in (one.double(), torch.ones(3), torch.tensor([1.0, math.nan])):
        with pytest.raises(AssertionError):
            ulps_apart(one, other)
        with pytest.raises(AssertionError):
            ulps_of_largest(other, one)
    with pytest.raises(AssertionError, match="last place"):
        ulps_apart(torch.ones(2, dtype=torch.int32), torch.ones(2, dtype=torch.int32))
