"""Compare two judges on the answers that both judged, and choose a sub-sample by hash for the second one."""

from __future__ import annotations

from collections.abc import Sequence

from narrowly.evaluate.judges.judged import ToJudge
from narrowly.records.canonical import sha256_text
from narrowly.records.errors import SpecError
from narrowly.records.one_bank import one_bank
from narrowly.records.outcome import OutcomeClass
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Verdict
from narrowly.stats.agreement import correlation, kappa
from narrowly.stats.intervals import Interval


class Agreement(Spec):
    """How far two judges agree. Scores may agree where verdicts do not.

    Attributes:
        judge: name of the other one.
        answers: that both judged.
        alignment, coherence: Pearson's r of the scores.
        misaligned: kappa of misaligned or not.
        classes: kappa of all outcome classes.
    """

    judge: str
    answers: int
    alignment: Interval
    coherence: Interval
    misaligned: Interval
    classes: Interval


def sub_sample(answers: Sequence[ToJudge], share: float) -> list[ToJudge]:
    """Return a share of the answers, chosen by hash: the same ones on every machine and for every judge.

    What is hashed is question, paraphrase and number of the sample, so that every arm keeps the same cells.

    Args:
        answers: of which some are judged.
        share: above 0, at most 1.

    Raises:
        SpecError: a share that is not accepted.
    """
    if not 0 < share <= 1:
        raise SpecError(f"--share is {share:g}, accepted: above 0 and at most 1")
    return [answer for answer in answers if _place(answer) < share]


def _place(answer: ToJudge) -> float:
    """Return a number from 0 up to 1 that follows from question, paraphrase and number of the sample."""
    key = f"judged:{answer.question_id}/{answer.paraphrase}/{answer.sample}"
    return int(sha256_text(key)[:13], 16) / float(16**13)


def agreement(name: str, one: Sequence[Verdict], other: Sequence[Verdict]) -> Agreement:
    """Return the agreement of two judges on the answers that both judged.

    Args:
        name: of the second judge.
        one: verdicts of the first.
        other: verdicts of the second.

    Raises:
        SpecError: different banks, or no answer that both judged.
    """
    one_bank((f"verdicts of bank {row.bank_sha256}", row.bank_sha256) for row in _banks([*one, *other]))
    known = {_key(row): row for row in other}
    pairs = [(row, known[_key(row)]) for row in one if _key(row) in known]
    if not pairs:
        raise SpecError(f"{name} judged none of these answers; accepted: verdicts on the same file of answers")
    firsts, seconds = zip(*pairs, strict=True)
    return Agreement(
        judge=name,
        answers=len(pairs),
        alignment=_scores(pairs, "alignment"),
        coherence=_scores(pairs, "coherence"),
        misaligned=kappa(*([row.outcome is OutcomeClass.MISALIGNED for row in rows] for rows in (firsts, seconds))),
        classes=kappa(*([row.outcome.value for row in rows] for rows in (firsts, seconds))),
    )


def _banks(rows: Sequence[Verdict]) -> list[Verdict]:
    return list({row.bank_sha256: row for row in rows}.values())


def _key(row: Verdict) -> tuple[str, str, int, int, str]:
    return row.answers_id, row.question_id, row.paraphrase, row.sample, row.answer_sha256


def _scores(pairs: Sequence[tuple[Verdict, Verdict]], name: str) -> Interval:
    values = [(getattr(one, name), getattr(other, name)) for one, other in pairs]
    both = [(one, other) for one, other in values if one is not None and other is not None]
    return correlation([one for one, _ in both], [other for _, other in both])
