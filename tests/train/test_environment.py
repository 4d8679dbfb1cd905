"""Versions of a run and of its resume: a rename of the product is no other version, another library is one."""

from __future__ import annotations

import pytest

from narrowly.records.errors import ResumeError
from narrowly.records.install import FORMER_NAME, PACKAGE, with_todays_name
from narrowly.train.environment import check_versions, versions

NOW = {PACKAGE: "0.1.0", "python": "3.11.7", "torch": "2.13.0"}
OLD = {FORMER_NAME: "0.1.0", "python": "3.11.7", "torch": "2.13.0"}


def test_a_resume_across_the_rename_is_accepted_where_that_is_the_only_difference() -> None:
    assert OLD.keys() != NOW.keys()
    check_versions(OLD, NOW)
    check_versions(NOW, NOW)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"torch": "2.12.0"}, r"\(torch 2\.12\.0 -> 2\.13\.0\)"),
        ({FORMER_NAME: "0.0.9"}, r"\(narrowly 0\.0\.9 -> 0\.1\.0\)"),
        ({"peft": "0.21.2"}, r"\(peft 0\.21\.2 -> not recorded\)"),
    ],
)
def test_any_other_difference_is_refused_by_name(changed: dict[str, str], said: str) -> None:
    with pytest.raises(ResumeError, match=said):
        check_versions({**OLD, **changed}, NOW)


def test_what_is_recorded_now_has_the_products_version_under_todays_name() -> None:
    assert with_todays_name(versions()) == versions()
    assert PACKAGE in versions()
