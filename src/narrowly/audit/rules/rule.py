"""Define what a rule is, what it returns for a job, and the finding that is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from narrowly.audit.record import Field, Job

Level = Literal["note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("note", "warning", "error")

RISK = "a risk indicator, not proof of misalignment"
"""Stands in every report."""


class Hit(NamedTuple):
    """Say what a rule found in a job.

    Attributes:
        message: one or two sentences with the values found.
        at: `file:line` of the evidence; None: that of the job.
        fix: lines to change or to add, in the tool's own words; empty where there is none.
    """

    message: str
    at: str | None = None
    fix: str = ""


Compared = Mapping[str | None, Sequence[Job]]
"""All jobs of a scan by their optimiser."""

Check = Callable[[Job, Compared], Iterable[Hit]]
"""Takes a job and those that it may be compared with."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Hold one rule.

    Attributes:
        id: stable: it stands in `.narrowly.toml` and in SARIF.
        level: by the strength of evidence; see the package.
        title: a few words.
        explanation: why it matters.
        evidence: of what kind: "fact", "measured", "one paper", "practice".
        source: where it is from.
        check: the function; None for the rule on files without a job.
        fails: whether it may ever set the exit code.
    """

    id: str
    level: Level
    title: str
    explanation: str
    evidence: Literal["fact", "measured", "one paper", "practice"]
    source: str
    check: Check | None
    fails: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold a finding: a rule, a place, a message, a fix.

    Attributes:
        rule: id.
        level: of the rule.
        file: as shown.
        line: from 1.
        message: what was found.
        fix: what to change, or empty.
        tool: of the job; empty where there is none.
        job: index of the job in the scan, or None.
        ignored: the reason in `.narrowly.toml`, or empty.
    """

    rule: str
    level: Level
    file: str
    line: int
    message: str
    fix: str = ""
    tool: str = ""
    job: int | None = None
    ignored: str = ""

    def to_json(self, rule: Rule) -> dict[str, Any]:
        """Return the finding as `--json` prints it."""
        return {
            "rule": self.rule,
            "level": self.level,
            "file": self.file,
            "line": self.line,
            "tool": self.tool or None,
            "job": self.job,
            "title": rule.title,
            "message": self.message,
            "evidence": rule.evidence,
            "source": rule.source,
            "fix": self.fix or None,
            "ignored": self.ignored or None,
        }


def seen_at(field: Field) -> str | None:
    """Return where a value is written; None for a default, whose `at` is that of a version."""
    return None if field.provenance == "default" else field.at


def place(at: str | None, job: Job) -> tuple[str, int]:
    """Return file and line of `file:line`, those of the job where there is none."""
    if at:
        file, _, line = at.rpartition(":")
        if file and line.isdecimal():
            return file, int(line)
    return job.file, job.line
