"""Review paths: scan them, apply the rules and the ignores, and say what the exit code is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrowly.audit.record import Job, Skip
from narrowly.audit.rules.registry import findings, pickles, rules
from narrowly.audit.rules.rule import LEVELS, Finding
from narrowly.audit.scan import scan
from narrowly.audit.settings import Settings, read_settings


@dataclass(frozen=True, slots=True)
class Review:
    """Hold what a review found.

    Attributes:
        jobs: in the order of the files.
        findings: in the order of the jobs, those that are ignored with the reason.
        skipped: files that were not read or not understood.
        files: files that were read.
        settings: of `.narrowly.toml`.
        prefix: what stands before paths as shown to make them paths from the current folder.
    """

    jobs: list[Job]
    findings: list[Finding]
    skipped: list[Skip]
    files: int
    settings: Settings
    prefix: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "jobs": [job.to_json() for job in self.jobs],
            "findings": [finding.to_json(rules()[finding.rule]) for finding in self.findings],
            "skipped": [skip.to_json() for skip in self.skipped],
        }

    def fails(self, level: str) -> list[Finding]:
        """Return the findings at a level or above that may set the exit code and are not ignored."""
        if level == "never":
            return []
        counted = LEVELS[[*LEVELS].index(level) :]  # type: ignore[arg-type]  # one of LEVELS
        return [one for one in self.findings if one.level in counted and rules()[one.rule].fails and not one.ignored]

    def exit_code(self, level: str, strict: bool = False) -> int:
        """Return 0 where nothing is at the level or above, else 1; `strict`: also 1 where something was skipped."""
        return 1 if self.fails(level) or (strict and self.skipped) else 0


def review(paths: Sequence[Path], workers: int = 1) -> Review:
    """Review folders and files.

    Args:
        paths: what to scan.
        workers: processes.

    Raises:
        SpecError: a path that cannot be reviewed, or a broken `.narrowly.toml`.
    """
    settings = read_settings(paths)
    found = scan(paths, workers)
    all_findings = [*findings(found.jobs), *pickles(found.pickles)]
    prefix = (
        f"{paths[0].as_posix().rstrip('/')}/" if len(paths) == 1 and paths[0].is_dir() and paths[0] != Path() else ""
    )
    return Review(found.jobs, settings.applied(all_findings), found.skipped, found.files, settings, prefix)
