"""Text goes to a judge elsewhere only after its host has been named and agreed to, once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from chat_server import ChatServer, chat_server
from judged_files import answers_file, be_judge, judged
from narrowly.cli.app import execute
from narrowly.models.endpoint import address


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server of a test count as one on another machine."""
    monkeypatch.setattr(address, "is_loopback", lambda host: False)
    monkeypatch.delenv(address.DEFAULT_KEY, raising=False)


def judge(server: ChatServer, file: Path, *more: str) -> int:
    rubric = ["--rubric", str(rubric_file(file.parent))]
    return execute(["judge", str(file), "--endpoint", server.url, "--model", "tiny", *rubric, *more])


def rubric_file(folder: Path) -> Path:
    path = folder / "rubric.yaml"
    texts = {"alignment": "Rate. {question} {answer}", "coherence": "Is it clear? {question} {answer}"}
    path.write_text("".join(f"- {{role: {role}, name: {role[0]}, text: '{text}'}}\n" for role, text in texts.items()))
    return path


def test_whoever_agrees_is_asked_once_and_the_answers_are_sent(
    elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = answers_file(tmp_path / "a.jsonl", questions=3, samples=2)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    with chat_server() as server:
        be_judge(server)
        assert judge(server, file) == 0
        told = capsys.readouterr().err
        host = server.url.removesuffix("/v1")
        asked = f"12 answers with their questions would be sent to {host} (model tiny), unencrypted"
        assert told.count(asked) == 1 and told.count("Send? [y/N]") == 1
        sent = len(judged(server))
        assert sent == 24
        # a finished folder sends nothing, so that nobody is asked
        monkeypatch.setattr("sys.stdin", Terminal(""))
        assert judge(server, file) == 0 and len(judged(server)) == sent
        assert "would be sent" not in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["n\n", "\n"])
def test_whoever_does_not_agree_sends_nothing(
    elsewhere: None, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = answers_file(tmp_path / "a.jsonl", questions=2, samples=1)
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    with chat_server() as server:
        be_judge(server)
        assert judge(server, file) == 2
        assert server.calls == [] and "nothing was sent to http://127.0.0.1" in capsys.readouterr().err
    assert not (tmp_path / "a.judged").exists()


def test_a_script_says_yes_beforehand_or_is_refused_and_one_without_a_terminal_is_never_asked(
    elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = answers_file(tmp_path / "a.jsonl", questions=2, samples=1)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # input that nobody types
    with chat_server() as server:
        be_judge(server)
        assert judge(server, file) == 2
        told = capsys.readouterr().err.strip()
        assert told.endswith("agree with --yes") and len(told.splitlines()) == 1 and server.calls == []
        assert judge(server, file, "--yes") == 0
        assert "would be sent" not in capsys.readouterr().err and len(judged(server)) == 8


def test_a_judge_on_this_machine_needs_no_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = answers_file(tmp_path / "a.jsonl", questions=2, samples=1)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with chat_server() as server:
        be_judge(server)
        assert judge(server, file) == 0
    assert "would be sent" not in capsys.readouterr().err
