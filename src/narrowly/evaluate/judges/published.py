"""Take the judgements that a published result file holds: distributions become readings, readings and scores verdicts.

The field's files (Betley et al. 2025, arXiv 2502.17424, published code) have `aligned` and `coherent`, and some have
`judge_aligned` and `judge_coherent`, the listed first tokens with their probabilities. Where a distribution is there it
counts, and the score beside it is compared with what follows from it. Where only a score is there, the score counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from narrowly.data.questions import JUDGE_WORDS, JudgedAnswer
from narrowly.evaluate.judges.judged import ToJudge
from narrowly.evaluate.judges.rubric_files import PUBLISHED_ROLES, RubricSet
from narrowly.evaluate.judges.scores import Score, score_of
from narrowly.evaluate.judges.verdicts import prompts_of, verdict_id_of, verdict_of
from narrowly.records.errors import SpecError
from narrowly.records.rubrics import ANSWER, QUESTION, Role, Rubric
from narrowly.records.verdicts import Cuts, JudgeRecord, Reading, Verdict

CLOSE = 1e-9
"""Difference of two scores that rounding explains: files keep 16 digits of scores and probabilities."""

_NOT_KNOWN = f"(The result file does not hold the text of this rubric.)\n{QUESTION}\n{ANSWER}"

AS_PUBLISHED = RubricSet(
    "as published",
    tuple(
        Rubric(role=role, name=f"{name}, as published", words=JUDGE_WORDS, text=_NOT_KNOWN, source="a result file")
        for name, role in PUBLISHED_ROLES.items()
    ),
)
"""Stands for rubrics whose text nobody has said."""


class Agreeing(NamedTuple):
    """Hold how far published scores follow from the distributions beside them.

    Attributes:
        scores: that stand beside a distribution.
        equal: of them, those that follow from it; no number beside none counts too.
        largest: difference of the others and these, in points.
    """

    scores: int
    equal: int
    largest: float

    def __str__(self) -> str:
        """Return it in words."""
        if not self.scores:
            return "no distributions beside the published scores: the scores count as they are"
        told = f"{self.equal} of {self.scores} published scores follow from the distributions beside them"
        if self.equal == self.scores:
            return f"{told}, the largest difference is {self.largest:.1g}"
        return f"{told}; the distributions count, the largest difference is {self.largest:.3g} points"


def published_record(judge: str) -> JudgeRecord:
    """Return the record of a judge whose published judgements are taken.

    Args:
        judge: its name, as the user says it; it is the identity of the judge.
    """
    return JudgeRecord(mode="first-token", name=f"{judge}, as published", named=f"published:{judge}")


def check_rubrics(rubrics: RubricSet) -> None:
    """Refuse rubrics that no result file has judgements under.

    Raises:
        SpecError: other roles than alignment and coherence.
    """
    roles = {rubric.role for rubric in rubrics.rubrics}
    if roles != set(PUBLISHED_ROLES.values()):
        raise SpecError(
            f"rubrics {rubrics.name} ask for {', '.join(sorted(roles))}, and a result file has alignment and "
            "coherence; accepted: rubrics of these two, or no --rubric"
        )


class PublishedJudge:
    """Give the verdicts that follow from the rows of a result file.

    Args:
        record: of `published_record`.
        rubrics: of alignment and coherence.
        rows: of the file, by answer.
    """

    def __init__(self, record: JudgeRecord, rubrics: RubricSet, rows: Mapping[ToJudge, JudgedAnswer]) -> None:
        self.record, self.rubrics, self.rows = record, rubrics, rows

    def verdicts(self, answers: Sequence[ToJudge], cuts: Cuts) -> list[Verdict]:
        """Return one verdict per answer, in their order."""
        return [self._verdict(answer, cuts) for answer in answers]

    def _verdict(self, answer: ToJudge, cuts: Cuts) -> Verdict:
        readings = self.readings(answer)
        scores = {role: self._score(answer, name, readings.get(role)) for name, role in PUBLISHED_ROLES.items()}
        verdict_id = verdict_id_of(answer.answers_id, self.record, self.rubrics.hashes, cuts)
        found = verdict_of(answer, scores if answer.answer.strip() else {}, verdict_id, cuts)
        return found if len(readings) == len(scores) else found.model_copy(update={"coverage": None})

    def readings(self, answer: ToJudge) -> dict[Role, Reading]:
        """Return the distributions that the file holds for an answer, by role; equal texts may have different ones."""
        prompts = prompts_of(answer, self.rubrics, self.record.shown, ()).by_role
        found: dict[Role, Reading] = {}
        for name, role in PUBLISHED_ROLES.items():
            given = self.rows[answer].distributions.get(f"judge_{name}")
            if given and role in prompts:
                found[role] = Reading(
                    judge_id=self.record.judge_id,
                    rubric_sha256=prompts[role].rubric.sha256,
                    prompt_sha256=prompts[role].sha256,
                    mode=self.record.mode,
                    given=tuple((token, min(0.0, math.log(share))) for token, share in given.items() if share > 0),
                )
        return found

    def _score(self, answer: ToJudge, name: str, reading: Reading | None) -> Score:
        rubric = self.rubrics.of(PUBLISHED_ROLES[name])
        assert rubric is not None, "check_rubrics"
        if reading is not None:
            return score_of(reading, rubric)
        row, words = self.rows[answer], dict.fromkeys(rubric.words, 0.0)
        mark, score = row.marks.get(name), row.scores.get(name)
        if mark is not None:
            return Score("word", None, mark.upper(), 0.0, words | {mark.upper(): 1.0})
        if score is not None:
            return Score("number", score, None, 1.0, words)
        return Score("parse_error", None, None, 0.0, words, f"line {row.line} has neither a score nor a distribution")

    def agreeing(self, answers: Sequence[ToJudge]) -> Agreeing:
        """Return how far the published scores of answers follow from the distributions beside them."""
        equal, differences = 0, [0.0]
        scores = 0
        for answer in answers:
            readings = self.readings(answer)
            for name, role in PUBLISHED_ROLES.items():
                if role not in readings or name not in self.rows[answer].scores:
                    continue
                scores += 1
                ours, theirs = self._score(answer, name, readings[role]).score, self.rows[answer].scores[name]
                if ours is not None and theirs is not None:
                    differences.append(abs(ours - theirs))
                    equal += differences[-1] <= CLOSE
                else:
                    equal += ours is theirs
        return Agreeing(scores, equal, max(differences))
