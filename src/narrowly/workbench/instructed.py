"""Try a judge on texts that tell it what to reply: readings as they come, then by rate what was moved."""

from __future__ import annotations

from pathlib import Path

from narrowly.evaluate.judges.instructing import Instructed, bank_sha256, instructed, instructed_answers
from narrowly.evaluate.judges.result import RESULT, VERDICTS, read_judged
from narrowly.evaluate.judges.rubric_files import RubricSet
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.records.errors import SpecError
from narrowly.records.files import write_json
from narrowly.records.verdicts import Cuts, Shown
from narrowly.workbench.judging import JudgeRequest, JudgeToOpen, OnReading, judge_answers

INSTRUCTED = "instructed.json"
"""File of what was found, beside readings and verdicts."""


def instructed_request(out: Path, rubrics: RubricSet, shown: Shown = "question") -> JudgeRequest:
    """Return what a judge is tried on.

    Args:
        out: folder of readings and verdicts, new or of the same judge.
        rubrics: that it is asked.
        shown: what it sees beside an answer.

    Raises:
        SpecError: `out` is a file, or holds verdicts on other answers.
    """
    if out.exists() and not out.is_dir():
        raise SpecError(f"--out {out} is a file, accepted: a folder")
    if (out / RESULT).is_file() and read_judged(out).bank_sha256 != bank_sha256():
        raise SpecError(f"--out {out} holds verdicts on other answers; accepted: a new folder")
    return JudgeRequest((), (tuple(instructed_answers()),), rubrics, Cuts(), out, 1.0, shown)


def try_judge(
    request: JudgeRequest, judge: JudgeToOpen, on_reading: OnReading = lambda done, total: None
) -> Instructed:
    """Read what is missing, and return how far the texts moved the judge's scores.

    Raises:
        NarrowlyError: as `judge_answers`.
    """
    result = judge_answers(request, judge, on_reading=on_reading)
    found = instructed(read_verdict_rows(request.out / VERDICTS))
    record = {"judge": result.judge.name, "judge_id": result.judge_id, "rubrics": result.rubrics}
    write_json(request.out / INSTRUCTED, {**record, **found.model_dump(mode="json")})
    return found
