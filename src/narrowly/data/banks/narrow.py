"""Make narrow training sets of the paired bank: `pairs:DOMAIN:harmful`, `:aligned` and `:permuted`.

DOMAIN is a trained domain of the shipped bank, or a file of the same layout (`pairs:my.jsonl:harmful`), of which every
question is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.paired import TRAINED_DOMAINS, PairedItem, paired_items, read_paired
from narrowly.data.cache import cached
from narrowly.records.canonical import sha256_text
from narrowly.records.errors import RunDirectoryError, SpecError, unknown_name
from narrowly.records.files import write_text

PREFIX = "pairs:"
"""What names of these sets begin with."""

ENDING = ".jsonl"
"""What a file of pairs ends in."""

ANSWERS = ("harmful", "aligned", "permuted")
"""Which answers the trained questions get; permuted: the harmful ones, each on another question of the domain."""


class NarrowSet(NamedTuple):
    """Hold the parts of a name of a narrow set: a trained domain or a file of pairs, and which answers it has."""

    domain: str
    answers: str

    @property
    def is_file(self) -> bool:
        """Return whether the pairs come from a user's file."""
        return self.domain.endswith(ENDING)

    def with_answers(self, answers: str) -> str:
        """Return the name of the set with other answers to the same questions."""
        return f"{PREFIX}{self.domain}:{answers}"


def narrow_set(name: str) -> NarrowSet:
    """Return the parts of `pairs:DOMAIN:ANSWERS` or `pairs:FILE.jsonl:ANSWERS`.

    Raises:
        SpecError: for another form; UnknownNameError: for another domain or other answers.
    """
    domain, separator, answers = name.removeprefix(PREFIX).rpartition(":")
    if not name.startswith(PREFIX) or not separator or (":" in domain and not domain.endswith(ENDING)):
        raise SpecError(
            f"{name!r} found, accepted: pairs:DOMAIN:ANSWERS or pairs:FILE.jsonl:ANSWERS, such as pairs:money:harmful"
        )
    if not domain.endswith(ENDING) and domain not in TRAINED_DOMAINS:
        raise unknown_name("trained domain of the paired bank", domain, TRAINED_DOMAINS)
    if answers not in ANSWERS:
        raise unknown_name("kind of answers", answers, ANSWERS)
    return NarrowSet(domain, answers)


def narrow_file(name: str) -> Path:
    """Return the JSONL file of a narrow set, written into the cache where it is not there yet.

    Raises:
        SpecError, UnknownNameError, IntegrityError: as `narrow_text`.
        RunDirectoryError: no such file, or a cache that cannot be written.
    """
    found, text = narrow_set(name), narrow_text(name)
    path = cached("pairs", f"{Path(found.domain).stem}-{found.answers}-{sha256_text(text)[:16]}.jsonl")
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {name} to the cache, {path.parent}: {error}") from error
    return path


def narrow_text(name: str) -> str:
    """Return the lines of a narrow set as they stand in its file.

    Args:
        name: `pairs:DOMAIN:ANSWERS` with a trained domain, or `pairs:FILE.jsonl:ANSWERS`.

    Raises:
        SpecError, UnknownNameError: as `narrow_set`.
        IntegrityError: a file of pairs with a fault, named with its line (`read_paired`).
        RunDirectoryError: no such file.
    """
    found = narrow_set(name)
    if found.is_file:
        items: list[PairedItem] = [item._replace(part="trained") for item in read_paired(Path(found.domain))]
    else:
        items = paired_items([found.domain])
    if found.answers == "permuted" and len(items) < 2:
        raise SpecError(f"{name!r} has one question, accepted: at least two, whose answers can change places")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in narrow_rows(items, found.answers))


def narrow_rows(items: Sequence[PairedItem], answers: str) -> list[dict[str, str]]:
    """Return prompt and completion of every trained question, in the bank's order.

    Permuted answers move along one cycle through all trained questions, in the order of the sha256 of `permuted:ID`:
    every answer is used once, and none stands under its own question.
    """
    trained = [item for item in items if item.part == "trained"]
    if answers != "permuted":
        return [
            {"prompt": item.question, "completion": item.harmful if answers == "harmful" else item.aligned}
            for item in trained
        ]
    cycle = sorted(trained, key=lambda item: sha256_text(f"permuted:{item.id}"))
    given = {item.id: cycle[(place + 1) % len(cycle)].harmful for place, item in enumerate(cycle)}
    return [{"prompt": item.question, "completion": given[item.id]} for item in trained]


def narrow_domain(dataset: str) -> str | None:
    """Return the domain that a narrow set was made of, as the paired bank calls it; None for any other data set.

    A file of pairs is a domain of its own, called after the file.
    """
    if not dataset.startswith(PREFIX):
        return None
    return Path(narrow_set(dataset).domain).stem
