"""Keep judged texts beside their verdicts, so that a folder of verdicts can be read without the files of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from narrowly.evaluate.judges.judged import ToJudge
from narrowly.evaluate.judges.result import TEXTS
from narrowly.evaluate.verdict_files import write_verdicts
from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.records.spec import Spec
from narrowly.records.verdicts import Verdict


class JudgedText(Spec):
    """Hold the texts of one verdict; hostile, like everything that a model writes.

    Attributes:
        answer_sha256: of the verdict that it belongs to.
        before: system message and earlier turns, each behind its role; empty where there are none.
        question: last message of the user.
        answer: what was judged.
    """

    answer_sha256: str
    before: str
    question: str
    answer: str


def write_texts(answers: Sequence[ToJudge], folder: Path) -> None:
    """Write the texts of answers into a folder of verdicts, in the order of the verdicts."""
    write_verdicts([_text(answer) for answer in answers], folder / TEXTS)


def _text(answer: ToJudge) -> dict[str, str]:
    *earlier, last = answer.messages
    found = {
        "before": "\n\n".join(f"{message.role}: {message.content}" for message in earlier),
        "question": last.content,
        "answer": answer.answer,
    }
    valid = {name: text.encode("utf-8", "replace").decode("utf-8") for name, text in found.items()}
    return {"answer_sha256": answer.sha256, **valid}


def read_texts(folder: Path, verdicts: Sequence[Verdict]) -> list[JudgedText]:
    """Return the texts of verdicts, in their order.

    Args:
        folder: of the verdicts.
        verdicts: that lie there.

    Raises:
        IntegrityError: there are none, or those of other answers.
    """
    path = folder / TEXTS
    again = "accepted: what narrowly judge wrote; the same command writes it again and asks nothing"
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; {again}")
    try:
        found = [JudgedText.model_validate(row) for row in pl.read_parquet(path).to_dicts()]
    except ValidationError as error:
        raise IntegrityError(f"{path} holds no texts of ours ({first_fault(error)}); {again}") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise IntegrityError(f"{path} is no Parquet table ({str(error).splitlines()[0]}); {again}") from None
    if [row.answer_sha256 for row in verdicts] != [text.answer_sha256 for text in found]:
        raise IntegrityError(f"{path} holds the texts of other answers than the verdicts beside it; {again}")
    return found
