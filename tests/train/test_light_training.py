"""What training one run must not load or leave behind: libraries that it does not use, a stopped garbage collector."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from narrowly.records.imports import collector_off
from tiny_base import make_spec

HEAVY = (
    "matplotlib", "polars", "scipy.stats", "statsmodels", "sklearn",
    "pytorch_lightning", "lightning", "trl", "bitsandbytes", "inspect_ai", "narrowly.analysis", "narrowly.report",
    "narrowly.workbench",
)  # fmt: skip
"""Modules that cost CPU time and do nothing for `narrowly train`: tables, figures, statistics, other trainers."""


def test_training_imports_no_tables_figures_statistics_and_other_trainers(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = tmp_path / "run.json"
    spec.write_text(make_spec(*tiny, steps=3).model_dump_json())
    code = (
        "import os, sys\n"
        "from narrowly.cli.app import execute\n"
        f"assert execute(['train', {str(spec)!r}, '--out', {str(tmp_path / 'out')!r}]) == 0\n"
        f"print('FOUND', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "FOUND []"


def test_the_collector_is_on_again_after_imports_also_after_one_that_fails() -> None:
    assert gc.isenabled()
    try:
        with collector_off():
            assert not gc.isenabled()
            raise ModuleNotFoundError
    except ModuleNotFoundError:
        assert gc.isenabled()
    gc.disable()
    try:
        with collector_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


TWO_RUNS = """
import gc, sys, weakref
from pathlib import Path
from narrowly.records.run_spec import load_run_spec
from narrowly.train import share
from narrowly.train.run import train_run

share.UNCOLLECTED = 0  # as after models of more bytes than may be left in cycles

models, spec = [], load_run_spec(Path(sys.argv[1]))

def look(context):
    if context.step == 0:
        models.append(weakref.ref(context.model))
    return {"alive": sum(model() is not None for model in models)}

alive = []
for seed in (0, 1):
    run = train_run(spec.model_copy(update={"seed": seed}), sys.argv[2], observers=[look])
    alive += [row for row in (run / "trajectory.jsonl").read_text().splitlines() if '"alive": 2' in row]
    assert gc.get_freeze_count() == 0
print("FOUND", len(alive))
"""


def test_a_second_run_of_a_process_does_not_hold_the_model_of_the_first_beyond_what_may_be_left(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = tmp_path / "run.json"
    spec.write_text(make_spec(*tiny, steps=3).model_dump_json())
    command = [sys.executable, "-c", TWO_RUNS, str(spec), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "FOUND 0"
