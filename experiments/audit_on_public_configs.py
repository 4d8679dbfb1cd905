"""How often `narrowly audit` finds the training jobs of public files, and reads their settings right.

`tests/audit/public_configs.jsonl` names public files by repository, path, commit and sha256, with what each would
really run, labelled by hand from the tools' own sources. The files are not ours and are not here. This script fetches
nothing: it takes a folder that holds the files by the name of their sha256, checks each, lays them out in a temporary
folder at their path in the repository with the files labelled `beside` them, and audits that folder once.

A job is found where a job of that file is reported. A field is right where its value is one of those labelled, and the
label "unknown" asks for an unknown. Of several jobs in a file each label takes the reported one that fits best. Every
fourth file by its sha256 is held out: nobody who writes detectors reads its misses; `--held-out` gives their rates.

    python experiments/audit_on_public_configs.py FOLDER [--held-out] [--json OUT]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).parents[1] / "tests" / "audit" / "public_configs.jsonl"
FIELDS = (
    "optimiser", "learning_rate", "epochs", "max_steps", "weight_decay", "scheduler", "lora_r", "lora_alpha",
    "lora_dropout",
)  # fmt: skip


class Verdict(NamedTuple):
    """One label against what the audit says: field is "job" for the job itself."""

    tool: str
    file: str
    field: str
    expected: Any
    found: Any
    right: bool


def rows(held_out: bool) -> list[dict[str, Any]]:
    """Return the rows of the table: those held out, or all others."""
    every = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    return [row for row in every if is_held_out(row["sha256"]) == held_out]


def is_held_out(sha256: str) -> bool:
    """Say whether a file is kept from the authors of detectors: every fourth by its hash."""
    return int(sha256[:8], 16) % 4 == 0


def same(expected: Any, found: dict[str, Any]) -> bool:
    """Say whether a field of `--json` has the labelled value, or one of the labelled values."""
    if isinstance(expected, list):
        return any(same(one, found) for one in expected)
    if expected == "unknown":
        return found["provenance"] == "unknown"
    value = found["value"]
    if isinstance(expected, int | float) and not isinstance(value, bool | str | list | dict) and value is not None:
        return abs(expected - value) <= 1e-9 * max(abs(expected), abs(value))
    return bool(value == expected)


def lay_out(table: list[dict[str, Any]], files: Path, root: Path) -> None:
    """Write each row's file, and those beside it, below a folder of its own; refuse what is not the file labelled."""
    for number, row in enumerate(table):
        for wanted in (row, *row.get("beside", [])):
            source = files / wanted["sha256"]
            content = source.read_bytes()
            if hashlib.sha256(content).hexdigest() != wanted["sha256"]:
                sys.exit(f"{source} is not the file that the table names")
            target = root / f"{number:04}" / wanted["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def audit(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Run the command on the folder and return the jobs by the path of their file below it."""
    command = [sys.executable, "-c", "from narrowly.cli.app import main; main()", "audit", str(root), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        sys.exit(done.stderr or f"the audit ended with {done.returncode}")
    jobs = defaultdict(list)
    for job in json.loads(done.stdout)["jobs"]:
        path = Path(job["file"])
        jobs[str(path.relative_to(root) if path.is_absolute() else path)].append(job)
    return jobs


def judge_row(number: int, row: dict[str, Any], reported: dict[str, list[dict[str, Any]]]) -> list[Verdict]:
    """Compare one row's labels with the jobs reported for its file."""
    file = f"{row['repository']}/{row['path']}"
    jobs = list(reported.get(f"{number:04}/{row['path']}", []))
    if not row["jobs"]:
        return [Verdict("no job", file, "job", "none", [job["tool"] for job in jobs], not jobs)]
    verdicts = []
    for labels in row["jobs"]:
        tool = labels["tool"] if isinstance(labels["tool"], str) else labels["tool"][0]
        verdicts.append(Verdict(tool, file, "job", "a job", len(jobs), bool(jobs)))
        if not jobs:
            continue
        best = max(jobs, key=lambda job: sum(verdict.right for verdict in judge_job(tool, file, labels, job)))
        jobs.remove(best)
        jobs = jobs or [best]
        verdicts += judge_job(tool, file, labels, best)
    return verdicts


def judge_job(tool: str, file: str, labels: dict[str, Any], job: dict[str, Any]) -> list[Verdict]:
    """Compare the labels of one job with one reported job, field by field."""
    accepted = labels["tool"] if isinstance(labels["tool"], list) else [labels["tool"]]
    verdicts = [Verdict(tool, file, "tool", accepted, job["tool"], job["tool"] in accepted)]
    for name in FIELDS:
        if name in labels:
            found = job[name]
            shown = found["value"] if found["provenance"] != "unknown" else f"unknown ({found.get('reason')})"
            verdicts.append(Verdict(tool, file, name, labels[name], shown, same(labels[name], found)))
    return verdicts


def shares(verdicts: list[Verdict], field: str) -> str:
    """Return "right / judged" of a field, "-" where nothing was judged."""
    right = [verdict.right for verdict in verdicts if verdict.field == field]
    return f"{sum(right)}/{len(right)}" if right else "-"


def print_rates(verdicts: list[Verdict]) -> None:
    """Print right / judged for every tool and field, then over all."""
    columns = ("job", "tool", *FIELDS)
    by_tool = defaultdict(list)
    for verdict in verdicts:
        by_tool[verdict.tool].append(verdict)
    by_tool["all jobs"] = [verdict for verdict in verdicts if verdict.tool != "no job"]
    for field in ("optimiser", "learning_rate"):
        own = [verdict for verdict in by_tool["all jobs"] if verdict.field == field]
        allowed = [one for one in own if isinstance(one.expected, list) and "unknown" in one.expected]
        told = sum(not str(one.found).startswith("unknown") for one in allowed)
        print(f"{field}: {len(allowed)} of {len(own)} labels accept a value or unknown; {told} of those got the value")
    print(f"{'':16}" + "".join(f"{column[:9]:>10}" for column in columns))
    for tool, own in by_tool.items():
        print(f"{tool:16}" + "".join(f"{shares(own, column):>10}" for column in columns))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", type=Path, help="folder of the files, each named by its sha256")
    arguments.add_argument("--held-out", action="store_true", help="judge the held-out files, misses not shown")
    arguments.add_argument("--json", type=Path, help="write every verdict to this file")
    given = arguments.parse_args()
    table = [
        row
        for row in rows(given.held_out)
        if all((given.files / one["sha256"]).is_file() for one in (row, *row.get("beside", [])))
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        lay_out(table, given.files, root)
        reported = audit(root)
        verdicts = [verdict for number, row in enumerate(table) for verdict in judge_row(number, row, reported)]
    print(f"{len(table)} of {len(rows(given.held_out))} files at hand, {'held out' if given.held_out else 'open'}")
    print_rates(verdicts)
    if not given.held_out:
        for verdict in verdicts:
            if not verdict.right:
                print(f"{verdict.tool}: {verdict.file}: {verdict.field}: {verdict.found!r}, not {verdict.expected!r}")
    if given.json:
        given.json.write_text(json.dumps([verdict._asdict() for verdict in verdicts], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
