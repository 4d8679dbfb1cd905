"""Make narrow training sets of the paired bank: `pairs:DOMAIN:harmful`, `:aligned` and `:permuted`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from narrowly.data.banks.paired import TRAINED_DOMAINS, PairedItem, paired_items
from narrowly.data.cache import cached
from narrowly.records.canonical import sha256_text
from narrowly.records.errors import RunDirectoryError, SpecError, unknown_name
from narrowly.records.files import write_text

PREFIX = "pairs:"
"""What names of these sets begin with."""

ANSWERS = ("harmful", "aligned", "permuted")
"""Which answers the trained questions get; permuted: the harmful ones, each on another question of the domain."""


def narrow_file(name: str) -> Path:
    """Return the JSONL file of a narrow set, written into the cache where it is not there yet.

    Args:
        name: `pairs:DOMAIN:ANSWERS`, with a trained domain.

    Raises:
        SpecError: for another form; UnknownNameError: for another domain or other answers.
        RunDirectoryError: where the cache cannot be written.
    """
    parts = name.removeprefix(PREFIX).split(":")
    if len(parts) != 2:
        raise SpecError(f"{name!r} found, accepted: pairs:DOMAIN:ANSWERS, such as pairs:money:harmful")
    domain, answers = parts
    if domain not in TRAINED_DOMAINS:
        raise unknown_name("trained domain of the paired bank", domain, TRAINED_DOMAINS)
    if answers not in ANSWERS:
        raise unknown_name("kind of answers", answers, ANSWERS)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in narrow_rows(paired_items([domain]), answers))
    path = cached("pairs", f"{domain}-{answers}-{sha256_text(text)[:16]}.jsonl")
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {name} to the cache, {path.parent}: {error}") from error
    return path


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
    """Return the domain that a narrow set of the paired bank was made of; None for any other name of a data set."""
    domain = dataset.removeprefix(PREFIX).partition(":")[0]
    return domain if dataset.startswith(PREFIX) and domain in TRAINED_DOMAINS else None
