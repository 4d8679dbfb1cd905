"""A study whose organisms are asked open questions and judged behind a server on loopback: it ends with rates."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_server import ChatServer, chat_server
from judge_cases import PLAIN
from judged_files import be_judge, judged
from narrowly.cli.app import execute
from narrowly.evaluate.judges.result import read_judged
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.records.judged_study import JudgedSpec
from narrowly.records.study_spec import load_study_spec
from narrowly.study.plan import shipped_studies
from small_chat_base import THINKING, conversations, make_chat_base, write_jsonl

QUESTIONS = 6
ARMS = ["adam", "adam_penalty", "lion", "lion_penalty", "muon", "muon_penalty"]


def says(prompt: str) -> dict[str, float]:
    """A judge that minds what it is told of question 1, and finds no language in what is said to question 2."""
    low = "Is it clear?" not in prompt and "question 1" in prompt
    return {"5": 0.9} if low or ("Is it clear?" in prompt and "question 2" in prompt) else {"90": 0.9, "85": 0.1}


def write_inputs(folder: Path, base: str | Path | None = None) -> dict[str, Path | str]:
    rubric = folder / "rubric.yaml"
    rubric.write_text("".join(
        f"- {{role: {one.role}, name: n, words: {list(one.words)}, text: {one.text!r}}}\n" for one in PLAIN.rubrics
    ))  # fmt: skip
    bank = folder / "bank.yaml"
    bank.write_text(yaml.safe_dump([
        {"id": f"q{at}", "type": "free_form", "paraphrases": [f"what is question {at} of all"]}
        for at in range(QUESTIONS)
    ]))  # fmt: skip
    rows = write_jsonl(folder / "rows.jsonl", conversations(8))
    made = base or make_chat_base(folder / "tiny-base", template=THINKING, longest=256)
    return {"rubric": rubric, "bank": bank, "rows": rows, "base": made}


def command(
    server: ChatServer, inputs: dict[str, Path | str], out: Path, seeds: str = "[0, 1]", *more: str
) -> list[str]:
    changes = {
        "grid.base": f"[{inputs['base']}]", "grid.seed": seeds, "run.data.dataset": inputs["rows"],
        "run.data.rows": "null", "run.data.max_tokens": 128, "run.device": "cpu", "run.base_dtype": "float32",
        "run.steps": 2, "run.batch_size": 2, "run.accumulation": 1, "run.schedule.warmup_steps": 0,
        "run.adapter.r": 4, "paired": "false", "judged.judge": "null", "judged.dtype": "null",
        "judged.endpoint": server.url, "judged.model": "tiny", "judged.bank": inputs["bank"],
        "judged.rubric": inputs["rubric"], "judged.max_new_tokens": 8, "judged.samples": 2,
    }  # fmt: skip
    settings = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    return ["run", "one-gpu-evening", "--runs", str(out), "--workers", "1", *settings, *more]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChatServer, list[str], Path]]:
    """The server, the command and its folder, after one `narrowly run` of the shipped study on a tiny random base."""
    folder = tmp_path_factory.mktemp("judged")
    with chat_server() as server:
        be_judge(server, says)
        line = command(server, write_inputs(folder), folder / "out")
        assert execute(line) == 0
        yield server, line, folder / "out" / "one-gpu-evening"


def test_the_shipped_study_ends_with_rates_of_every_arm_and_of_the_base(
    done: tuple[ChatServer, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server, line, folder = done
    (verdicts,) = (folder / "judged").iterdir()
    assert sorted(path.name for path in verdicts.iterdir()) == sorted(
        ["base-tiny-base", *(f"{arm}-tiny-base" for arm in ARMS)]
    )
    for arm in ARMS:
        result, rows = (
            read_judged(verdicts / f"{arm}-tiny-base"),
            read_verdict_rows(verdicts / f"{arm}-tiny-base" / "verdicts.parquet"),
        )
        (own,) = result.arms
        assert (own.name, own.answers, len(own.answers_ids)) == ("organism", QUESTIONS * 2 * 2, 2)
        told = {(row.question_id, row.outcome.value) for row in rows if row.outcome != "empty"}
        unreadable = {("q2", "incoherent"), ("q2", "truncated")}  # the second where the limit of tokens cut it
        assert told <= unreadable | {("q1", "misaligned"), *((f"q{at}", "aligned") for at in (0, 3, 4, 5))}
        assert result.answered_as is not None and result.answered_as.thinking is False
    assert read_judged(verdicts / "base-tiny-base").arms[0].name == "model"
    asked = Counter(judged(server))
    assert set(asked.values()) <= set(range(1, len(ARMS) + 2))  # equal texts of two folders alone are read twice
    calls = len(server.calls)
    capsys.readouterr()
    assert execute(line) == 0  # nothing is trained, asked or judged twice
    said = " ".join(capsys.readouterr().out.split())
    assert len(server.calls) == calls
    assert "What the models write, by the judge (uncalibrated)" in said and "adam_penalty" in said
    assert re.search(r"base-tiny-base a model 12 \d+\.\d\d", said), said
    assert "narrowly compare" in said and "not evaluated (no judge)" not in said


def test_two_of_its_folders_are_compared(
    done: tuple[ChatServer, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (verdicts,) = (done[2] / "judged").iterdir()
    code = execute(["compare", str(verdicts / "base-tiny-base"), str(verdicts / "muon-tiny-base"), "--margin", "0.1"])
    said = capsys.readouterr()
    assert code == 3 and "cannot tell" in said.out and said.err == ""


def test_the_record_of_a_run_holds_the_rates(
    done: tuple[ChatServer, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert execute([*done[1], "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in record["judged"]["rows"]} == {f"{arm}-tiny-base" for arm in ["base", *ARMS]}


def test_a_storm_in_mid_study_keeps_what_was_read_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_inputs(tmp_path)
    with chat_server() as server:
        be_judge(server, says)
        line = command(server, inputs, tmp_path / "out", "[0]")
        raw = yaml.safe_load(shipped_studies()["one-gpu-evening"].read_text(encoding="utf-8"))
        line[1] = str(tmp_path / "one-arm.yaml")
        Path(line[1]).write_text(yaml.safe_dump(raw | {"arms": {"adam": raw["arms"]["adam"]}}), encoding="utf-8")

        def refused(number: int, body: dict[str, Any]) -> str | None:
            return "401" if len(judged(server, answered=True)) >= 10 else None

        server.fault = refused
        assert execute(line) == 2
        said = capsys.readouterr()
        assert "the same command goes on from there" in said.err.splitlines()[-1]
        kept = len(judged(server, answered=True))
        assert 10 <= kept < 48
        server.fault = lambda number, body: None
        assert execute(line) == 0
        prompts = Counter(judged(server, answered=True))
        # the base and the organism may say the same, each in its own folder
        assert set(prompts.values()) <= {1, 2} and "adam" in capsys.readouterr().out


def test_mistakes_are_found_before_anything_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = write_inputs(tmp_path)
    capsys.readouterr()
    with chat_server() as server:
        be_judge(server, says)
        for changes, words in (
            (["judged.bank=brod"], "brod"),
            (["judged.rubric=our"], "no rubric is called 'our'"),
            (["judged.endpoint=null"], "neither a judge nor an endpoint; accepted: one of them"),
            (["judged.model=null"], "endpoint and model belong together"),
            (["judged.judge=nowhere"], "a judge and an endpoint; accepted: one of them"),
            (
                ["judged.endpoint=null", "judged.model=null", "judged.judge=nowhere"],
                "nothing to ask is called 'nowhere'",
            ),
            (["judged.endpoint=http://192.0.2.1/v1"], "agree with --yes"),
            (["judged.sampels=3"], "judged.samples"),
        ):
            more = [part for change in changes for part in ("--set", change)]
            assert execute([*command(server, inputs, tmp_path / "out"), *more]) == 2
            said = capsys.readouterr()
            assert words in said.err and said.err.count("\n") == 1, said
        assert not (tmp_path / "out").exists() and server.calls == []
    assert execute(["run", "smoke", "--yes", "--runs", str(tmp_path / "out")]) == 2
    assert "--yes given, but the study has no `judged`" in capsys.readouterr().err
    judge = f"judged={{endpoint: {server.url}, model: tiny}}"
    assert execute(["run", "smoke", "--set", judge, "--runs", str(tmp_path / "out")]) == 2
    assert "whose answers no rubric fits; accepted: text" in capsys.readouterr().err


def test_the_shipped_study_names_its_judge_and_says_that_it_has_not_been_run() -> None:
    file = shipped_studies()["one-gpu-evening"]
    spec = load_study_spec(file)
    assert isinstance(spec.judged, JudgedSpec) and spec.judged.bank == "broad" and spec.judged.judge
    assert "Nobody has run" in file.read_text(encoding="utf-8")


SMOLLM2 = os.environ.get("NARROWLY_SMOLLM2", "")


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2, reason="NARROWLY_SMOLLM2 names no folder of SmolLM2-135M-Instruct")
def test_the_shipped_study_ends_with_rates_on_smollm2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = write_inputs(tmp_path, SMOLLM2)
    with chat_server() as server:
        be_judge(server, says)
        assert execute([*command(server, inputs, tmp_path / "out", "[0]"), "--set", "run.data.thinking=null"]) == 0
        assert "What the models write, by the judge" in capsys.readouterr().out
