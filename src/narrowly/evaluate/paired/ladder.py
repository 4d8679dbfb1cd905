"""Put the questions of the paired bank on the ladder of one training: trained, held-out, broad, self."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from narrowly.data.banks.narrow import PREFIX, narrow_domain, narrow_set
from narrowly.data.banks.paired import PairedItem
from narrowly.records.errors import IntegrityError
from narrowly.records.paired import LADDER, PairedRow, Part
from narrowly.records.run_spec import RunSpec


def trained_domains(spec: RunSpec) -> tuple[str, ...]:
    """Return the domains of the paired bank that a run was trained on; none where its data are others."""
    domain = narrow_domain(getattr(spec.data, "dataset", ""))
    return () if domain is None else (domain,)


def trained_on(spec: RunSpec) -> str | None:
    """Return the name of the data set of a run, without the folder of a file; None where its data have no name."""
    dataset = getattr(spec.data, "dataset", None)
    if dataset is None:
        return None
    if dataset.startswith(PREFIX):
        found = narrow_set(dataset)
        return found._replace(domain=Path(found.domain).name).with_answers(found.answers)
    return Path(dataset).name


def rung_of(row: PairedRow, trained: Collection[str]) -> Part:
    """Return the rung of a question for a training on these domains; every other domain but the self is broad.

    The bank's own parts are those of a training on all of its trained domains, of which a run takes one. Of a domain
    that is a file of pairs, every question is trained on.
    """
    if row.domain in trained:
        return "trained" if row.part == "broad" else row.part
    return "self" if row.part == "self" else "broad"


def rungs_of(rows: Sequence[PairedRow], trained: Collection[str]) -> dict[str, list[int]]:
    """Return the places of the rows on each rung that has any, in the ladder's order."""
    places: dict[str, list[int]] = {rung: [] for rung in LADDER}
    for place, row in enumerate(rows):
        places[rung_of(row, trained)].append(place)
    return {rung: found for rung, found in places.items() if found}


def domains_of(rows: Sequence[PairedRow | PairedItem]) -> dict[str, list[int]]:
    """Return the places of the rows of each domain, in the rows' order."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.domain, []).append(place)
    return places


def check_same_questions(arms: Sequence[tuple[str, Sequence[PairedRow]]]) -> None:
    """Refuse arms that are not rows of the same questions in one order: nothing is paired by hope.

    Raises:
        IntegrityError: naming two arms and the first question that differs.
    """
    (first, rows), *others = arms
    for name, other in others:
        if len(other) != len(rows):
            raise IntegrityError(f"{first} has {len(rows)} questions, {name} has {len(other)}; accepted: the same ones")
        for one, another in zip(rows, other, strict=True):
            if (one.id, one.domain, one.part) != (another.id, another.domain, another.part):
                raise IntegrityError(
                    f"question {one.id!r} of {first} stands where {name} has {another.id!r}; accepted: the same "
                    "questions in one order"
                )
