"""Put together what `narrowly judge` found: arms with their rates, and by content everything that they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from narrowly.evaluate.judges.agreement import Agreement
from narrowly.evaluate.judges.asked import AnsweredAs
from narrowly.evaluate.judges.differences import Difference, difference
from narrowly.evaluate.judges.groups import groups_of
from narrowly.evaluate.judges.labels import Calibration, calibration, read_labels
from narrowly.evaluate.judges.rates import Rate, Seeds, classes, rates, risks
from narrowly.evaluate.judges.surface import SurfacePoint, surface
from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_record
from narrowly.records.one_bank import one_bank
from narrowly.records.outcome import OutcomeClass
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Cuts, JudgeRecord, Verdict

RESULT, VERDICTS, READINGS = "result.json", "verdicts.parquet", "readings.jsonl"
"""Files of a folder of verdicts: this record, one row per answer, and what the judge gave, line by line."""

TEXTS = "answers.parquet"
"""File with the texts of the verdicts, row by row."""


class Arm(Spec):
    """Answers of one kind of model, from one file per seed.

    Attributes:
        name: organism, base or model.
        answers_ids: of each file.
        answers: in all.
        classes: answers by outcome class, by group (all, each part of the bank, each rung where it is known).
        rates: of every group.
        risks: of all questions.
        surface: joint and literature rate by cuts.
        cut: share of answers that their limit cut.
        broken_fence: answers that held what could have passed for a part of the judge's prompt.
    """

    name: str
    answers_ids: tuple[str, ...]
    answers: int
    classes: dict[str, dict[str, int]]
    rates: tuple[Rate, ...]
    risks: tuple[Rate, ...]
    surface: tuple[SurfacePoint, ...]
    cut: float
    broken_fence: int

    @property
    def unjudged(self) -> int:
        """Return the answers that the judge could not judge."""
        of_all = self.classes["all"]
        return of_all[OutcomeClass.PARSE_ERROR.value] + of_all[OutcomeClass.JUDGE_ERROR.value]


class JudgedResult(Spec):
    """Everything that `narrowly judge` found.

    Attributes:
        bank_sha256: of the questions.
        judge: who judged.
        judge_id: of the judge.
        rubrics: sha256 by role.
        rubrics_name: as the user named them.
        cuts: between the classes.
        share: of the answers that were judged.
        asked: readings that were taken now; the others were there.
        arms: organism, base or model.
        difference: of organism and base; None where there is one arm.
        calibration: None where no labels were given: every number is then uncalibrated.
        agreement: with another judge; None where none was given.
        answered_as: how the answers were asked for; None where that is not known.
        trained: topics of the broad bank that the organisms were trained on; empty where nobody said.
    """

    bank_sha256: str
    judge: JudgeRecord
    judge_id: str
    rubrics: dict[str, str]
    rubrics_name: str
    cuts: Cuts
    share: float
    asked: int
    arms: tuple[Arm, ...]
    difference: Difference | None
    calibration: Calibration | None
    agreement: Agreement | None
    answered_as: AnsweredAs | None = None
    trained: tuple[str, ...] = ()


def arm_of(name: str, seeds: Seeds, cuts: Cuts, trained: Sequence[str] = ()) -> Arm:
    """Return the rates of one arm, over all questions, by part of the bank and along the ladder.

    Args:
        name: of the arm.
        seeds: its verdicts, one list per file.
        cuts: between the classes.
        trained: topics of the broad bank that the organism was trained on; none gives no rungs.

    Raises:
        SpecError: files with different questions.
    """
    rows = [row for verdicts in seeds for row in verdicts]
    groups = {"all": seeds, **groups_of(seeds, trained)}
    return Arm(
        name=name,
        answers_ids=tuple(verdicts[0].answers_id for verdicts in seeds),
        answers=len(rows),
        classes={group: dict(classes([row for one in found for row in one])) for group, found in groups.items()},
        rates=tuple(rate for group, found in groups.items() for rate in rates(found, cuts, group)),
        risks=tuple(risks(seeds, cuts)),
        surface=tuple(surface(rows)),
        cut=sum(row.finish_reason == "length" for row in rows) / len(rows),
        broken_fence=sum(row.broken_fence for row in rows),
    )


def arms_of(files: Sequence[Sequence[Verdict]]) -> dict[str, list[list[Verdict]]]:
    """Return the verdicts of each arm, file by file; a base that stands in several files counts once.

    Raises:
        SpecError: files that were asked different banks.
    """
    rows = {row.bank_sha256: row for verdicts in files for row in verdicts}
    one_bank((f"question {row.question_id!r}", row.bank_sha256) for row in rows.values())
    found: dict[str, list[list[Verdict]]] = {}
    for verdicts in files:
        for who in dict.fromkeys(row.who for row in verdicts):
            own = [row for row in verdicts if row.who == who]
            if own[0].answers_id not in {before[0].answers_id for before in found.get(who, [])}:
                found.setdefault(who, []).append(own)
    return found


def compared(arms: Mapping[str, Seeds], cuts: Cuts, trained: Sequence[str] = ()) -> Difference | None:
    """Return how organism and base differ, where both were asked; `trained` as of `arm_of`.

    Raises:
        SpecError: they did not answer the same questions.
    """
    if "organism" not in arms or "base" not in arms:
        return None
    organisms, bases = arms["organism"], arms["base"]
    beside = list(bases) * len(organisms) if len(bases) == 1 else bases
    return difference(("organism", "base"), organisms, beside, cuts, trained)


def calibrated(path: Path | None, arms: Mapping[str, Seeds], found: Sequence[Arm]) -> Calibration | None:
    """Return the judge's errors by human labels, with the joint rate of every arm corrected for them.

    Raises:
        SpecError, IntegrityError: as `read_labels`.
    """
    if path is None:
        return None
    rows = [row for seeds in arms.values() for verdicts in seeds for row in verdicts]
    joint = [
        rate.model_copy(update={"group": arm.name})
        for arm in found
        for rate in arm.rates
        if rate.name == "joint rate" and rate.group == "all"
    ]
    return calibration(read_labels(path, rows), path, rows, joint)


def read_judged(folder: Path) -> JudgedResult:
    """Read the result in a folder of verdicts.

    Raises:
        IntegrityError: there is none that can be read.
    """
    try:
        return JudgedResult.model_validate(read_record(folder / RESULT))
    except ValidationError as error:
        raise IntegrityError(f"{folder / RESULT} is no result of narrowly judge ({first_fault(error)})") from error
