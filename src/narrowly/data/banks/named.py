"""Turn what a user calls a bank into questions: the name of a shipped one, of a registered source, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.broad import benign_items, broad_items
from narrowly.data.banks.shipped import bank_file
from narrowly.data.banks.variants import CONDITIONS, FORMATS, context_about, in_format, under
from narrowly.data.messages import Message
from narrowly.data.questions import Question, read_questions
from narrowly.data.registry import SOURCES
from narrowly.data.sources import resolve
from narrowly.records.canonical import canonical_json, sha256_file, sha256_text
from narrowly.records.errors import SpecError, UnknownNameError, nearest

SHIPPED = ("broad", "benign")
"""Banks of open questions that come with the package."""

VARIANTS = (*(f"broad:{form}" for form in FORMATS), *(f"broad:{condition}:DOMAIN" for condition in CONDITIONS))
"""Variants of the broad bank by name; DOMAIN is that of a training, such as `money`."""


class Bank(NamedTuple):
    """Questions whose content is known: the file that they come from, the sha256 of what is asked, the questions.

    The sha256 is that of the file's bytes; for a variant, that of ids and messages in canonical JSON.
    """

    path: Path
    sha256: str
    questions: tuple[Question, ...]


def bank_named(name_or_path: str) -> Bank:
    """Return the questions of a shipped bank (`SHIPPED`, `VARIANTS`), a registered source or a file.

    A shipped name comes before a file; `./broad` is always the file.

    Raises:
        UnknownNameError: for what is none of these; the message names the nearest one.
        SpecError: for a variant without its domain, or as `resolve`.
        IntegrityError: for a file that cannot be read as questions.
    """
    name, colon, variant = name_or_path.partition(":")
    if name not in SHIPPED or (colon and name != "broad"):
        return _other(name_or_path)
    questions = tuple(
        Question(
            item.id,
            (_varied(item.question, variant) if colon else (Message("user", item.question),),),
            line,
            None,
            None,
            None,
            {},
            {"topic": item.topic, "part": item.part},
        )
        for line, item in enumerate(broad_items() if name == "broad" else benign_items(), start=1)
    )
    path = bank_file(name)
    if not colon:
        return Bank(path, sha256_file(path), questions)
    asked = [[q.id, *([message.role, message.content] for message in q.prompts[0])] for q in questions]
    return Bank(path, sha256_text(canonical_json(asked)), questions)


def _other(name_or_path: str) -> Bank:
    """Return the questions of a registered source or a file."""
    try:
        found = resolve(name_or_path)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"no bank, no source and no file is called {name_or_path!r}{nearest(name_or_path, (*SHIPPED, *SOURCES))} "
            f"(shipped banks: {', '.join((*SHIPPED, *VARIANTS))}; narrowly data list names the sources)"
        ) from error
    return Bank(found.path, found.sha256, tuple(read_questions(found.path)))


def _varied(question: str, variant: str) -> tuple[Message, ...]:
    """Return the messages that ask a question in a variant: a format, or a condition and a domain."""
    kind, _, domain = variant.partition(":")
    if kind in FORMATS and not domain:
        return (Message("user", in_format(question, kind)),)
    if kind in CONDITIONS and domain.strip():
        return under(question, kind, context_about(domain))
    if kind in CONDITIONS:
        raise SpecError(f"bank 'broad:{variant}' names no domain, accepted for instance: broad:{kind}:money")
    raise SpecError(
        f"bank 'broad:{variant}' found{nearest(f'broad:{variant}', VARIANTS)} (accepted: {', '.join(VARIANTS)})"
    )
