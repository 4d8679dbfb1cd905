"""Keep a file of answers, one per line, that a stopped command goes on with and no other request is mixed into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from narrowly.data.questions import Question
from narrowly.records.answers import Answer
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_jsonl, write_text


def written_answers(out: Path) -> list[Answer]:
    """Read the answers of a file; a last line that a killed command left half is not one of them.

    Raises:
        IntegrityError: a line is no answer; its number is named.
    """
    if not out.exists():
        return []
    found = []
    for number, line in enumerate(read_jsonl(out), start=1):
        try:
            found.append(Answer.model_validate(line))
        except ValidationError as error:
            raise IntegrityError(
                f"{out}, line {number} is no answer of ours ({first_fault(error)}); accepted: a new file, or one that "
                "the same command began"
            ) from error
    return found


def mend(out: Path) -> None:
    """Take a half line off the end of a file, or end a whole one, so that the next answer begins a line."""
    text = out.read_bytes() if out.exists() else b""
    if not text or text.endswith(b"\n"):
        return
    before = text.rfind(b"\n") + 1
    try:
        json.loads(text[before:].decode("utf-8"))
    except ValueError:
        write_text(out, text[:before].decode("utf-8"))
    else:  # `written_answers` counts it
        write_text(out, text.decode("utf-8") + "\n")


def refuse_another(out: Path, pairs: Mapping[str, tuple[object, object]]) -> None:
    """Refuse to go on with a file where something differs from what it was begun with.

    Args:
        out: the file.
        pairs: by name, what it was and what it is now.

    Raises:
        SpecError: naming the first that differs.
    """
    for name, (there, now) in pairs.items():
        if there != now:
            raise SpecError(
                f"{out} exists and holds answers of another request ({name}: {there}, now {now}); accepted: a new "
                "file, or the same request, which goes on"
            )


def check_out(out: Path, bank: Path) -> None:
    """Refuse a folder, or the bank itself, in place of a file for answers.

    Raises:
        SpecError: it is one.
    """
    if out.is_dir():
        raise SpecError(f"--out {out} is a folder, accepted: a file for the answers, for instance answers.jsonl")
    if out.exists() and out.samefile(bank):
        raise SpecError(f"--out {out} is the bank itself, accepted: another file")


def system_of(answer: Answer) -> str | None:
    """Return the system message that an answer was written to, or None."""
    first = answer.messages[0]
    return str(first["content"]) if first["role"] == "system" else None


def system_of_bank(questions: Sequence[Question], answer: Answer) -> str | None:
    """Return the system message that a bank itself gives to the question of an answer, or None."""
    for question in questions:
        if question.id == answer.question_id and answer.paraphrase < len(question.prompts):
            first = question.prompts[answer.paraphrase][0]
            return first.content if first.role == "system" else None
    return None
