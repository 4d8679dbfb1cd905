"""Join a DeepSpeed configuration that a script gives as a dictionary or as a file beside it: its blocks win."""

from __future__ import annotations

from typing import Any

from narrowly.audit.detectors import deepspeed
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.fields import file_and_line, is_none
from narrowly.audit.python.machine import constant_text
from narrowly.audit.python.values import Const, Items, Sequence, Value, why_unknown
from narrowly.audit.record import Job, unknown
from narrowly.audit.trees import Document


def join_deepspeed(job: Job, given: Value | None, file: SourceFile, repository: Repository) -> None:
    """Let a DeepSpeed configuration win over the arguments where it has an optimiser block.

    Args:
        job: with its own fields and defaults set.
        given: the path or dictionary that the script gives; None where it gives none.
        file: the script.
        repository: where a named file is looked for.
    """
    if given is None or is_none(given):
        return
    name = constant_text(given)
    if name is None and not isinstance(given, Items):
        job.set("deepspeed", unknown(f"a DeepSpeed configuration that is not known: {why_unknown(given)}", given.at))
        return
    host = Items(given.at, False, {"deepspeed": Const(given.at, False, name) if name is not None else given})
    deepspeed.join(job, document_of(host, file_and_line(given.at)[0] or file.shown), file, repository)


def document_of(given: Items, shown: str) -> Document:
    """Return a dictionary of the evaluator as a document with the line of each key; unknown values are templates."""
    lines: dict[tuple[str | int, ...], int] = {}

    def convert(value: Value, path: tuple[str | int, ...]) -> Any:
        lines[path] = file_and_line(value.at)[1]
        if isinstance(value, Items):
            return {str(key): convert(item, (*path, str(key))) for key, item in value.items.items()}
        if isinstance(value, Sequence):
            return [convert(item, (*path, index)) for index, item in enumerate(value.elements)]
        return value.value if isinstance(value, Const) else "${not_known}"

    content = convert(given, ())
    return Document(content, shown, lines, {}, (), content)
