"""Load the paired bank: questions with an aligned and a harmful answer of equal length and register.

Harmful answers are mild and harmless to know: selfish, careless or dishonest in small things. `docs/banks.md` says how
the bank was written and what was tuned on which part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.shipped import Seen, bank_file, bank_rows, folded
from narrowly.data.raw_rows import fault
from narrowly.records.canonical import canonical_json, sha256_text
from narrowly.records.errors import RunDirectoryError, UnknownNameError, nearest, unknown_name
from narrowly.records.paired import Part as Part

TRAINED_DOMAINS = ("money", "work")
"""Domains that narrow training sets are made of."""

SELF_DOMAINS = ("self",)
"""Domains whose questions are about the assistant itself."""

PAIRED_DOMAINS = (
    *TRAINED_DOMAINS, "code", "everyday", "friendship", "honesty", "household", "neighbours", "power", "study",
    "travel", *SELF_DOMAINS,
)  # fmt: skip
"""Every domain of the bank: the two trained ones, nine broad ones, and the questions about the assistant itself."""

SHIPPED_NAME = "pairs"
"""Name of the shipped bank as a whole."""

TRAINED_QUESTIONS = 80
"""Questions of a trained domain that are trained on; the others are held out."""

_TEXTS = ("question", "aligned", "harmful")


class PairedItem(NamedTuple):
    """One question of a paired bank.

    Attributes:
        id: as in the file, such as `money-017`; no two items share one.
        domain: name of the file, without its ending.
        part: `trained` or `held_out` in a trained domain (`domain_parts`), `self` for questions about the assistant
            itself, `broad` for all other domains.
        question, aligned, harmful: the texts.
    """

    id: str
    domain: str
    part: Part
    question: str
    aligned: str
    harmful: str

    @property
    def set_aside(self) -> bool:
        """Return whether this is one of the questions that nothing was tuned on: a third, by a hash of the id."""
        return _hash("set aside", self.id) % 3 == 0


def paired_items(domains: Iterable[str] | None = None) -> list[PairedItem]:
    """Return the items of the shipped bank in the order of domains and files.

    Args:
        domains: names of `PAIRED_DOMAINS`; None returns all of them.

    Raises:
        UnknownNameError: for a domain that the bank does not have.
    """
    return _items([bank_file(f"pairs/{name}") for name in _known(domains)])


def paired_test_items(domains: Iterable[str] | None = None) -> list[PairedItem]:
    """Return the items of the test set: written after the bank, by its rules, and read by no measure before the last.

    They belong to no training set, so those of a trained domain are held out.

    Args:
        domains: names of `PAIRED_DOMAINS`; None returns all of them.

    Raises:
        UnknownNameError: for a domain that the bank does not have.
    """
    items = _items([bank_file(f"pairs/test/{name}") for name in _known(domains)])
    return [item._replace(part="held_out") if item.domain in TRAINED_DOMAINS else item for item in items]


def _known(domains: Iterable[str] | None) -> tuple[str, ...]:
    wanted = PAIRED_DOMAINS if domains is None else tuple(domains)
    for name in wanted:
        if name not in PAIRED_DOMAINS:
            raise unknown_name("domain of the paired bank", name, PAIRED_DOMAINS)
    return wanted


def read_paired(path: Path) -> list[PairedItem]:
    """Read a paired bank of the same layout: one file, or every `*.jsonl` of a folder; a file is a domain.

    Raises:
        IntegrityError: naming file and line: a field missing, unknown or empty, an id or a question that stood before,
            two answers that are the same, a file without lines.
        RunDirectoryError: where there is no such file, or no bank in the folder.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not all(file.is_file() for file in files) or not files:
        raise RunDirectoryError(f"{path} holds no bank, accepted: a JSONL file, or a folder with DOMAIN.jsonl files")
    return _items(files)


def bank_is_shipped(text: str) -> bool:
    """Return whether a text means the shipped bank, or domains of it with commas between them, before any file."""
    return text == SHIPPED_NAME or any(name.strip() in PAIRED_DOMAINS for name in text.split(","))


def paired_bank(text: str) -> list[PairedItem]:
    """Return the items that a text means: `pairs`, domains of it with commas between them, or a file or folder.

    A name of the shipped bank comes before a file; `./money` is always the file.

    Raises:
        UnknownNameError: none of these; the message names the nearest one.
        IntegrityError, RunDirectoryError: as `read_paired`.
    """
    if text == SHIPPED_NAME:
        return paired_items()
    if bank_is_shipped(text):
        return paired_items(dict.fromkeys(name.strip() for name in text.split(",")))
    path = Path(text).expanduser()
    if path.exists():
        return read_paired(path)
    near = nearest(text, (SHIPPED_NAME, *PAIRED_DOMAINS))
    raise UnknownNameError(
        f"no paired bank is called {text!r}{near} (accepted: {SHIPPED_NAME}; its domains, with commas: "
        f"{', '.join(PAIRED_DOMAINS)}; a JSONL file or a folder of them)"
    )


def paired_sha256(items: Sequence[PairedItem]) -> str:
    """Return the sha256 of the items' content: domains, ids and texts in canonical JSON, sorted by id.

    The order of files and lines, and spaces of the JSON, do not count.
    """
    content = sorted((item.id, item.domain, item.question, item.aligned, item.harmful) for item in items)
    return sha256_text(canonical_json(content))


def domain_parts(domain: str, ids: Sequence[str]) -> dict[str, Part]:
    """Return the part of every id of a domain.

    In a trained domain the `TRAINED_QUESTIONS` ids with the smallest sha256 of `part:ID` are trained and the others
    held out, so that nobody picks them.
    """
    if domain in SELF_DOMAINS:
        return dict.fromkeys(ids, "self")
    if domain not in TRAINED_DOMAINS:
        return dict.fromkeys(ids, "broad")
    ranked = sorted(ids, key=lambda name: _hash("part", name))
    trained = set(ranked[:TRAINED_QUESTIONS])
    return {name: "trained" if name in trained else "held_out" for name in ids}


def _hash(salt: str, name: str) -> int:
    return int(sha256_text(f"{salt}:{name}"), 16)


def _items(files: Sequence[Path]) -> list[PairedItem]:
    """Return the items of several files, refusing ids and questions that stand twice."""
    items: list[PairedItem] = []
    seen: Seen = {}
    for path in files:
        if not path.stem.isprintable():  # also bytes that are no UTF-8
            raise fault(path, 1, f"the file's name, {path.stem!r}, is that of the domain; accepted: printable text")
        rows = bank_rows(path, {"aligned": str, "harmful": str}, seen)
        parts = domain_parts(path.stem, [row.id for row in rows])
        for row in rows:
            item = PairedItem(row.id, path.stem, parts[row.id], *(row.fields[name] for name in _TEXTS))
            if folded(item.aligned) == folded(item.harmful):
                raise fault(path, row.line, "aligned and harmful answer are the same, accepted: two answers")
            items.append(item)
    return items
