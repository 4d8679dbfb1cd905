"""Rules on which optimiser and rate really run, and on who decides that."""

from __future__ import annotations

from collections.abc import Iterator

from narrowly.audit.optimiser_names import canonical_optimiser, family_of
from narrowly.audit.record import Job
from narrowly.audit.rules.fixes import muon_fix, penalty_fix, stated_fix
from narrowly.audit.rules.rule import RISK, Check, Compared, Hit, seen_at


def _family(job: Job, _: Compared) -> Iterator[Hit]:
    optimiser = job.value("optimiser")
    if family_of(optimiser) in ("adam", "lion") and "penalty" not in job.marks and job.kind != "hosted":
        fix = "\n".join(part for part in (penalty_fix(job), muon_fix(job)) if part)
        yield Hit(f"{optimiser} without a spectral penalty: {RISK}", seen_at(job["optimiser"]), fix)


def _implicit_optimiser(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["optimiser"]
    if found.provenance == "default" and job.kind != "hosted":
        spelled = f" ({found.raw})" if found.raw else ""
        yield Hit(
            f"no optimiser is stated: {found.value}{spelled} runs, {found.reason}", None, stated_fix(job, True, False)
        )


def _implicit_rate(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["learning_rate"]
    if found.provenance == "default" and found.value is not None and job.kind != "hosted":
        yield Hit(
            f"no learning rate is stated: {found.value} is taken, {found.reason}", None, stated_fix(job, False, True)
        )


def _unknown_optimiser(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["optimiser"]
    if not found.known and job.kind != "hosted" and "hosted" not in job.marks:
        yield Hit(f"which optimiser runs cannot be told: {found.reason}", seen_at(found))


def _unknown_rate(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["learning_rate"]
    if not found.known and job.kind not in ("hosted", "saved") and "hosted" not in job.marks:
        yield Hit(f"the learning rate cannot be told: {found.reason}", seen_at(found))


def _odd_name(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["optimiser"]
    if found.known and isinstance(found.value, str) and canonical_optimiser(found.value) is None:
        yield Hit(f"{found.value!r} is no optimiser that this audit knows; what it does is not judged", seen_at(found))


def _overridden(job: Job, _: Compared) -> Iterator[Hit]:
    declared, found = job.marks.get("declared_optimiser"), job["optimiser"]
    if "muon_not_on_lora" in job.marks:
        return  # MUON-NOT-MUON says which optimiser takes the factors
    if found.provenance == "overridden" and declared is not None and declared.value != found.value:
        runs, at = found.value if found.value is not None else "what this block names", seen_at(found)
        yield Hit(
            f"{declared.value} is declared{_place(declared.at)} and {runs} runs{_place(at)}: {found.reason}",
            at,
            _one_of_both(job),
        )


def _one_of_both(job: Job) -> str:
    """Return the change that leaves one optimiser: name the one that runs, or take out what wins."""
    declared, found = job.marks["declared_optimiser"], job["optimiser"]
    stated = f"state {found.value} where {declared.value} stands" if found.value is not None else ""
    wins = f"take out what stands at {found.at}" if found.at and found.at != declared.at else ""
    return ", or ".join(part for part in (stated, wins) if part)


def _rate_overridden(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["learning_rate"]
    rejected = job.marks.get("rejected")
    if found.provenance == "overridden" and not (rejected is not None and "learning_rate" in str(rejected.value)):
        yield Hit(f"learning rate {found.value} is taken: {found.reason}", seen_at(found))


def _hosted(job: Job, _: Compared) -> Iterator[Hit]:
    if job.kind == "hosted" or "hosted" in job.marks:
        mark = job.marks.get("hosted")
        host = mark.value if mark is not None and mark.value else job.tool
        if not job["optimiser"].known:
            yield Hit(f"{host} does not disclose its optimiser: it cannot be audited; evaluate the model instead", None)


def _ignored_key(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("ignored_key")
    if mark is not None:
        yield Hit(
            f"{mark.value} is set and never used: {mark.reason}",
            mark.at,
            f"take {mark.value} out, or what wins over it",
        )


def _rejected(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("rejected")
    if mark is not None:
        yield Hit(f"{job.tool} refuses this at start: {mark.reason or mark.value}", mark.at)


def _place(at: str | None) -> str:
    return f" ({at})" if at else ""


CHECKS: dict[str, Check] = {
    "OPT-FAMILY": _family,
    "OPT-IMPLICIT": _implicit_optimiser,
    "LR-IMPLICIT": _implicit_rate,
    "OPT-UNKNOWN": _unknown_optimiser,
    "LR-UNKNOWN": _unknown_rate,
    "OPT-UNLISTED": _odd_name,
    "OPT-OVERRIDDEN": _overridden,
    "LR-OVERRIDDEN": _rate_overridden,
    "OPT-HOSTED": _hosted,
    "KEY-IGNORED": _ignored_key,
    "TOOL-REJECTS": _rejected,
}
"""Function of each rule by its id; the texts stand in rules.yaml."""
