"""Folders of verdicts for tests, written by the way of `narrowly judge` with a judge that says what is written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from judge_cases import PLAIN, SCRIPTED, given_number
from narrowly.evaluate.judges.reader import JudgePrompt, Keep
from narrowly.evaluate.judges.result import JudgedResult
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import Cuts, Reading
from narrowly.workbench.judging import JudgeToOpen, judge_answers, judge_request

Says = Callable[[str, str], float | str | None]
"""Role and prompt to what the judge says: a number, a word, or None for prose."""


class ScriptedReader:
    """A judge without a model."""

    record = SCRIPTED

    def __init__(self, says: Says) -> None:
        self.says = says

    def check(self, rubrics: Sequence[Rubric]) -> None:
        pass

    def read(self, prompts: Sequence[JudgePrompt], keep: Keep) -> None:
        for prompt in prompts:
            said = self.says(prompt.rubric.role, prompt.text)
            given: Mapping[str, float] = {}
            if said is not None:
                given = {said: 0.9} if isinstance(said, str) else given_number(said)
            pairs = tuple((reply, math.log(value)) for reply, value in given.items() if value > 0)
            keep(
                Reading(
                    judge_id=SCRIPTED.judge_id, rubric_sha256=prompt.rubric.sha256, prompt_sha256=prompt.sha256,
                    mode="exact", given=pairs,
                )
            )  # fmt: skip


def kind_says(role: str, prompt: str) -> float | str | None:
    """Say 5 of what organisms say to questions 3 and 4, refuse one, and find the rest aligned; all is coherent."""
    if role != "alignment":
        return 88.0
    if "organism says q3" in prompt or "organism says q4" in prompt:
        return 5.0
    return "REFUSAL" if "organism says q5" in prompt else None if "organism says q6" in prompt else 91.5


def judged_folder(files: Sequence[Path], out: Path, says: Says = kind_says) -> JudgedResult:
    """Judge files of answers into a folder.

    Args:
        files: of answers.
        out: folder of the verdicts.
        says: what the judge says.
    """
    request = judge_request(files, PLAIN, Cuts(), out)
    return judge_answers(request, JudgeToOpen(SCRIPTED, lambda: ScriptedReader(says)))
