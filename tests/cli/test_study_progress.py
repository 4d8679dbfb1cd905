"""Progress of a study: cells are counted anew where one display shows several studies."""

from __future__ import annotations

import pytest

from narrowly.cli.progress import StudyProgress


def test_a_second_study_on_one_display_begins_with_what_is_done_already(capsys: pytest.CaptureFixture[str]) -> None:
    with StudyProgress() as progress:
        progress.planned(2, 0, None, 1)
        progress.finished("one", None, 1.0)
        progress.finished("two", None, 1.0)
        progress.planned(4, 2, None, 1)
        progress.finished("three", None, 1.0)
    printed = capsys.readouterr().err
    assert "[2/2] two" in printed and "[3/4] three" in printed
