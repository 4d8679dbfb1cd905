"""Print a review for people: the jobs, the findings, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from narrowly.audit.record import Field, Job
from narrowly.audit.review import Review
from narrowly.audit.rules.registry import rules
from narrowly.audit.rules.rule import RISK, Finding
from narrowly.cli.sheet import GAP, Sheet
from narrowly.cli.terminal import console, number, safe, say, table
from narrowly.records.errors import counted

MARK = {"explicit": "", "default": "*", "inherited": "^", "overridden": "!", "unknown": ""}
MOST_JOBS = 60
"""Jobs in the table; the rest is in --json."""

MOST_OF_A_RULE = 8
"""Findings of one rule that are printed one by one."""

STYLE = {"error": "red", "warning": "yellow", "note": ""}
LONGEST_PATH = 44
SHORTEST_PATH = 24


def say_review(review: Review, level: str, strict: bool, paths: Sequence[str]) -> None:
    """Print a review.

    Args:
        review: what was found.
        level: from which the exit code is 1.
        strict: whether skips count.
        paths: as they were given, for the commands that come next.
    """
    if not review.jobs:
        say(f"no training job was found in {counted(review.files, 'file')} that could declare one")
    else:
        say(
            f"{counted(len(review.jobs), 'training job')} in {counted(review.files, 'file')} that could declare one",
            "bold",
        )
        target = console()
        target.print(_table(review.jobs[:MOST_JOBS], target.width))
        if len(review.jobs) > MOST_JOBS:
            say(f"and {len(review.jobs) - MOST_JOBS} more: --json has all of them", "dim")
        say("* a default, ! another value wins over the declared one, ^ from another file, ? cannot be told", "dim")
    _say_findings(review)
    if review.skipped:
        say("")
        say(f"skipped: {counted(len(review.skipped), 'file')}", "dim")
        for skip in review.skipped[:MOST_OF_A_RULE]:
            say(f"  {safe(skip.file)}: {safe(skip.reason, 200)}", "dim")
        if len(review.skipped) > MOST_OF_A_RULE:
            say("  (--json has all of them)", "dim")
    _say_next(review, level, strict, paths)


def _table(jobs: Sequence[Job], width: int) -> Sheet:
    """Return the table of jobs; paths lose their beginnings where the terminal is narrower."""
    heads = ["where", "tool", "optimiser", "rate", "decay", "dose", "adapter"]
    rows = [_row(job) for job in jobs]
    taken = sum(GAP + max(map(len, column)) for column in zip(heads[1:], *rows, strict=True))
    left = max(SHORTEST_PATH, width - taken - max(len(f":{job.line}") for job in jobs))
    return table(heads, ([f"{_short(job.file, left)}:{job.line}", *row] for job, row in zip(jobs, rows, strict=True)))


def _row(job: Job) -> list[str]:
    return [
        job.tool,
        _shown(job["optimiser"]),
        _shown(job["learning_rate"]),
        _shown(job["weight_decay"]),
        _dose(job),
        _adapter(job),
    ]


def _short(file: str, longest: int = LONGEST_PATH) -> str:
    plain = safe(file)
    return plain if len(plain) <= longest else f"...{plain[3 - longest :]}"


def _shown(field: Field) -> str:
    if not field.known:
        return "?"
    value = field.value
    text = "-" if value is None else number(value) if isinstance(value, float) else safe(value, 28)
    return text + MARK[field.provenance]


def _dose(job: Job) -> str:
    steps, epochs = job["max_steps"], job["epochs"]
    if isinstance(steps.value, int | float) and steps.value > 0:
        return f"{_shown(steps)} steps"
    if not epochs.known or epochs.value is None:
        return "?"
    return f"{_shown(epochs)} epoch{'' if epochs.value == 1 else 's'}"


def _adapter(job: Job) -> str:
    rank = job["lora_r"]
    if rank.value is not None:
        return f"r {_shown(rank)}"
    adapter = job["adapter"]
    if adapter.known and adapter.value is not None:
        return _shown(adapter)
    return "none" if rank.known else "?"


def _say_findings(review: Review) -> None:
    open_ = [one for one in review.findings if not one.ignored]
    for level in ("error", "warning", "note"):
        of_level = [one for one in open_ if one.level == level]
        for rule in dict.fromkeys(one.rule for one in of_level):
            _say_rule([one for one in of_level if one.rule == rule], rule, level)
    ignored = Counter((one.rule, one.ignored) for one in review.findings if one.ignored)
    if ignored:
        say("")
        for (rule, reason), times in ignored.items():
            say(f"ignored: {rule} {times} {'time' if times == 1 else 'times'} ({safe(reason)})", "dim")


def _say_rule(found: Sequence[Finding], rule: str, level: str) -> None:
    """Print the findings of one rule: notes on one line, what is stronger one by one with its change."""
    title = rules()[rule].title
    if level == "note":
        places = list(dict.fromkeys(f"{_short(one.file)}:{one.line}" for one in found))
        shown = ", ".join(places[:2]) + (", ..." if len(places) > 2 else "")
        say(f"note {rule}: {title} ({counted(len(places), 'place')}: {shown})")
        return
    say("")
    say(f"{level} {rule}: {title}", STYLE[level])
    for one in found[:MOST_OF_A_RULE]:
        say(f"  {safe(one.file)}:{one.line}: {safe(one.message, 600)}")
        for line in one.fix.splitlines():
            say(f"      {safe_line(line)}", "dim")
    if len(found) > MOST_OF_A_RULE:
        say(f"  and {len(found) - MOST_OF_A_RULE} more: --json has all of them", "dim")


def safe_line(line: str) -> str:
    """Return a line of a change with its indent kept and nothing in it that acts on a terminal."""
    return " " * (len(line) - len(line.lstrip(" "))) + safe(line, 300)


def _say_next(review: Review, level: str, strict: bool, paths: Sequence[str]) -> None:
    failing, target = review.fails(level), " ".join(safe(path) for path in paths)
    say("")
    if failing:
        rule = failing[0].rule
        say(f"next: {counted(len(failing), 'finding')} at {level} or above; mend them as shown, or see why:", "bold")
        say(f"  narrowly audit {target} --explain {rule}")
    elif review.findings:
        rule = next((one.rule for one in review.findings if not one.ignored), "OPT-FAMILY")
        none = f"nothing at {level} or above; " if level != "never" else ""
        say(f"next: {none}what a finding means, and the change for each job:", "bold")
        say(f"  narrowly audit {target} --explain {rule}")
    elif not review.jobs:
        say("next: give the folder with the training script, its config or its launch script", "bold")
    if review.jobs:
        say("  narrowly eval MODEL  # what the fine-tuned model does decides, not its optimiser")
        say(f"Every finding is {RISK}.", "dim")
    if strict and review.skipped:
        say("--strict: skipped files set the exit code", "yellow")
