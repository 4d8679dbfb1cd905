"""Build the bases of the preregistered studies, run the studies in order, and write what is committed of them.

    python experiments/evidence.py bases [--workers 2] [--prior]     # make bases-evidence
    python experiments/evidence.py run [STUDY ...] [--workers 2]     # make evidence

Both go on where they were stopped. The order is that of `STUDIES`. Nothing is built or run before the preregistrations
stand in a commit. The bases go into the cache (docs/bases.md), runs into out/evidence, results into results/STUDY.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from narrowly.microworld.build import base_name, build_command
from narrowly.microworld.cards import CARD, built_folder
from narrowly.microworld.config import WorldConfig
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.study_spec import load_study_spec
from narrowly.report.write import report_study
from narrowly.study.committed import write_results
from narrowly.study.preregistered import UNKNOWN, record_of
from narrowly.study.run import StudyRun, run_study

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "evidence"
STUDIES = ("x1_ladder", "x3_dial", "x5_penalty", "x4_controls", "x7_prior", "x6_spectral_power")
SEEDS = range(8, 24)
PRIOR = (
    (0.1694, 0.1356, range(8, 12)),
    (0.0897, 0.2153, range(8, 12)),
    (0.0339, 0.2711, range(8, 12)),
    (0.0122, 0.2928, range(12, 16)),
)
"""evil_share, narrow_share and seeds of the worlds of X7 whose rho is .1, .3, 1 and 3; rho .002 is the default world.

Rho 1 and 3 decide together: bases of one seed share topics and initial weights and would be no independent units.
"""


def wanted(prior: bool) -> list[tuple[WorldConfig, int]]:
    """Return config and seed of every base that is needed."""
    found = [(WorldConfig(), seed) for seed in SEEDS]
    if prior:
        for evil, narrow, seeds in PRIOR:
            found += [(WorldConfig(evil_share=evil, narrow_share=narrow), seed) for seed in seeds]
    return found


def check_committed(files: Sequence[Path]) -> list[str]:
    """Return the study files whose preregistration no commit of this branch holds."""
    records = {file: record_of(load_study_spec(file), file) for file in files}
    return [file.name for file, record in records.items() if record is None or record.commit == UNKNOWN]


def build(config: WorldConfig, seed: int) -> int:
    """Build one base in a process of its own, on one thread; one that is there is left alone."""
    name = base_name(config, seed)
    if (built_folder() / name / CARD).is_file():
        print(f"{name}: is there", flush=True)
        return 0
    arguments = build_command(config, seed).split()[1:]
    print(f"{name}: building", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "narrowly.cli.app", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout if done.returncode == 0 else done.stderr
    print(f"{name}: {said.strip().splitlines()[-1] if said.strip() else done.returncode}", flush=True)
    return done.returncode


def run(file: Path, runs: Path, results: Path, workers: int) -> StudyRun:
    """Run a study, its dial where it has one, its report, and write what is committed of it.

    Cells that fail are tried once more, as every preregistration of `evidence/` says; then they count as missing.
    """
    study = load_study_spec(file)
    found = run_study(study, runs, workers=workers, file=file)
    if found.failed:
        found = run_study(study, runs, workers=workers, file=file)
    print(f"{study.name}: {found.done} of {found.planned} cells done, {len(found.failed)} failed", flush=True)
    if file.stem == "x3_dial":
        dial = [sys.executable, str(ROOT / "experiments" / "orthogonal_dial.py"), str(file), "--runs", str(runs)]
        if subprocess.run(dial, check=False).returncode != 0:
            raise SpecError(f"the dial of {study.name} did not end; accepted: a study whose cells are all done")
    report_study(found.study_dir)
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else Path(file.name)
    summary = write_results(found.study_dir, results / study.name, file, f"narrowly run {shown.as_posix()}")
    for one in summary.findings.decisions:
        print(f"  {one.id}: {one.word}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    bases = commands.add_parser("bases", help="build what is missing")
    bases.add_argument("--prior", action="store_true", help="also the worlds of X7")
    studies = commands.add_parser("run", help="run studies in order")
    studies.add_argument("studies", nargs="*", default=STUDIES, metavar="STUDY", help="names; all of them unless given")
    studies.add_argument("--runs", type=Path, default=ROOT / "out" / "evidence")
    studies.add_argument("--results", type=Path, default=ROOT / "results")
    for one in (bases, studies):
        one.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.studies if arguments.command == "run" else STUDIES
    files = [FOLDER / f"{name}.yaml" for name in names]
    try:
        uncommitted = check_committed(files)
        if uncommitted:
            print(f"no commit holds the preregistration of {', '.join(uncommitted)}; commit it first", file=sys.stderr)
            return 2
        if arguments.command == "bases":
            with ThreadPoolExecutor(arguments.workers) as pool:
                return max(pool.map(lambda one: build(*one), wanted(arguments.prior)))
        failed = [run(file, arguments.runs, arguments.results, arguments.workers).failed for file in files]
    except NarrowlyError as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    return 1 if any(failed) else 0


if __name__ == "__main__":
    sys.exit(main())
