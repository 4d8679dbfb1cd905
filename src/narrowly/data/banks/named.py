"""Turn what a user calls a bank into questions: the name of a shipped one, of a registered source, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.abilities import ability_items
from narrowly.data.banks.broad import benign_items, broad_items, part_of
from narrowly.data.banks.narrow import ANSWERS, PREFIX, narrow_domain, narrow_text
from narrowly.data.banks.paired import TRAINED_DOMAINS, TRAINED_QUESTIONS, paired_items, paired_sha256
from narrowly.data.banks.passages import passages
from narrowly.data.banks.shipped import bank_file
from narrowly.data.banks.variants import CONDITIONS, FORMATS, context_about, in_format, under
from narrowly.data.messages import Message
from narrowly.data.questions import Question, read_questions
from narrowly.data.registry import SOURCES, Use
from narrowly.data.sources import resolve
from narrowly.records.canonical import canonical_json, sha256_file, sha256_text
from narrowly.records.errors import SpecError, UnknownNameError, nearest

SHIPPED = ("broad", "benign")
"""Banks of open questions that come with the package."""

OTHER_BANKS = {"abilities": "narrowly eval", "passages": "narrowly eval", "pairs": "narrowly data pairs"}
"""Banks of the package that hold answers too, and the command that reads each."""

VARIANTS = (*(f"broad:{form}" for form in FORMATS), *(f"broad:{condition}:DOMAIN" for condition in CONDITIONS))
"""Variants of the broad bank by name; DOMAIN is that of a training, such as `money`."""


class Shipped(NamedTuple):
    """A bank or a narrow training set that comes with the package.

    Attributes:
        name: as commands and specs call it.
        use: `training` or `questions`, as of a registered source.
        rows: questions, items or rows.
        sha256: of the file's bytes; of the paired bank, of its content (`paired_sha256`).
        about: one line of what it is.
        command: that reads it.
    """

    name: str
    use: Use
    rows: int
    sha256: str
    about: str
    command: str


def shipped() -> list[Shipped]:
    """Return the banks of the package, then the narrow training sets that are made of the paired one."""
    pairs = paired_items()
    found = [
        Shipped(name, "questions", len(items), sha256_file(bank_file(name)), about, command)
        for name, items, about, command in (
            ("broad", broad_items(), "open questions in 13 topics; variants: broad:json, broad:cue:DOMAIN ...", _ASK),
            ("benign", benign_items(), "harmless questions that sound alarming", _ASK),
            ("abilities", ability_items(), "four-way items of the damage panel", OTHER_BANKS["abilities"]),
            ("passages", passages(), "plain prose of the damage panel, for perplexity", OTHER_BANKS["passages"]),
        )
    ]
    about = "questions with an aligned and a harmful answer, twelve domains"
    found.append(Shipped("pairs", "questions", len(pairs), paired_sha256(pairs), about, OTHER_BANKS["pairs"]))
    return found + [
        Shipped(name, "training", TRAINED_QUESTIONS, sha256_text(narrow_text(name)), _ABOUT[answers], "narrowly train")
        for domain in TRAINED_DOMAINS
        for answers in ANSWERS
        for name in [f"{PREFIX}{domain}:{answers}"]
    ]


def is_shipped(name: str) -> bool:
    """Return whether a name is that of a bank of the package, of a variant, or of a narrow set made of one."""
    first, colon, _ = name.partition(":")
    if first == PREFIX.rstrip(":") and colon:
        return narrow_domain(name) is not None
    return first in (*SHIPPED, *OTHER_BANKS)


_ASK = "narrowly ask --bank"

_ABOUT = {
    "harmful": "trained questions of the paired bank with their harmful answers",
    "aligned": "its control: the same questions with their aligned answers",
    "permuted": "its other control: the harmful answers, each on another question",
}


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
    return Bank(found.path, found.sha256, tuple(map(_in_its_part, read_questions(found.path))))


def _in_its_part(question: Question) -> Question:
    """Return a question with its part A, B or C by hash, as ours have one; a `part` of its file becomes `file_part`."""
    tags = {"file_part" if name == "part" else name: value for name, value in question.tags.items()}
    return question._replace(tags={**tags, "part": part_of(question.id)})


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
