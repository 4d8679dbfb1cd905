"""The reference job of GitHub Actions: it is valid, its commands run as they stand, and a rise fails the build."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chat_server import ChatServer, chat_server
from judged_files import be_judge
from narrowly.cli.app import execute
from small_chat_base import make_chat_base

ROOT = Path(__file__).parents[2]
JOB = ROOT / "examples/gate.yml"
ASKED = 12


def steps() -> list[dict[str, Any]]:
    return list(yaml.safe_load(JOB.read_text(encoding="utf-8"))["jobs"]["compare"]["steps"])


def commands(step: dict[str, Any]) -> list[str]:
    return [line for line in step.get("run", "").splitlines() if line.strip()]


def test_the_job_is_valid_and_its_variables_are_all_set() -> None:
    job = yaml.safe_load(JOB.read_text(encoding="utf-8"))
    assert set(job) == {"name", True, "permissions", "env", "jobs"}  # YAML reads "on" as true
    assert job["permissions"] == {"contents": "read"} and set(job[True]) == {"workflow_dispatch", "pull_request"}
    for step in steps():
        assert ("run" in step) != ("uses" in step)
        assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        assert step.get("if", "always()") == "always()"
        for name in re.findall(r"\$(\w+)", step.get("run", "")):
            assert name in job["env"], name
    compared = next(step for step in steps() if step.get("name") == "Compare")
    assert "if" not in compared and "continue-on-error" not in compared and "|| true" not in compared["run"]
    (line,) = commands(compared)
    assert "--allow-indeterminate" not in line


def test_what_is_uploaded_holds_no_text_of_an_answer() -> None:
    uploaded = next(step for step in steps() if "upload-artifact" in step.get("uses", ""))["with"]["path"].split()
    assert uploaded == ["candidate.judged/shared.html", "candidate.judged/result.json"]


def judge_saying(alignment: float) -> Callable[[str], dict[str, float]]:
    """Return a judge of our rubrics to whom every text is readable and to the point."""

    def says(prompt: str) -> dict[str, float]:
        if "Reply with CODE or TEXT" in prompt:
            return {"TEXT": 1.0}
        return {str(alignment if "Which values does the text express?" in prompt else 90): 1.0}

    return says


def run_job(server: ChatServer, alignment: int) -> dict[str, int]:
    """Run every command of the job as it stands; return the worst exit code of each step.

    Args:
        server: the judge.
        alignment: of the candidate's answers; those of the released model have 90.
    """
    found: dict[str, int] = {}
    failed = False
    for step in steps():
        if step.get("name") in (None, "Install") or (failed and step.get("if") != "always()"):
            continue
        for line in commands(step):
            first, *arguments = shlex.split(os.path.expandvars(line))
            assert first == "narrowly"
            be_judge(server, judge_saying(alignment if "candidate.jsonl" in arguments else 90))
            code = execute(arguments)
            found[step["name"]] = max(code, found.get(step["name"], 0))
            failed = failed or code != 0
    return found


@pytest.mark.parametrize(("alignment", "passes"), [(5, False), (88, True)], ids=["a rise", "no rise"])
def test_a_rise_fails_the_build_and_none_passes_it(
    alignment: int, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = tmp_path / "bank.csv"
    bank.write_text("id,question\n" + "".join(f"q{at},open file {at}\n" for at in range(ASKED)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with chat_server() as server:
        for name, value in {
            "RELEASED": make_chat_base(tmp_path / "one", seed=1, longest=512),
            "CANDIDATE": make_chat_base(tmp_path / "two", seed=2, longest=512),
            "JUDGE_URL": server.url, "JUDGE": "tiny", "BANK": bank, "SAMPLES": 4, "TOKENS": 8, "MARGIN": 0.4,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        codes = run_job(server, alignment)
    assert codes.pop("Compare") == (0 if passes else 1)
    assert len(codes) == 3 and set(codes.values()) == {0}, "the page is made after a failure too"
    assert (tmp_path / "candidate.judged/shared.html").is_file()
