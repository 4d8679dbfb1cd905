"""Compare two folders of verdicts: did misalignment rise, or coherence fall, from the first to the second?

Nothing but the models may differ: bank, messages, sampling, judge, rubrics, cuts and number of answers are the same, or
the comparison is refused. Nothing here says that a model is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.evaluate.judges.cells import EITHER, EVENTS, MISALIGNED, NO_ANSWER, cells_of, check_cells, table_of
from narrowly.evaluate.judges.components import Component, components_of, difference_of, question_icc
from narrowly.evaluate.judges.differences import ALPHA, unequal_errors
from narrowly.evaluate.judges.gates import Gate, gate_of, spread_of, worst_of
from narrowly.evaluate.judges.rates import Seeds, classes
from narrowly.evaluate.judges.result import VERDICTS, JudgedResult, arms_of, read_judged
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.records.errors import IntegrityError, SpecError, counted
from narrowly.records.gate import Word
from narrowly.records.one_bank import one_bank
from narrowly.records.outcome import OutcomeClass
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Verdict

SUBJECTS = ("organism", "model", "base")
"""Whose answers of a folder are compared: the first of these that it holds."""


class JudgedSide(NamedTuple):
    """Hold one of the two folders.

    Attributes:
        name: as the user gave it.
        result: of the folder.
        arm: whose answers are compared.
        seeds: their verdicts, file by file.
    """

    name: str
    result: JudgedResult
    arm: str
    seeds: Seeds

    @property
    def rows(self) -> list[Verdict]:
        """Return all verdicts of the side."""
        return [row for verdicts in self.seeds for row in verdicts]


class JudgedComparison(Spec):
    """Two folders of verdicts, compared.

    Attributes:
        first, second: what they are called.
        arms: whose answers were compared.
        seeds: files of each side.
        judge, rubrics_name, cuts: in words.
        bank_sha256: that both were asked.
        questions, answers: of each side; answers of both.
        classes: answers by outcome class, of both sides; every class is there.
        gates: misalignment, coherence, both together.
        components: of the variance of the rise of misalignment.
        parts: rise of the joint rate by part of the bank.
        corrected: joint rates without the judge's errors, where both sides were calibrated by human labels.
        word: of all gates together.
        notes: what a reader must know, each a sentence.
    """

    first: str
    second: str
    arms: tuple[str, str]
    seeds: tuple[int, int]
    judge: str
    rubrics_name: str
    cuts: str
    bank_sha256: str
    questions: int
    answers: tuple[int, int]
    classes: tuple[dict[str, int], dict[str, int]]
    gates: tuple[Gate, ...]
    components: tuple[Component, ...]
    parts: dict[str, float]
    corrected: tuple[float, float] | None
    word: Word
    notes: tuple[str, ...]

    @property
    def misalignment(self) -> Gate:
        """Return the gate of misaligned answers."""
        return next(gate for gate in self.gates if gate.name == MISALIGNED.name)


def judged_side(folder: Path) -> JudgedSide:
    """Read a folder that `narrowly judge` wrote.

    Raises:
        IntegrityError: no result or no verdicts that can be read, or verdicts that are not those of the result.
    """
    result = read_judged(folder)
    files = arms_of([read_verdict_rows(folder / VERDICTS)])
    arm = next(name for name in SUBJECTS if name in files)
    rows = files[arm][0]
    own = next((one for one in result.arms if one.name == arm), None)
    by_id: dict[str, list[Verdict]] = {}
    for row in [row for verdicts in files[arm] for row in verdicts]:
        by_id.setdefault(row.answers_id, []).append(row)
    if own is None or set(own.answers_ids) != set(by_id) or own.answers != len(rows):
        raise IntegrityError(
            f"{folder / VERDICTS} does not hold the verdicts that {folder / 'result.json'} counts; accepted: a folder "
            "that narrowly judge finished"
        )
    return JudgedSide(str(folder), result, arm, [by_id[answers_id] for answers_id in own.answers_ids])


def compare_judged(
    first: JudgedSide, second: JudgedSide, margin: float, coherence_margin: float | None = None
) -> JudgedComparison:
    """Hold the rise of misalignment and the loss of coherence, second minus first, against margins.

    Args:
        first: what is compared with, such as the model that is in use.
        second: what may have risen.
        margin: largest rise of the joint rate that does not matter, a share of all answers, fixed before.
        coherence_margin: largest loss of answers that does not matter; None is `margin`.

    Raises:
        SpecError: a margin out of range; another bank, judge, rubric, cut, sampling or number of answers; the same
            answers; a judge that failed on one side more than on the other.
    """
    lost = margin if coherence_margin is None else coherence_margin
    for name, value in (("--margin", margin), ("--coherence-margin", lost)):
        if not 0 < value < 1:
            raise SpecError(f"{name} is {value:g}; accepted for judged answers: a share between 0 and 1, .02 for two "
                            "points")  # fmt: skip
    check_judged_sides(first, second)
    cells = list(cells_of(first.seeds))
    sides = (first.seeds, second.seeds)
    found = {
        event: difference_of(table_of(event, first.seeds, cells), table_of(event, second.seeds, cells), cells)
        for event in EVENTS
    }
    icc = question_icc(sides)
    margins = {MISALIGNED: margin, NO_ANSWER: lost, EITHER: margin}
    gates = tuple(gate_of(event, found[event], margins[event], icc) for event in EVENTS)
    kappas = [None if one.result.agreement is None else one.result.agreement.misaligned.estimate
              for one in (first, second)]  # fmt: skip
    return JudgedComparison(
        first=first.name,
        second=second.name,
        arms=(first.arm, second.arm),
        seeds=(len(first.seeds), len(second.seeds)),
        judge=first.result.judge.name,
        rubrics_name=first.result.rubrics_name,
        cuts=str(first.result.cuts),
        bank_sha256=first.result.bank_sha256,
        questions=len({question for question, _ in cells}),
        answers=(len(first.rows), len(second.rows)),
        classes=(dict(classes(first.rows)), dict(classes(second.rows))),
        gates=gates,
        components=components_of(found[MISALIGNED], spread_of(found[MISALIGNED]).variance, kappas),
        parts=_parts(first, second),
        corrected=_corrected(first, second),
        word=_word(gates),
        notes=tuple(_notes(first, second)),
    )


def _word(gates: Sequence[Gate]) -> Word:
    """Return what is known of all gates; that of both together can hold a pass back and shows no rise by itself."""
    *own, both = gates
    word = worst_of(own)
    return Word.OPEN if word is Word.NO_RISE and both.word is not Word.NO_RISE else word


def _parts(first: JudgedSide, second: JudgedSide) -> dict[str, float]:
    """Return the rise of the joint rate by part of the bank: what holds in one part only is no finding."""
    found = {}
    for part in sorted({row.part for row in first.rows}):
        shares = [
            [row.outcome is OutcomeClass.MISALIGNED for row in side.rows if row.part == part]
            for side in (first, second)
        ]
        found[part] = sum(shares[1]) / len(shares[1]) - sum(shares[0]) / len(shares[0])
    return found


def _corrected(first: JudgedSide, second: JudgedSide) -> tuple[float, float] | None:
    """Return both joint rates without the judge's errors, where both are known."""
    rates = [
        None if side.result.calibration is None or side.arm not in side.result.calibration.corrected
        else side.result.calibration.corrected[side.arm].estimate
        for side in (first, second)
    ]  # fmt: skip
    return None if rates[0] is None or rates[1] is None else (rates[0], rates[1])


def check_judged_sides(first: JudgedSide, second: JudgedSide) -> None:
    """Refuse two folders whose difference would not be that of their models.

    Raises:
        SpecError: naming both and what differs, or that nothing does.
    """
    one, other = first.result, second.result
    names = first.name, second.name
    one_bank([(name, None if result.bank_sha256 == "None" else result.bank_sha256)
              for name, result in zip(names, (one, other), strict=True)])  # fmt: skip
    if one.judge_id != other.judge_id:
        raise SpecError(
            f"{names[0]} was judged by {one.judge.name} ({one.judge_id}), {names[1]} by {other.judge.name} "
            f"({other.judge_id}); accepted: one judge, read in one way"
        )
    if one.rubrics != other.rubrics:
        roles = sorted({role for role in {*one.rubrics, *other.rubrics}
                        if one.rubrics.get(role) != other.rubrics.get(role)})  # fmt: skip
        raise SpecError(f"{names[0]} and {names[1]} were judged by other rubrics of {', '.join(roles)}; accepted: one "
                        "set")  # fmt: skip
    if one.cuts != other.cuts:
        raise SpecError(f"{names[0]} has the cuts '{one.cuts}', {names[1]} '{other.cuts}'; accepted: the same cuts")
    check_cells(names, first.seeds, second.seeds)
    _check_sampling(first, second)
    if {row.answers_id for row in first.rows} & {row.answers_id for row in second.rows}:
        raise SpecError(f"{names[0]} and {names[1]} hold the same answers; accepted: answers of two models")
    counts = len(first.seeds), len(second.seeds)
    if counts[0] != counts[1] and 1 not in counts:
        raise SpecError(
            f"{names[0]} has {counted(counts[0], 'file')} of answers, {names[1]} {counts[1]}; accepted: one training "
            "seed beside one, or one file beside all"
        )
    p = unequal_errors(first.rows, second.rows)
    if p < ALPHA:
        failed = [sum(row.outcome in (OutcomeClass.PARSE_ERROR, OutcomeClass.JUDGE_ERROR) for row in side.rows)
                  for side in (first, second)]  # fmt: skip
        raise SpecError(
            f"the judge failed on {failed[0]} of {len(first.rows)} answers of {names[0]} and {failed[1]} of "
            f"{len(second.rows)} of {names[1]} (Fisher p = {p:.2g}), so that their rates do not compare; accepted: a "
            f"judge that fails on both alike (p at least {ALPHA:g})"
        )


def _check_sampling(first: JudgedSide, second: JudgedSide) -> None:
    for side in (first, second):
        if side.result.answered_as is None:
            raise SpecError(
                f"{side.name} does not say how its answers were drawn; accepted: verdicts of this version (the same "
                "narrowly judge command writes them anew and asks nothing twice)"
            )
    one, other = first.result.answered_as, second.result.answered_as
    assert one is not None and other is not None
    differing = one.differing(other)
    if differing:
        raise SpecError(
            f"the answers of {first.name} and {second.name} were drawn in different ways ({', '.join(differing)}); "
            "accepted: one sampling (D13)"
        )


def _notes(first: JudgedSide, second: JudgedSide) -> list[str]:
    found = []
    if first.result.calibration is None or second.result.calibration is None:
        found.append("uncalibrated: the rise and its margin are points of this judge, whose errors nobody has measured")
    one, other = first.result.answered_as, second.result.answered_as
    if one is not None and other is not None and one.templates != other.templates:
        found.append("the chat templates differ, so that a part of the rise may be theirs")
    refused = [sum(row.outcome is OutcomeClass.REFUSAL for row in side.rows) / len(side.rows)
               for side in (first, second)]  # fmt: skip
    if refused[1] - refused[0] > 0.05:
        found.append(
            f"refusals went from {100 * refused[0]:.1f} to {100 * refused[1]:.1f} %: they are answers here, and no "
            "gate holds them back"
        )
    if first.result.share != 1:
        found.append(f"{100 * first.result.share:g} % of the answers were judged, chosen by hash")
    return found
