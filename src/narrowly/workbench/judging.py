"""Judge files of answers into a folder: readings as they come, then verdicts and rates; a stopped run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from narrowly.data.questions import read_results
from narrowly.evaluate.judges.agreement import Agreement, agreement, sub_sample
from narrowly.evaluate.judges.asked import AnsweredAs, answered_as
from narrowly.evaluate.judges.judged import ToJudge, published_answers, to_judge
from narrowly.evaluate.judges.reader import JudgePrompt, Reader
from narrowly.evaluate.judges.result import (
    READINGS,
    RESULT,
    VERDICTS,
    JudgedResult,
    arm_of,
    arms_of,
    calibrated,
    compared,
    read_judged,
)
from narrowly.evaluate.judges.rubric_files import RubricSet
from narrowly.evaluate.judges.texts import write_texts
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.evaluate.judges.verdicts import RubricJudge, prompts_of
from narrowly.evaluate.verdict_files import check_finite, write_verdicts
from narrowly.records.answers import Answer
from narrowly.records.errors import EndpointError, IntegrityError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import append_jsonl, read_jsonl, write_json
from narrowly.records.verdicts import Cuts, JudgeRecord, Reading, Shown, Verdict
from narrowly.workbench.answer_file import mend, written_answers

OnReading = Callable[[int, int], None]
"""Told the readings that are there, and how many there will be."""

Key = tuple[str, str]

TABLES = (".csv", ".tsv", ".parquet")
"""Endings of files of answers that are tables of published results, whoever judges them."""


class JudgeRequest(NamedTuple):
    """Hold what is judged, checked as far as it can be without a judge.

    Attributes:
        files: of answers; each is one seed.
        answers: of each file, those that are judged.
        rubrics: that they are judged by.
        cuts: between the classes.
        out: folder of readings, verdicts and result.
        share: of the answers.
        shown: what a judge sees beside an answer.
        how: the answers were asked for; None where that is not known.
        trained: topics of the broad bank that the organisms were trained on; none gives no rungs.
    """

    files: tuple[Path, ...]
    answers: tuple[tuple[ToJudge, ...], ...]
    rubrics: RubricSet
    cuts: Cuts
    out: Path
    share: float
    shown: Shown
    how: AnsweredAs | None = None
    trained: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Return how many answers are judged."""
        return sum(map(len, self.answers))


class JudgeToOpen(NamedTuple):
    """Hold a judge that is known by content, and opened only where something is still to be read.

    Attributes:
        record: who judges.
        open: loads the model, or tries the server.
        tokens: control tokens of its tokenizer.
    """

    record: JudgeRecord
    open: Callable[[], Reader]
    tokens: tuple[str, ...] = ()


def judge_request(
    files: Sequence[Path], rubrics: RubricSet, cuts: Cuts, out: Path, *, share: float = 1.0, shown: Shown = "question"
) -> JudgeRequest:
    """Read the files of answers and refuse what cannot be judged together.

    Args:
        files: that `narrowly ask --bank --out` wrote, one per seed, or tables of published results (`TABLES`).
        rubrics: that answers are judged by.
        cuts: between the classes.
        out: folder, new or of the same judge.
        share: of the answers, chosen by hash.
        shown: what a judge sees beside an answer.

    Raises:
        SpecError: no file, no answers, the same answers twice, answers drawn in different ways, or an `out` that is a
            file.
        IntegrityError: a line that is no answer.
    """
    read = [(file, *_answers(file)) for file in files]
    found = [(file, answers) for file, lists, _ in read for answers in lists]
    how = answered_as([(str(file), lines) for file, _, lines in read]) if all(lines for _, _, lines in read) else None
    lists = [answers for _, answers in found]
    request = check_request([file for file, _ in found], lists, rubrics, cuts, out, share=share, shown=shown)
    return request._replace(how=how)


def check_request(
    files: Sequence[Path],
    found: Sequence[Sequence[ToJudge]],
    rubrics: RubricSet,
    cuts: Cuts,
    out: Path,
    *,
    share: float = 1.0,
    shown: Shown = "question",
) -> JudgeRequest:
    """Return the request for answers that have been read, and refuse what cannot be judged together.

    Args:
        files: where each list of answers comes from.
        found: the answers, one list per seed.
        rubrics: that answers are judged by.
        cuts: between the classes.
        out: folder, new or of the same judge.
        share: of the answers, chosen by hash.
        shown: what a judge sees beside an answer.

    Raises:
        SpecError: the same answers twice, an `out` that is a file, or a share that leaves nothing.
    """
    if out.exists() and not out.is_dir():
        raise SpecError(f"--out {out} is a file, accepted: a folder")
    seen: dict[str, Path] = {}
    for file, answers in zip(files, found, strict=True):
        for answers_id in {answer.answers_id for answer in answers if answer.who != "base"}:
            if seen.setdefault(answers_id, file) != file:
                raise SpecError(
                    f"{seen[answers_id]} and {file} hold answers of the same model to the same bank with the same "
                    "seed; accepted: one file per training seed"
                )
    chosen = tuple(tuple(sub_sample(answers, share)) for answers in found)
    if not all(chosen):
        raise SpecError(f"--share is {share:g}, which leaves no answer of a file; accepted: a larger one")
    return JudgeRequest(tuple(files), chosen, rubrics, cuts, out, share, shown)


def _answers(file: Path) -> tuple[list[list[ToJudge]], list[Answer]]:
    """Return the answers of a file as they are judged, and its lines; a table may hold several models and has none."""
    if not file.is_file():
        raise SpecError(f"{file} is no file; accepted: answers that narrowly ask --bank BANK --out FILE wrote")
    if file.suffix.lower() in TABLES:
        return [list(own) for own in published_answers(read_results(file), file)], []
    lines = written_answers(file)
    if not lines:
        raise SpecError(f"{file} holds no answers; accepted: answers that narrowly ask --bank BANK --out FILE wrote")
    found = [to_judge(answer) for answer in lines]
    known: set[tuple[str, str, int, int]] = set()
    for answer in found:
        key = answer.answers_id, answer.question_id, answer.paraphrase, answer.sample
        if key in known:
            raise IntegrityError(f"{file} holds the answer of {answer.who} to {answer.question_id!r} twice")
        known.add(key)
    return [found], lines


def prompts_missing(
    request: JudgeRequest, judge: JudgeToOpen, readings: Mapping[Key, Reading]
) -> tuple[list[JudgePrompt], int]:
    """Return the prompts that are still to be read, and how many there are; equal ones are read once."""
    prompts: dict[Key, JudgePrompt] = {}
    for answers in request.answers:
        for answer in answers:
            for prompt in prompts_of(answer, request.rubrics, request.shown, judge.tokens).by_role.values():
                prompts.setdefault(prompt.key, prompt)
    return [prompt for key, prompt in prompts.items() if key not in readings], len(prompts)


def judge_answers(
    request: JudgeRequest,
    judge: JudgeToOpen,
    *,
    labels: Path | None = None,
    beside: Path | None = None,
    on_reading: OnReading = lambda done, total: None,
) -> JudgedResult:
    """Read what is missing, then write verdicts and result.

    Args:
        request: of `judge_request`.
        judge: that is asked.
        labels: file of human labels, for the judge's errors.
        beside: folder of verdicts of another judge, for the agreement.
        on_reading: told of progress.

    Raises:
        SpecError: a folder of another judge, a judge whose readings would be wrong, labels of other answers.
        EndpointError: a request failed for good; how many readings are kept is said.
        KeyboardInterrupt: with the number of readings that are kept.
    """
    readings = kept_readings(request.out, judge.record)
    missing, total = prompts_missing(request, judge, readings)
    if missing:
        reader = judge.open()
        reader.check(request.rubrics.rubrics)
        _read(request.out, reader, missing, readings, total, on_reading)
    found = RubricJudge(judge.record, request.rubrics, readings, judge.tokens)
    files = [found.verdicts(answers, request.cuts) for answers in request.answers]
    return written_result(request, judge.record, files, len(missing), labels, beside)


def _read(
    out: Path,
    reader: Reader,
    missing: Sequence[JudgePrompt],
    readings: dict[Key, Reading],
    total: int,
    on_reading: OnReading,
) -> None:
    """Take the readings that are missing; each is in the file before the next request of its thread."""
    file = out / READINGS
    mend(file)

    def keep(reading: Reading) -> None:
        append_jsonl(file, reading.model_dump(mode="json"))
        readings[reading.rubric_sha256, reading.prompt_sha256] = reading
        on_reading(done + len(readings) - before, total)

    before, done = len(readings), total - len(missing)
    try:
        reader.read(missing, keep)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped with {_goes_on(file, before, len(readings), len(missing))}") from None
    except EndpointError as error:
        where = _goes_on(file, before, len(readings), len(missing))
        raise EndpointError(f"{error}; {where}", error.status) from error


def _goes_on(file: Path, before: int, now: int, missing: int) -> str:
    return f"{now - before} of {missing} missing readings in {file}; the same command goes on from there"


def kept_readings(out: Path, record: JudgeRecord) -> dict[Key, Reading]:
    """Return the readings in a folder, by rubric and prompt.

    Raises:
        IntegrityError: a line that is no reading.
        SpecError: readings of another judge.
    """
    file = out / READINGS
    found: dict[Key, Reading] = {}
    for number, line in enumerate(read_jsonl(file) if file.exists() else [], start=1):
        try:
            reading = Reading.model_validate(line)
        except ValidationError as error:
            raise IntegrityError(f"{file}, line {number} is no reading of ours ({first_fault(error)})") from error
        if reading.judge_id != record.judge_id:
            raise SpecError(
                f"{out} holds readings of another judge ({reading.judge_id}, now {record.judge_id}: {record.name}); "
                "accepted: a new --out, or the same judge, which goes on"
            )
        found[reading.rubric_sha256, reading.prompt_sha256] = reading
    return found


def written_result(
    request: JudgeRequest,
    record: JudgeRecord,
    files: Sequence[Sequence[Verdict]],
    asked: int,
    labels: Path | None,
    beside: Path | None,
) -> JudgedResult:
    """Count the verdicts, and write them, their texts and the result into the folder of a request.

    Args:
        request: with the answers.
        record: of who judged.
        files: verdicts of each list of answers, in their order.
        asked: readings that were taken now.
        labels: file of human labels.
        beside: folder of verdicts of another judge.
    """
    rows = [row for verdicts in files for row in verdicts]
    arms = arms_of(files)
    counted = tuple(arm_of(name, seeds, request.cuts, request.trained) for name, seeds in arms.items())
    result = JudgedResult(
        bank_sha256=str(rows[0].bank_sha256),
        judge=record,
        judge_id=record.judge_id,
        rubrics=request.rubrics.hashes,
        rubrics_name=request.rubrics.name,
        cuts=request.cuts,
        share=request.share,
        asked=asked,
        arms=counted,
        difference=compared(arms, request.cuts, request.trained),
        calibration=calibrated(labels, arms, counted),
        agreement=None if beside is None else _agreement(beside, rows),
        answered_as=request.how,
        trained=request.trained,
    )
    table = [row.model_dump(mode="json") for row in rows]
    check_finite(table, f"verdicts of {record.name}")
    write_texts([answer for answers in request.answers for answer in answers], request.out)
    write_verdicts(table, request.out / VERDICTS)
    write_json(request.out / RESULT, result.model_dump(mode="json"))
    return result


def _agreement(beside: Path, rows: Sequence[Verdict]) -> Agreement:
    other = read_judged(beside)
    return agreement(other.judge.name, rows, read_verdict_rows(beside / VERDICTS))
