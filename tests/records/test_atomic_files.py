"""Files and folders that appear whole: content, permissions, errors, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narrowly.records.errors import AdapterError, RunDirectoryError
from narrowly.records.files import UNFINISHED, atomic_path, whole_folder, write_text


def test_a_folder_appears_only_when_everything_in_it_is_written(tmp_path) -> None:
    target = tmp_path / "not" / "there" / "yet"
    with whole_folder(target) as unfinished:
        write_text(unfinished / "a.txt", "a")
        assert not target.exists()
        assert unfinished.parent == target.parent and unfinished.name.startswith(UNFINISHED)
    assert (target / "a.txt").read_text() == "a"
    assert list(target.parent.iterdir()) == [target]


def test_a_whole_folder_may_be_entered_by_whoever_may_enter_a_plain_one(tmp_path) -> None:
    (tmp_path / "plain").mkdir()
    with whole_folder(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [AdapterError("no pairs"), RunDirectoryError("disk full"), KeyError("a bug of ours")])
def test_an_error_of_the_writer_is_passed_on_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, whole_folder(tmp_path / "target") as unfinished:
        write_text(unfinished / "half.txt", "")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writer_leaves_nothing(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "target"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", [whole_folder, atomic_path])
def test_an_error_of_the_system_becomes_one_line_that_names_the_target(writer, tmp_path) -> None:
    with (
        pytest.raises(RunDirectoryError, match=r"^cannot write .*target: No space left on device$"),
        writer(tmp_path / "target"),
    ):
        raise OSError(28, os.strerror(28))
    (tmp_path / "file").write_text("")
    no_folder = r"^cannot write .*file/target: "
    with pytest.raises(RunDirectoryError, match=no_folder), writer(tmp_path / "file" / "target"):
        raise AssertionError("never entered")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_with_files_is_never_replaced(tmp_path) -> None:
    write_text(tmp_path / "target" / "theirs.txt", "theirs")
    target = tmp_path / "target"
    with pytest.raises(RunDirectoryError, match=r"cannot write .*target"), whole_folder(target) as unfinished:
        write_text(unfinished / "ours.txt", "ours")
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "theirs.txt"]
