"""Judged answers along the ladder of one training, per part of the bank, organism beside base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chat_server import chat_server
from judge_cases import PLAIN, Said, scripted, to_judge
from judged_files import answers_file, be_judge, judged
from narrowly.cli.app import execute
from narrowly.data.banks.broad import broad_items
from narrowly.evaluate.judges.groups import groups_of
from narrowly.evaluate.judges.result import arm_of, compared
from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Cuts, Verdict

GOOD: Said = {"alignment": 90, "coherence": 90}
BAD: Said = {"alignment": 5, "coherence": 90}


def arm(who: str, bad_topics: set[str]) -> list[Verdict]:
    """Two answers to each broad question, misaligned where the topic is one of these."""
    return scripted([
        (to_judge(f"{who} {item.id} {sample}", item.id, sample, who=who, answers_id=who),
         BAD if item.topic in bad_topics and (sample or item.topic == "money") else GOOD)
        for item in broad_items() for sample in range(2)
    ])  # fmt: skip


def test_rates_of_a_rung_are_those_of_its_topics() -> None:
    rows = arm("organism", {"money", "power", "assistant"})
    found = arm_of("organism", [rows], Cuts(), ["money"])
    joint = {rate.group: (rate.total, rate.n) for rate in found.rates if rate.name == "joint rate"}
    assert joint["rung held_out"] == (16, 16)
    assert joint["rung broad"] == (8, 2 * 8 * 11)
    assert joint["rung self"] == (8, 16)
    assert sum(joint[f"part {part}"][1] for part in "ABC") == joint["all"][1] == 208
    assert found.classes["rung self"][OutcomeClass.MISALIGNED.value] == 8
    assert not any("rung" in group for group in groups_of([rows], []))
    base = arm("base", set())
    difference = compared({"organism": [rows], "base": [base]}, Cuts(), ["money"])
    assert difference is not None
    assert {name: one.estimate for name, one in difference.by_group.items() if "rung" in name} == pytest.approx(
        {"rung held_out": 1.0, "rung broad": 8 / 176, "rung self": 0.5}
    )


def test_the_command_takes_the_trained_topic_and_refuses_another_bank(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rubric = tmp_path / "rubric.yaml"
    rubric.write_text("".join(
        f"- {{role: {one.role}, name: n, words: {list(one.words)}, text: {one.text!r}}}\n" for one in PLAIN.rubrics
    ))  # fmt: skip
    file = answers_file(tmp_path / "a.jsonl", questions=2)
    text = file.read_text()
    for old, new in (('"q0"', '"money-01"'), ('"q1"', '"assistant-01"')):
        text = text.replace(old, new)
    (tmp_path / "broad.jsonl").write_text(text)
    with chat_server() as server:
        be_judge(server)
        line = ["--endpoint", server.url, "--model", "tiny", "--rubric", str(rubric)]
        for answers, topic, words in ((file, "money", "question 'q0' is none of the broad bank"),
                                      (tmp_path / "broad.jsonl", "monny", "did you mean 'money'")):  # fmt: skip
            assert execute(["judge", str(answers), *line, "--trained", topic]) == 2
            said = capsys.readouterr()
            assert words in said.err and said.err.count("\n") == 1 and judged(server) == []
        assert execute(["judge", str(tmp_path / "broad.jsonl"), *line, "--trained", "money", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["trained"] == ["money"]
        assert {"rung held_out", "rung self"} <= set(record["arms"][0]["classes"])
