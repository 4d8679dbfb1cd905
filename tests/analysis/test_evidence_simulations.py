"""The simulations behind the preregistered studies: intervals hold a planted truth, verdicts are those of `judge`."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from narrowly.analysis.contrast_values import differences
from narrowly.stats.verdict import judge

FOLDER = Path(__file__).parents[2] / "experiments"
COVERAGE = runpy.run_path(str(FOLDER / "evidence_coverage.py"), run_name="script")
POWER = runpy.run_path(str(FOLDER / "evidence_power.py"), run_name="script")


@pytest.mark.parametrize("name", ["at equal held-out log-odds", "at equal norm", "control minus base (rate)"])
def test_intervals_over_eight_bases_hold_the_planted_truth(name) -> None:
    """240 simulations: three standard errors of a coverage of .95 are .042."""
    planted = COVERAGE["ESTIMATORS"][name](1920, np.random.default_rng(1))
    assert COVERAGE["coverage"](planted, 8) == pytest.approx(0.95, abs=0.042)


def test_an_interval_around_another_number_does_not_hold_the_truth() -> None:
    planted = COVERAGE["ESTIMATORS"]["at equal norm"](640, np.random.default_rng(1))
    assert COVERAGE["coverage"](planted._replace(truth=planted.truth + 1.0), 8) < 0.5


def test_the_matched_estimators_have_no_bias_beyond_their_error() -> None:
    """Other ranges, other slopes, bends and noise on both rungs: the mean over 1920 bases is the planted number."""
    for name in ("at equal held-out log-odds", "at equal norm"):
        planted = COVERAGE["ESTIMATORS"][name](1920, np.random.default_rng(2))
        values = np.array(list(differences(planted.contrast, planted.ladder).per_base.values()))
        assert abs(values.mean() - planted.truth) < 3 * values.std() / np.sqrt(len(values))


def test_the_verdicts_of_the_power_simulation_are_those_of_judge() -> None:
    generator = np.random.default_rng(3)
    mean, error = generator.normal(0, 0.3, size=300), generator.uniform(0.02, 0.3, size=300)
    found = POWER["words"](mean, error, 15, 0.35)
    expected = [judge(float(m), float(e), 15.0, 0.35).word.value for m, e in zip(mean, error, strict=True)]
    assert found == expected
    assert len(set(found)) == 4


def test_power_rises_with_bases_and_falls_with_their_spread() -> None:
    def inside(bases: int, sd: float) -> float:
        return float(POWER["inside"](POWER["verdicts"](0.0, sd, bases, 1.0, 5, 0.35, 2000)))

    assert inside(8, 0.44) < inside(16, 0.44) < inside(24, 0.44)
    assert inside(16, 0.3) > inside(16, 0.44) > 0.8 > inside(16, 0.6)
