"""Read `.narrowly.toml`: which findings are ignored where, each with its reason.

[audit]
fail-on = "warning"          # note, warning, error, never; the command line wins

[[audit.ignore]]
rule = "OPT-IMPLICIT"        # or "*"
path = "examples/*"          # glob on the path as shown; left out: everywhere
reason = "demonstrations"    # required
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from narrowly.audit.rules.registry import rule_of
from narrowly.audit.rules.rule import Finding
from narrowly.records.errors import SpecError, unknown_name

NAME = ".narrowly.toml"
FAIL_ON = ("note", "warning", "error", "never")


@dataclass(frozen=True, slots=True)
class Ignore:
    """Hold one entry: a rule, a glob and the reason."""

    rule: str
    path: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Say whether a finding is one that this entry ignores."""
        return self.rule in ("*", finding.rule) and (not self.path or fnmatchcase(finding.file, self.path))


@dataclass(frozen=True, slots=True)
class Settings:
    """Hold what `.narrowly.toml` says; `file` is empty where there is none."""

    ignores: tuple[Ignore, ...] = ()
    fail_on: str | None = None
    file: str = ""

    def applied(self, found: Iterable[Finding]) -> list[Finding]:
        """Return the findings, those that are ignored with the reason."""
        return [
            next((replace(one, ignored=ignore.reason) for ignore in self.ignores if ignore.covers(one)), one)
            for one in found
        ]


def read_settings(paths: Iterable[Path]) -> Settings:
    """Read the nearest `.narrowly.toml`: in the first PATH, or in a folder above it, or in the current one.

    Raises:
        SpecError: not TOML, an unknown key or rule, or an entry without a reason.
    """
    for path in paths:
        start = path.absolute() if path.is_dir() else path.absolute().parent
        for folder in (start, *start.parents):
            file = folder / NAME
            if file.is_file():
                return _read(file)
    here = Path(NAME)
    return _read(here) if here.is_file() else Settings()


def _read(file: Path) -> Settings:
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SpecError(f"{file}: {error}") from None
    audit = said.get("audit", {})
    if not isinstance(audit, dict):
        raise SpecError(f"{file}: [audit] is not a table")
    for key in audit:
        if key not in ("ignore", "fail-on"):
            raise unknown_name(f"key in [audit] of {file}", key, ("ignore", "fail-on"))
    fail_on = audit.get("fail-on")
    if fail_on is not None and fail_on not in FAIL_ON:
        raise unknown_name(f"fail-on in {file}", str(fail_on), FAIL_ON)
    entries = audit.get("ignore", [])
    if not isinstance(entries, list):
        raise SpecError(f"{file}: write each entry as [[audit.ignore]]")
    return Settings(tuple(_ignore(entry, file) for entry in entries), fail_on, str(file))


def _ignore(entry: Any, file: Path) -> Ignore:
    if not isinstance(entry, dict):
        raise SpecError(f"{file}: write each entry as [[audit.ignore]]")
    for key in entry:
        if key not in ("rule", "path", "reason"):
            raise unknown_name(f"key in [[audit.ignore]] of {file}", key, ("rule", "path", "reason"))
    rule, path, reason = (entry.get(key, "") for key in ("rule", "path", "reason"))
    if not all(isinstance(part, str) for part in (rule, path, reason)) or not rule:
        raise SpecError(f"{file}: an [[audit.ignore]] needs rule (an id or '*'), and may have path; all are texts")
    if not reason.strip():
        raise SpecError(f"{file}: [[audit.ignore]] of {rule} has no reason; say why it is ignored")
    return Ignore(rule if rule == "*" else rule_of(rule).id, path, reason)
