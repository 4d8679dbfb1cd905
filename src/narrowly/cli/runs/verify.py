"""`narrowly verify`: compare every hash of a folder of runs with its record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson
from narrowly.cli.terminal import console, print_json, safe, say, table

EXAMPLES = """\b
Examples:
  narrowly verify
  narrowly verify /data/out
  narrowly verify out --json

Read: spec, inputs and run-id, the weights of every checkpoint, the state to go on from, edits, the ends of verdict
files. Nothing is changed. A run that works meanwhile may be shown as damaged; look again.

Exit codes: 0 all is as recorded, 1 something is missing, foreign or damaged, 2 no folder of runs.
"""


def command(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder of runs and studies.")] = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Check every hash of a tree of runs: what is missing, foreign or damaged."""
    from narrowly.cli.progress import bar
    from narrowly.runs.directory import runs_folder
    from narrowly.runs.verify import entries, verify_entry

    paths = entries(runs_folder(out))
    checked = []
    with bar() as progress:
        shown = progress.add_task("comparing hashes", total=len(paths), note="")
        for path in paths:
            checked.append(verify_entry(path))
            progress.advance(shown)
    faults = [fault for one in checked for fault in one.faults]
    done = sum(one.done for one in checked)
    hashes = sum(one.hashes for one in checked)
    if as_json:
        listed = [{"kind": one.kind, "path": str(one.path), "what": one.what} for one in faults]
        print_json({"runs": len(checked), "done": done, "hashes": hashes, "faults": listed})
        return 1 if faults else 0
    if faults:
        rows = ((one.kind, safe(one.path, 1000), safe(one.what)) for one in faults)
        console().print(table(("what", "path", "why"), rows))
    say(
        f"{len(checked)} runs, {done} of them done, {hashes} hashes and records compared: "
        + (f"{len(faults)} faults" if faults else "all is as recorded"),
        "red" if faults else "",
    )
    return 1 if faults else 0
