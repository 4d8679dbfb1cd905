"""`narrowly doctor`: extras as the project declares them, and one line on a cache from before the rename."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowly.cli import doctor
from narrowly.cli.app import execute
from narrowly.records.install import FORMER_NAME, extras, install_hint


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any cache, and shipped bases that need no check."""
    for name in ("NARROWLY_CACHE", f"{FORMER_NAME.upper()}_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(doctor, "_check_bases", lambda: 0)
    return tmp_path


def test_every_extra_has_a_line_that_says_what_it_is_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(doctor.ADDS) == extras()
    assert execute(["doctor"]) == 0
    printed = capsys.readouterr().out
    for extra in extras():
        assert f"extra {extra} ({doctor.ADDS[extra]}): " in printed
    assert FORMER_NAME not in printed


def test_an_extra_that_is_missing_comes_with_its_hint(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("narrowly.records.install._listed", lambda: [("lab", "not-here-at-all"), (None, "pydantic")])
    assert execute(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"missing not-here-at-all; {install_hint('lab')}" in printed
    assert "shipped bases: not checked" in printed


def test_an_old_cache_folder_is_mentioned_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / FORMER_NAME / "data").mkdir(parents=True)
    assert execute(["doctor"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if FORMER_NAME in line]
    assert lines == [
        f"{home / FORMER_NAME} is the cache of the former name and not searched; to keep its files, move its data to "
        f"{home / 'narrowly' / 'data'}"
    ]


def test_the_old_variable_is_mentioned_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / FORMER_NAME).mkdir()
    monkeypatch.setenv(f"{FORMER_NAME.upper()}_CACHE", "/data/old")
    assert execute(["doctor"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if FORMER_NAME.upper() in line]
    assert len(lines) == 1 and "set NARROWLY_CACHE to /data/old" in lines[0]


def test_an_old_cache_is_not_searched(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrowly.data.cache import cached

    old = home / FORMER_NAME / cached("insecure", "insecure.jsonl").relative_to(home / "narrowly")
    old.parent.mkdir(parents=True)
    old.write_text("{}\n", encoding="utf-8")
    assert execute(["data", "show", "insecure"]) == 2
    assert FORMER_NAME not in capsys.readouterr().err
