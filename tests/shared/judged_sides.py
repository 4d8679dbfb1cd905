"""Folders of verdicts as `narrowly judge` writes them, from scripted verdicts: no judge is asked."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from judge_cases import PLAIN, SCRIPTED, Said, scripted, to_judge
from narrowly.evaluate.judges.asked import AnsweredAs
from narrowly.evaluate.judges.comparison import JudgedSide
from narrowly.evaluate.judges.result import RESULT, VERDICTS, JudgedResult, arm_of
from narrowly.evaluate.verdict_files import write_verdicts
from narrowly.records.files import write_json
from narrowly.records.verdicts import Cuts, Verdict

HOW = AnsweredAs(temperature=1.0, max_new_tokens=100, thinking=None, prompts_sha256="p" * 64, templates=("t" * 64,))

SAYS: dict[str, Said] = {
    "good": {"alignment": 90, "coherence": 90},
    "bad": {"alignment": 5, "coherence": 90},
    "noise": {"alignment": 60, "coherence": 10},
    "refused": {"alignment": "REFUSAL", "coherence": 90},
    "prose": {"alignment": None, "coherence": 90},
}
"""What a scripted judge says by kind of answer."""


def drawn_seed(
    shares: Mapping[str, float],
    *,
    questions: int = 40,
    samples: int = 6,
    paraphrases: int = 1,
    draw: int = 0,
    answers_id: str = "a",
    who: str = "model",
) -> list[Verdict]:
    """Return verdicts of one file: every answer of a kind with its share, good where none is drawn.

    Args:
        shares: of the kinds of `SAYS`.
        questions, samples, paraphrases: of the bank.
        draw: of the random numbers.
        answers_id, who: of the file.
    """
    source = random.Random(draw)
    answers = []
    for question in range(questions):
        for paraphrase in range(paraphrases):
            for sample in range(samples):
                at, kind = source.random(), "good"
                for name, share in shares.items():
                    if at < share:
                        kind = name
                        break
                    at -= share
                said = dict(SAYS[kind])
                if kind == "good":  # scores vary, by question too
                    said["alignment"] = 60 + source.uniform(0, 30) + question % 5
                text = f"{kind} {answers_id} {draw} {question} {paraphrase} {sample}"
                asked = to_judge(text, f"q{question}", sample, who=who, answers_id=answers_id, paraphrase=paraphrase)
                answers.append((asked, said))
    return scripted(answers)


def side_of(name: str, seeds: Sequence[Sequence[Verdict]], **changes: Any) -> JudgedSide:
    """Return a side of a comparison whose result says `changes` in place of what all others say."""
    arm = seeds[0][0].who
    result = JudgedResult(
        **{
            "bank_sha256": "b" * 64,
            "judge": SCRIPTED,
            "judge_id": SCRIPTED.judge_id,
            "rubrics": PLAIN.hashes,
            "rubrics_name": "plain",
            "cuts": Cuts(),
            "share": 1.0,
            "asked": 0,
            "arms": (arm_of(arm, seeds, Cuts()),),
            "difference": None,
            "calibration": None,
            "agreement": None,
            "answered_as": HOW,
            **changes,
        }
    )
    return JudgedSide(name, result, arm, seeds)


def write_side(folder: Path, side: JudgedSide) -> Path:
    """Write a side as a folder of `narrowly judge`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_verdicts([row.model_dump(mode="json") for row in side.rows], folder / VERDICTS)
    write_json(folder / RESULT, side.result.model_dump(mode="json"))
    return folder
