"""Import a published result file into a folder of verdicts, as if `narrowly judge` had asked its judge itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.data.questions import JudgedAnswer, read_results
from narrowly.evaluate.judges.asked import stated_as
from narrowly.evaluate.judges.judged import ToJudge, published_answers
from narrowly.evaluate.judges.published import AS_PUBLISHED, Agreeing, PublishedJudge, check_rubrics, published_record
from narrowly.evaluate.judges.result import READINGS, JudgedResult
from narrowly.evaluate.judges.rubric_files import PUBLISHED_ROLES, RubricSet
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import write_text
from narrowly.records.verdicts import Cuts
from narrowly.workbench.judging import check_request, kept_readings, written_result


class Imported(NamedTuple):
    """Hold what came of result files, and how far their scores follow from their distributions."""

    result: JudgedResult
    agreeing: Agreeing


def import_published(
    files: Sequence[Path],
    judge: str,
    cuts: Cuts,
    out: Path,
    *,
    rubrics: RubricSet = AS_PUBLISHED,
    drawn: tuple[float, int] | None = None,
    share: float = 1.0,
    labels: Path | None = None,
    beside: Path | None = None,
) -> Imported:
    """Write readings, verdicts and result of published judgements into a folder.

    Args:
        files: of results, each with `question`, `answer`, `aligned` and `coherent`; models are training seeds.
        judge: name of the judge that its publisher asked.
        cuts: between the classes.
        out: folder, new or of the same judge.
        rubrics: that the judge was asked, where the user knows them.
        drawn: temperature and longest answer, where the user knows them; without them no comparison is made.
        share: of the answers, chosen by hash.
        labels: file of human labels.
        beside: folder of verdicts of another judge.

    Raises:
        SpecError: no file, several groups of models, no judge, rubrics of other roles, or a folder of another judge.
        IntegrityError: a row that is no judged answer; file and line are named.
    """
    if not judge.strip():
        raise SpecError("--published is empty; accepted: the name of the judge that the file's scores are of")
    check_rubrics(rubrics)
    record = published_record(judge.strip())
    kept_readings(out, record)
    rows: dict[ToJudge, JudgedAnswer] = {}
    lists: list[list[ToJudge]] = []
    sources: list[Path] = []
    for file in files:
        for own in _answers(file):
            rows.update(own)
            lists.append(list(own))
            sources.append(file)
    request = check_request(sources, lists, rubrics, cuts, out, share=share)
    if drawn is not None:
        request = request._replace(how=stated_as(rows, *drawn))
    found = PublishedJudge(record, rubrics, rows)
    chosen = [answer for answers in request.answers for answer in answers]
    lines = [reading for answer in chosen for reading in found.readings(answer).values()]
    verdicts = [found.verdicts(answers, cuts) for answers in request.answers]
    write_text(out / READINGS, "".join(f"{canonical_json(line.model_dump(mode='json'))}\n" for line in lines))
    result = written_result(request, record, verdicts, 0, labels, beside)
    return Imported(result, found.agreeing(chosen))


def _answers(file: Path) -> list[dict[ToJudge, JudgedAnswer]]:
    """Return the answers of a file with their rows, one table per model."""
    if not file.is_file():
        raise SpecError(f"{file} is no file; accepted: a table of published results (CSV, JSONL or Parquet)")
    found = read_results(file)
    for row in found:
        missing = [
            name for name in PUBLISHED_ROLES if name not in row.scores and f"judge_{name}" not in row.distributions
        ]
        if missing:
            raise IntegrityError(
                f"{file}, line {row.line}: neither {missing[0]} nor judge_{missing[0]} is there; accepted: scores of "
                f"{' and '.join(PUBLISHED_ROLES)}"
            )
    return published_answers(found, file)
