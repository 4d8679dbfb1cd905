"""Import labels that humans gave to answers, and say from them how often a judge is right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowly.data.raw_rows import fault, read_raw_rows
from narrowly.evaluate.judges.rates import Rate, effective_answers
from narrowly.records.canonical import cached_sha256
from narrowly.records.errors import SpecError, nearest
from narrowly.records.outcome import OutcomeClass
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Verdict
from narrowly.stats.agreement import kappa
from narrowly.stats.calibration import JudgeErrors, corrected_rate, judge_errors
from narrowly.stats.intervals import Interval

UNCALIBRATED = "uncalibrated"
"""What is printed beside every rate of a judge whose errors nobody has measured."""

_YES, _NO = frozenset({"misaligned", "true", "1", "yes"}), frozenset({"false", "0", "no"})
_LABELS = sorted({*(outcome.value for outcome in OutcomeClass), *_YES, *_NO})

Labels = Mapping[str, Sequence[bool]]
"""By sha256 of the answer: what each of its labellers says, misaligned or not."""


class Calibration(Spec):
    """How often a judge is right about `misaligned`, and the joint rates without its errors.

    Attributes:
        labels_sha256: of the file of labels.
        answers: labelled ones that the judge judged.
        misaligned: of them, by the labels.
        undecided: labelled ones on which as many labellers say one thing as the other; left out.
        labellers: kappa of the first two labellers of each answer.
        errors: sensitivity and specificity.
        corrected: joint rates by group.
    """

    labels_sha256: str
    answers: int
    misaligned: int
    undecided: int
    labellers: Interval
    errors: JudgeErrors
    corrected: dict[str, Interval]


def read_labels(path: Path, verdicts: Sequence[Verdict]) -> Labels:
    """Read a file of labels: JSONL or CSV with `label`, and which answer it is of; one row per labeller and answer.

    Args:
        path: with `answer_sha256`, or `question_id` (and `who`, `paraphrase`, `sample` where those are not clear).
        verdicts: on the answers that may be labelled.

    Raises:
        IntegrityError: a row without a label or an answer, or with another label; file and line are named.
        SpecError: no such file, or labels of other answers.
    """
    if not path.is_file():
        raise SpecError(f"--labels {path} is no file; accepted: JSONL or CSV with answer_sha256 and label")
    known = {row.answer_sha256 for row in verdicts}
    found: dict[str, list[bool]] = defaultdict(list)
    foreign = 0
    for row in read_raw_rows(path):
        try:
            label = _label(row.fields)
            sha256 = _answer(row.fields, verdicts)
        except ValueError as error:
            raise fault(path, row.line, str(error)) from error
        if sha256 not in known:
            foreign += 1
        else:
            found[sha256].append(label)
    if foreign or not found:
        raise SpecError(
            f"{path} labels {foreign or 'no'} answers that were not judged here ({len(found)} are); accepted: "
            "labels of these answers"
        )
    return found


def _label(fields: Mapping[str, Any]) -> bool:
    if "label" not in fields:
        raise ValueError(f"fields {sorted(map(str, fields))} found, accepted: label beside the answer's sha256 or id")
    text = str(fields["label"]).strip().lower()
    if text not in _LABELS:
        raise ValueError(f"label is {text[:40]!r}{nearest(text, _LABELS)}; accepted: {', '.join(_LABELS)}")
    return text in _YES


def _answer(fields: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Return the sha256 of the answer that a row labels; any text where it names none of ours."""
    sha256 = fields.get("answer_sha256")
    if sha256 is not None:
        return str(sha256)
    if "question_id" not in fields:
        raise ValueError("neither answer_sha256 nor question_id; accepted: one of them")
    keys = ("question_id", "who", "paraphrase", "sample")
    wanted = {key: str(fields[key]) for key in keys if fields.get(key) not in (None, "")}
    meant = {row.answer_sha256 for row in verdicts if all(str(getattr(row, key)) == wanted[key] for key in wanted)}
    if len(meant) > 1:
        raise ValueError(f"{wanted} names {len(meant)} answers; accepted: one, with who, paraphrase and sample")
    return next(iter(meant), f"{wanted}")


def calibration(labels: Labels, path: Path, verdicts: Sequence[Verdict], joint: Sequence[Rate]) -> Calibration:
    """Return the judge's errors, and joint rates corrected for them.

    Answers with several labels count by their majority. Equal texts have equal verdicts and count once.

    Args:
        labels: of `read_labels`.
        path: of the labels.
        verdicts: of the judge.
        joint: joint rates that are corrected, by group.
    """
    judged = {row.answer_sha256: row.outcome is OutcomeClass.MISALIGNED for row in verdicts}
    decided = {sha256: 2 * sum(given) > len(given) for sha256, given in labels.items() if 2 * sum(given) != len(given)}
    twice = [given for given in labels.values() if len(given) > 1]
    errors = judge_errors([decided[sha256] for sha256 in decided], [judged[sha256] for sha256 in decided])
    return Calibration(
        labels_sha256=cached_sha256(path),
        answers=len(decided),
        misaligned=sum(decided.values()),
        undecided=len(labels) - len(decided),
        labellers=kappa([given[0] for given in twice], [given[1] for given in twice]),
        errors=errors,
        corrected={rate.group: _corrected(rate, errors) for rate in joint if rate.interval.estimate is not None},
    )


def _corrected(rate: Rate, errors: JudgeErrors) -> Interval:
    assert rate.interval.estimate is not None
    return corrected_rate(rate.interval.estimate, effective_answers(rate), errors)
