"""Join the rules and apply them to the jobs of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from narrowly.audit.record import Job
from narrowly.audit.rules import dose, muon, optimiser
from narrowly.audit.rules.rule import Check, Finding, Rule, place
from narrowly.records.errors import unknown_name

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CHECKS: dict[str, Check] = {**optimiser.CHECKS, **muon.CHECKS, **dose.CHECKS}
PICKLE = "PICKLE-UNREAD"
"""The one rule that looks at files without a job; `pickles` makes its findings."""


@cache
def rules() -> dict[str, Rule]:
    """Return every rule by id, in the order of print: the texts of `rules.yaml` with their functions."""
    loader = _Loader((files("narrowly.audit.rules") / "rules.yaml").read_text(encoding="utf-8"))
    try:
        said = loader.get_single_data()
    finally:
        loader.dispose()
    return {
        one["id"]: Rule(
            one["id"], one["level"], one["title"], one["explanation"], one["evidence"], one["source"],
            _CHECKS.get(one["id"]), one.get("fails", True),
        )
        for one in said
    }  # fmt: skip


def findings(jobs: Sequence[Job]) -> list[Finding]:
    """Apply every rule to every job; the order is that of the jobs, then of the rules."""
    found = []
    compared: dict[str | None, list[Job]] = {}
    for job in jobs:
        name = job.value("optimiser")
        compared.setdefault(name if isinstance(name, str) else None, []).append(job)
    for index, job in enumerate(jobs):
        for rule in rules().values():
            for hit in rule.check(job, compared) if rule.check is not None else ():
                file, line = place(hit.at, job)
                found.append(Finding(rule.id, rule.level, file, line, hit.message, hit.fix, job.tool, index))
    return found


def pickles(met: Sequence[str]) -> list[Finding]:
    """Return a finding for each pickled file that was met and left alone."""
    message = "a pickle is not read; trainer_state.json and adapter_config.json beside it are"
    return [Finding(PICKLE, rules()[PICKLE].level, file, 1, message) for file in met]


def rule_of(name: str) -> Rule:
    """Return a rule by its id.

    Raises:
        UnknownNameError: with the nearest id.
    """
    if name.upper() not in rules():
        raise unknown_name("rule", name, rules())
    return rules()[name.upper()]
