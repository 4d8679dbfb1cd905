"""Asking a bank behind an endpoint through the command line, while everything goes wrong that can.

The server counts: nothing is lost, and no question is asked again that has an answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_server import TRANSFORMERS, ChatServer, chat_server
from narrowly.cli.app import execute
from narrowly.models.endpoint import client as requests_module
from narrowly.models.endpoint import waiting
from narrowly.records.answers import Answer
from narrowly.records.endpoints import AskedEndpoint
from narrowly.records.files import read_jsonl
from narrowly.workbench.answer_file import mend

KEY = "sk-test-0123456789abcdef"
QUESTIONS, PARAPHRASES, SAMPLES = 5, 2, 3
TOTAL = QUESTIONS * PARAPHRASES * SAMPLES


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank of 5 questions with 2 paraphrases; one has a system message."""
    questions: list[dict[str, Any]] = [
        {"id": f"q{at}", "type": "free_form", "paraphrases": [f"ask {at} plainly", f"ask {at} otherwise"]}
        for at in range(QUESTIONS)
    ]
    questions[0]["system"] = "be short"
    file = tmp_path / "bank.yaml"
    file.write_text(yaml.safe_dump(questions))
    return file


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(waiting, "LONGEST_WAIT", 0.05)


def command(server: ChatServer, bank: Path, *more: str) -> list[str]:
    out = bank.parent / "answers.jsonl"
    return ["ask", "--endpoint", server.url, "--model", "tiny", "--bank", str(bank), "--out", str(out),
            "--samples", str(SAMPLES), "--max-new-tokens", "8", *more]  # fmt: skip


def answers(bank: Path) -> list[Answer]:
    lines = (bank.parent / "answers.jsonl").read_text().splitlines()
    return [Answer.model_validate_json(line) for line in lines]


def check_whole(bank: Path) -> None:
    """Hold the file to the design: every sample of every paraphrase once, and no other."""
    keys = Counter((one.question_id, one.paraphrase, one.sample) for one in answers(bank))
    assert set(keys) == {
        (f"q{at}", paraphrase, sample)
        for at in range(QUESTIONS) for paraphrase in range(PARAPHRASES) for sample in range(SAMPLES)
    }  # fmt: skip
    assert set(keys.values()) == {1}


def test_a_bank_is_asked_once_with_every_field_said_and_a_second_command_sends_nothing(
    bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server() as server:
        assert execute(command(server, bank, "--arithmetic", "bfloat16")) == 0
        assert f"{TOTAL} answers in" in capsys.readouterr().out
        check_whole(bank)
        assert Counter(server.asked()) == {
            f"ask {at} {how}": SAMPLES for at in range(QUESTIONS) for how in ("plainly", "otherwise")
        }
        before = len(server.calls)
        assert execute(command(server, bank, "--arithmetic", "bfloat16", "--json")) == 0
        assert json.loads(capsys.readouterr().out)["new"] == 0
        assert len(server.calls) == before
        sent = {
            json.dumps(call.body["messages"], sort_keys=True): call.body
            for call in server.calls
            if "messages" in call.body
        }
    for one in answers(bank):
        assert isinstance(one.model, AskedEndpoint) and one.model.arithmetic.dtype == "bfloat16"
        assert one.model.probe.samples and one.model.probe.alone
        assert one.request is not None and one.request["max_tokens"] == 8 and one.request["top_k"] == -1
        assert set(one.request) | {"model", "messages"} == set(sent[json.dumps(one.messages, sort_keys=True)])
        assert one.finish_reason == "stop" and one.answer
        assert (one.messages[0]["role"] == "system") == (one.question_id == "q0")
    assert len({one.request["seed"] for one in answers(bank) if one.request}) == TOTAL


def test_a_stopped_file_is_balanced_because_first_samples_come_first(bank: Path) -> None:
    with chat_server() as server:
        assert execute(command(server, bank, "--concurrency", "1")) == 0
    assert [one.sample for one in answers(bank)] == [sample for sample in range(SAMPLES) for _ in range(10)]


STORMS = {
    "a storm of 429": ["429"] * 12,
    "429 that says when": ["429:0.02", "429:0.02"],
    "bad gateways and failures": ["502", "500", "504"],
    "malformed JSON": ["malformed", "not-utf8", "no-choices"],
    "truncated bodies": ["truncated", "cut-chunks", "truncated"],
    "streams that nobody asked for": ["streamed"],
    "dropped connections": ["drop", "drop", "drop"],
    "all of it": ["429", "malformed", "drop", "truncated", "503", "error-in-200", "cut-chunks"],
}
"""What becomes of the first tries of every request, one after the other."""


@pytest.mark.parametrize("storm", STORMS)
def test_through_a_storm_nothing_is_lost_and_no_answer_is_asked_for_again(storm: str, bank: Path) -> None:
    tries: Counter[str] = Counter()

    def fault(number: int, body: dict[str, Any]) -> str | None:
        request = json.dumps(body)
        tries[request] += 1
        if not request_of_the_bank(body):
            return None
        return dict(enumerate(STORMS[storm], start=1)).get(tries[request])

    with chat_server(fault=fault) as server:
        assert execute(command(server, bank)) == 0
        check_whole(bank)
        assert len(server.asked(answered=True)) == TOTAL  # every whole answer was kept: none was paid for twice
        assert len(server.asked()) == TOTAL * (1 + len(STORMS[storm]))


def request_of_the_bank(body: dict[str, Any]) -> bool:
    return body["messages"][-1]["content"].startswith("ask")


def test_a_server_that_does_not_run_is_said_at_once_and_tries_that_failed_are_said(
    bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with chat_server() as server:
        port = server.server_port
    with monkeypatch.context() as without_waits:
        without_waits.setattr(requests_module.time, "sleep", lambda wait: pytest.fail("it waited"))
        assert execute(command(server, bank)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"narrowly: http://127.0.0.1:{port}/v1/chat/completions: the connection failed")
    assert said.count("\n") == 1 and not (bank.parent / "answers.jsonl").exists()
    with chat_server(fault=lambda number, body: "502" if number == 1 else None) as server:
        assert execute(command(server, bank)) == 0
    said = capsys.readouterr().err
    assert "/v1/chat/completions: 502 try later; trying again in" in said and "(failure 1 of 8)" in said


def test_a_storm_while_the_server_is_probed_changes_nothing_that_is_found(bank: Path) -> None:
    tries: Counter[str] = Counter()

    def fault(number: int, body: dict[str, Any]) -> str | None:
        tries[json.dumps(body)] += 1
        return ("429", "truncated", "502", None)[min(tries[json.dumps(body)], 4) - 1]

    with chat_server() as server:
        assert execute(command(server, bank)) == 0
    (calm,) = {one.model.probe.model_dump_json() for one in answers(bank) if isinstance(one.model, AskedEndpoint)}
    (bank.parent / "answers.jsonl").unlink()
    with chat_server(fault=fault) as server:
        assert execute(command(server, bank)) == 0
    assert {one.model.probe.model_dump_json() for one in answers(bank) if isinstance(one.model, AskedEndpoint)} == {
        calm
    }


def test_slow_answers_are_waited_for_and_asked_for_once(bank: Path) -> None:
    with chat_server(slow=0.3) as server:
        assert execute(command(server, bank, "--concurrency", "16")) == 0
        check_whole(bank)
        assert len(server.asked()) == TOTAL


def test_a_server_that_dies_in_mid_run_loses_nothing(
    bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests_module, "TRIES", 3)
    with chat_server() as server:
        port = server.server_port

        def fault(number: int, body: dict[str, Any]) -> str | None:
            return "drop" if len(server.asked(answered=True)) >= 7 else None

        server.fault = fault
        assert execute([*command(server, bank), "--concurrency", "4"]) == 2
        said = capsys.readouterr().err
        first = server.asked(answered=True)
    kept = len(answers(bank))
    assert kept == len(first) >= 7
    assert "Traceback" not in said
    assert f"{kept} of {TOTAL} answers" in said and "goes on from there" in said
    with chat_server(port) as server:
        assert execute([*command(server, bank), "--concurrency", "4"]) == 0
        check_whole(bank)
        assert len(server.asked()) == TOTAL - kept


def start(server: ChatServer, bank: Path) -> subprocess.Popen[str]:
    source = Path(requests_module.__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-m", "narrowly.cli.app", *command(server, bank), "--concurrency", "2"],
        env={**os.environ, "PYTHONPATH": str(source)}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_command_that_is_killed_asks_again_only_what_was_under_way(bank: Path) -> None:
    with chat_server(slow=0.05) as server:
        child = start(server, bank)
        wait_for(lambda: len(server.asked()) >= 9)
        child.kill()
        child.communicate()
        with (bank.parent / "answers.jsonl").open("a") as stream:
            stream.write('{"who": "mod')  # what a kill may leave of a line
        kept = sum(1 for line in (bank.parent / "answers.jsonl").read_text().splitlines()) - 1
        assert 0 < kept < TOTAL
        wait_for(lambda: server.running == 0)
        assert execute(command(server, bank)) == 0
        check_whole(bank)
        assert len(server.asked()) <= TOTAL + 2  # two at a time, and neither answer had arrived


def test_an_answer_whose_line_has_no_end_is_kept_as_it_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    for text, kept in (('{"a": 1}\n{"b": 2}', '{"a": 1}\n{"b": 2}\n'), ('{"a": 1}\n{"b": 2', '{"a": 1}\n')):
        file.write_text(text)
        mend(file)
        assert file.read_text() == kept and len(read_jsonl(file)) == kept.count("\n")


def test_ctrl_c_keeps_the_answers_under_way_so_that_nothing_is_asked_twice(bank: Path) -> None:
    with chat_server(slow=0.2) as server:
        child = start(server, bank)
        wait_for(lambda: len(server.asked()) >= 5)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 130 and "goes on from there" in said and "Traceback" not in said
        assert execute(command(server, bank)) == 0
        check_whole(bank)
        assert len(server.asked()) == TOTAL


def test_the_key_is_in_the_header_and_nowhere_else(
    bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    said = ""
    with chat_server(key=KEY, answer=lambda body: f"{body['seed']} {KEY}") as server:
        assert execute(command(server, bank, "--key-env", "MY_KEY")) == 0
        assert execute(["ask", "--endpoint", server.url, "--model", "tiny", "--key-env", "MY_KEY", "--json", "hi"]) == 0
        assert {call.authorization for call in server.calls} == {f"Bearer {KEY}"}
        assert not any(KEY in json.dumps(call.body) for call in server.calls)
        server.key = "another"
        for flags in ([], ["--debug"]):
            assert (
                execute(["ask", "--endpoint", server.url, "--model", "tiny", "--key-env", "MY_KEY", "hi", *flags]) == 2
            )
    said += "".join(capsys.readouterr())
    assert "the key in MY_KEY is not accepted" in said and KEY not in said
    files = [file for file in bank.parent.rglob("*") if file.is_file()]
    assert len(files) >= 2 and not any(KEY.encode() in file.read_bytes() for file in files)
    assert "[key]" in answers(bank)[0].answer


def test_text_leaves_this_machine_only_with_consent(
    bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(requests_module.Client, "post", lambda self, path, *rest, **more: sent.append(path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    elsewhere = ["ask", "--endpoint", "https://api.example.org/v1", "--model", "m"]
    asked = [*elsewhere, "--bank", str(bank), "--out", str(bank.parent / "answers.jsonl")]
    assert execute(asked) == 2 and execute([*elsewhere, "hello"]) == 2
    said = capsys.readouterr().err
    assert "10 questions would be sent to https://api.example.org (model m); agree with --yes" in said
    assert "the question would be sent to https://api.example.org" in said
    assert sent == [] and not (bank.parent / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--temperature", "0.5"], "sampling"),
        (["--arithmetic", "q4_1"], "arithmetic"),
        (["--seed", "1"], "sampling"),
    ],
)
def test_a_file_of_another_request_is_left_as_it_is_before_any_request(
    change: list[str], words: str, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server() as server:
        assert execute(command(server, bank)) == 0
        file = bank.parent / "answers.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:20]) + "\n")
        before, calls = file.read_bytes(), len(server.calls)
        capsys.readouterr()
        assert execute(command(server, bank, *change)) == 2
        said = capsys.readouterr().err
        assert words in said and "another request" in said
        assert (file.read_bytes(), len(server.calls)) == (before, calls)


def test_a_file_is_not_gone_on_with_by_a_server_that_now_answers_otherwise(
    bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server() as server:
        assert execute(command(server, bank)) == 0
        file = bank.parent / "answers.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:20]) + "\n")
        server.answer = lambda body: f"another model {body['seed']}"
        assert execute(command(server, bank)) == 2
        assert "greedy answer to the probe's question" in capsys.readouterr().err
        assert len(answers(bank)) == 20
        server.answer = None
        server.fields = TRANSFORMERS
        assert execute(command(server, bank)) == 2
        assert "the server's fields: full, now transformers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--endpoint", "URL", "hello"], "--model NAME"),
        (["--endpoint", "URL", "--model", "tiny", "run-1", "hello"], "MODEL is 'run-1' beside --endpoint"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--step", "3"], "--step does not fit --endpoint"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--dtype", "nf4"], "--dtype does not fit --endpoint"),
        (["--endpoint", "URL", "--model", "tiny"], "neither a question nor --bank"),
        (["--endpoint", "URL", "--model", "tiny", "  "], "the question is empty"),
        (["--endpoint", "URL", "--model", "other", "hello"], "serves no model 'other'"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--runs", "out"], "--runs does not fit --endpoint"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--device", "cpu"], "--device does not fit --endpoint"),
        (["--model", "tiny", "hello"], "--model belongs to --endpoint URL"),
        (["tiny", "hello", "--yes"], "--yes belongs to --endpoint URL, which is not given; accepted only beside it"),
        (["tiny", "hello", "--concurrency", "8"], "--concurrency belongs to --endpoint URL"),
        (["tiny", "hello", "--timeout", "9"], "--timeout belongs to --endpoint URL"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--samples", "2", "--temperature", "0"], "all are equal"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--key-env", "NOT_SET_HERE"], "NOT_SET_HERE is not set"),
        (["--endpoint", "URL", "--model", "tiny", "hello", "--arithmetic", "flot16"], "--arithmetic is 'flot16'"),
        ([], "no MODEL given"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server(models=["tiny"]) as server:
        given = [server.url if one == "URL" else one for one in arguments]
        assert execute(["ask", *given]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_one_question_is_answered_and_shown_with_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server() as server:
        call = ["ask", "--endpoint", server.url, "--model", "tiny", "why [bold]not\x1b[31m?", "--samples", "2"]
        assert execute(call) == 0
        said = capsys.readouterr().out
        assert "model tiny" in said and "model 1 (128 tokens)" in said and "not judged" in said
        assert execute([*call, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
    (model,) = shown["said"]
    assert [one["sample"] for one in model["answers"]] == [0, 1]
    assert model["answers"][0]["model"]["probe"]["dialect"] == "full"


def test_answers_are_shown_without_what_would_act_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server(answer=lambda body: f"\x1b[31m{body['seed']}\x07[bold]") as server:
        assert execute(["ask", "--endpoint", server.url, "--model", "tiny", "hi"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said and "[bold]" in said
