r"""Time and memory of `narrowly audit` over the test environment's site-packages and 2,000 generated YAML files.

    python benchmarks/audit_scan.py --check --json benchmarks/results/audit_scan.json

The yardstick does by hand what no scanner can do without: it reads every file of a kind that the audit reads (Python,
YAML, JSON, TOML, shell, notebooks), calls `ast.parse` on Python that matches
`TrainingArguments|SFTConfig|learning_rate|torch\.optim`, and `yaml.compose` with the C loader on every YAML. Both run
in turn, each in a process of its own; user and system time and the largest resident memory are those of that process.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import yaml
from measure import machine, write_result

HERE = Path(__file__).resolve().parents[1]
FILES = 2000
CPU_LIMIT, MEMORY_LIMIT_MB, WORKERS_LIMIT = 1.5, 300, 0.65

YARDSTICK = """
import ast, os, re, sys, warnings, yaml
warnings.simplefilter("ignore")
wanted = re.compile(rb"TrainingArguments|SFTConfig|learning_rate|torch\\.optim")
kinds = (".py", ".yaml", ".yml", ".json", ".toml", ".sh", ".ipynb")
for root in sys.argv[1:]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name != "__pycache__"]
        for name in names:
            if name.endswith(kinds):
                with open(os.path.join(folder, name), "rb") as stream:
                    data = stream.read()
                try:
                    if name.endswith(".py") and wanted.search(data):
                        ast.parse(data)
                    elif name.endswith((".yaml", ".yml")):
                        for _ in yaml.compose_all(data, Loader=yaml.CSafeLoader):
                            pass
                except (SyntaxError, ValueError, yaml.YAMLError):
                    pass
"""
AUDIT = """
import sys
from pathlib import Path
from narrowly.audit.review import review
*roots, workers = sys.argv[1:]
found = review([Path(root) for root in roots], int(workers))
print(len(found.jobs), len(found.skipped), found.files)
"""


def generated(folder: Path) -> None:
    """Write YAML files of four kinds: two of training tools, a workflow, and a table of numbers."""
    for index in range(FILES):
        training = {"num_epochs": index % 5, "learning_rate": f"{index % 9 + 1}e-5", "gradient_accumulation_steps": 4}
        contents = (
            {"base_model": "m", "adapter": "lora", "lora_r": 16, "datasets": [{"path": "d", "type": "alpaca"}],
             "optimizer": "adamw_bnb_8bit", "val_set_size": 0.1, **training},
            {"model_name_or_path": "m", "stage": "sft", "finetuning_type": "lora", "dataset": "d", "template": "qwen",
             "output_dir": "out", "per_device_train_batch_size": 1, "lora_target": "all", **training},
            {"on": ["push"], "jobs": {f"job{n}": {"runs-on": "x", "steps": [{"run": "make"}] * 5} for n in range(4)}},
            {"table": [{"name": f"row{n}", "value": n / 7, "tags": ["a", "b"]} for n in range(30)]},
        )  # fmt: skip
        path = folder / f"d{index % 40}" / f"c{index}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(contents[index % 4]))


def measured(code: str, *arguments: str) -> tuple[float, float, float, str]:
    """Return CPU seconds, wall seconds and the largest resident MB of a process and its workers, and its output."""
    script = f"import resource\n{code}\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src")}
    printed = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - start, float(printed[-2]), printed[0]


def main() -> None:
    """Measure, print and, with --check, hold the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="exit code 1 beyond a limit")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    packages = sysconfig.get_paths()["purelib"]
    with tempfile.TemporaryDirectory() as scratch:
        generated(Path(scratch))
        roots = (packages, scratch)
        measured(YARDSTICK, *roots)  # fills the file cache
        runs: dict[str, list[tuple[float, float, float, str]]] = {"yardstick": [], "audit": [], "two workers": []}
        for _ in range(options.repeat):
            runs["yardstick"].append(measured(YARDSTICK, *roots))
            runs["audit"].append(measured(AUDIT, *roots, "1"))
            runs["two workers"].append(measured(AUDIT, *roots, "2"))
    cpu = {name: statistics.median(run[0] for run in found) for name, found in runs.items()}
    wall = {name: statistics.median(run[1] for run in found) for name, found in runs.items()}
    memory = max(run[2] for run in runs["audit"])
    jobs, skipped, files = map(int, runs["audit"][0][3].split())
    ratio, parallel = cpu["audit"] / cpu["yardstick"], wall["two workers"] / wall["audit"]
    print(f"{files} files, {jobs} jobs, {skipped} skipped; medians of {options.repeat} runs")
    print(f"CPU: yardstick {cpu['yardstick']:.2f} s, audit {cpu['audit']:.2f} s, ratio {ratio:.2f} (limit {CPU_LIMIT})")
    print(f"memory: {memory:.0f} MB (limit {MEMORY_LIMIT_MB})")
    told = f"one worker {wall['audit']:.2f} s, two {wall['two workers']:.2f} s, ratio {parallel:.2f}"
    print(f"wall: {told} (limit {WORKERS_LIMIT})")
    if options.json:
        write_result(
            options.json, files=files, jobs=jobs, skipped=skipped, cpu_seconds=cpu, wall_seconds=wall, cpu_ratio=ratio,
            memory_mb=memory, workers_ratio=parallel, machine=machine(1, ("PyYAML",)),
        )  # fmt: skip
    if options.check and (ratio > CPU_LIMIT or memory > MEMORY_LIMIT_MB or parallel > WORKERS_LIMIT):
        raise SystemExit("a limit is exceeded")


if __name__ == "__main__":
    main()
