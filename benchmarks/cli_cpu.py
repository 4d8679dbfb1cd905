"""CPU time of a finished micro study, and of 20 steps of a tiny Qwen3, in turn with those of an older commit.

    git worktree add /tmp/old 0ab7c7e
    python benchmarks/cli_cpu.py --old /tmp/old --repeat 3 --scratch /tmp/cli_cpu

Each build first does the micro study in a folder of its own (a few minutes). Then builds take turns; user and system
time of each command and of its workers are counted, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def package_of(tree: Path) -> str:
    """Return the package of a checkout, which had another name until November 2026."""
    return next(path.parent.parent.name for path in (tree / "src").glob("*/cli/app.py"))


def cpu_seconds(tree: Path, *arguments: str) -> float:
    """Return user and system seconds of one command of a checkout, its workers included."""
    code = f"from {package_of(tree)}.cli.app import main; main()"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print both commands of both builds, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="checkout of the older commit")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for studies and runs; kept")
    options = parser.parse_args()
    sys.path[:0] = [str(HERE / "tests" / "shared"), str(HERE / "src")]
    from tiny_base import SHORT_RUN, write_tiny

    scratch = options.scratch.resolve()
    base, rows = write_tiny(scratch / "tiny")
    spec = scratch / "run.json"
    spec.write_text(
        json.dumps({"base": str(base), "data": {"source": "rows", "path": str(rows)}, **SHORT_RUN, "steps": 20})
    )
    builds = {"old": options.old.resolve(), "new": HERE}
    found: dict[str, dict[str, list[float]]] = {what: {"old": [], "new": []} for what in ("finished study", "train")}
    for name, tree in builds.items():
        cpu_seconds(tree, "run", "micro", "--workers", "1", "--out", str(scratch / name))
    for turn in range(options.repeat):
        for name, tree in builds.items():
            study = cpu_seconds(tree, "run", "micro", "--workers", "1", "--out", str(scratch / name))
            trained = cpu_seconds(tree, "train", str(spec), "--out", str(scratch / f"train-{name}-{turn}"))
            found["finished study"][name].append(study)
            found["train"][name].append(trained)
    for what, seconds in found.items():
        old, new = (statistics.median(seconds[name]) for name in ("old", "new"))
        print(f"{what}: old {old:.2f} s, new {new:.2f} s, ratio {new / old:.3f}")


if __name__ == "__main__":
    main()
