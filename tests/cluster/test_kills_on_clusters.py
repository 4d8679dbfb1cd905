"""Cells of the microworld on a real Slurm and a real Ray, killed at random, against the local engine.

Every cell is done once, and every result is the local engine's bit for bit. Skipped, with the reason, where a cluster
cannot be started.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters import (
    ENVIRONMENT_PATH,
    kill_at_random,
    no_ray,
    no_slurm,
    real_slurm,
    requeue,
    sigkill,
    start_narrowly,
)
from narrowly.records.files import read_json
from narrowly.runs.directory import run_directories, runs_folder

pytestmark = pytest.mark.slow

CELLS, KILLS = 24, 30
STUDY = {
    "name": "kills",
    "run": {
        "base": "micro-0",
        "steps": 6,
        "checkpoints": 2,
        "data": {"source": "micro", "domain": "rotate", "answers": "harmful", "rows": 80},
        "schedule": {"kind": "constant", "warmup_steps": 2},
    },
    "grid": {"seed": list(range(CELLS))},
    "arms": {"adam": {"role": "optimiser", "set": {"optimiser": {"kind": "adam", "lr": 3e-4}}}},
    "samples": 0,
}


def study_file(folder: Path) -> Path:
    path = folder / "kills.yaml"
    path.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return path


def content(out: Path) -> dict[str, bytes]:
    """Return every file of the runs that follows from their specs: no times, and nothing that says where they ran."""
    kept = {}
    for run in run_directories(runs_folder(out)):
        done = read_json(run / "done")
        kept[f"{run.name} weights"] = json.dumps(done["adapter_sha256"], sort_keys=True).encode()
        for file in [run / "trajectory.jsonl", *sorted(run.glob("evals/*/verdicts/*.parquet"))]:
            kept[file.relative_to(out).as_posix()] = file.read_bytes()
    return kept


def done_in(out: Path) -> Counter[str]:
    """Return how many tasks of Slurm have reported each cell as done by themselves."""
    counts: Counter[str] = Counter()
    for file in out.glob("kills/engine/tasks/*.result.json"):
        for cell in read_json(file).get("result") or ():
            counts[cell["cell_id"]] += cell["status"] == "done"
    return counts


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("reference")
    process = start_narrowly("run", study_file(folder), "--runs", folder / "out", "--json")
    output, errors = process.communicate(timeout=3600)
    assert process.returncode == 0, errors
    assert json.loads(output)["executed"] == CELLS
    return content(folder / "out")


def check(folder: Path, kills: Counter[str], process_output: tuple[str, str], reference: dict[str, bytes]) -> None:
    output, errors = process_output
    told = json.loads(output)
    print(f"\n{kills.total()} kills: {dict(kills)}; {told['executed']} cells executed, {len(told['failed'])} failed")
    assert kills.total() >= KILLS, errors
    assert (told["done"], told["failed"]) == (CELLS, [])
    assert told["executed"] <= CELLS, "one that was done when its job was put back counts as found"
    found = content(folder / "out")
    assert found.keys() == reference.keys()
    assert [name for name in found if found[name] != reference[name]] == []


def test_thirty_kills_on_a_real_slurm_change_nothing(
    tmp_path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = no_slurm()
    if reason is not None:
        pytest.skip(reason)
    with real_slurm(tmp_path / "slurm") as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        asked = ("partition=p", "poll_seconds=1", f"retries={2 * KILLS}", "cells=3", "minutes=60")
        options = [word for one in asked for word in ("--set", f"engine.{one}")]
        process = start_narrowly(
            "run", study_file(tmp_path), "--runs", tmp_path / "out", "--json", "--engine", "slurm", *options
        )
        ways: dict[str, Callable[[int], bool]] = {"SIGKILL": sigkill, "scontrol requeue": requeue}
        kills = kill_at_random(process, runs_folder(tmp_path / "out"), ways, KILLS, random.Random(17))
        check(tmp_path, kills, process.communicate(), reference)
        assert len(kills) == 2, "both ways were tried"
        counts = done_in(tmp_path / "out")
        assert set(counts.values()) <= {0, 1}


def new_node(cluster: Any) -> Any:
    """Add a node; Ray gives its processes 30 seconds, in which a busy machine may start none."""
    for _ in range(9):
        try:
            return cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        except Exception as error:
            assert "timed out" in str(error)
    return cluster.add_node(num_cpus=1, object_store_memory=100_000_000)


def test_thirty_kills_on_a_real_ray_of_several_nodes_change_nothing(
    tmp_path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = no_ray()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT_PATH)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
    try:
        nodes = [new_node(cluster)]

        def remove_node(pid: int) -> bool:
            """Remove a node with all that runs on it, and bring another."""
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.append(new_node(cluster))
            return True

        asked = (f"address={cluster.address}", f"retries={2 * KILLS}", "cells=3")
        options = [word for one in asked for word in ("--set", f"engine.{one}")]
        process = start_narrowly(
            "run", study_file(tmp_path), "--runs", tmp_path / "out", "--json", "--engine", "ray", *options
        )
        ways: dict[str, Callable[[int], bool]] = {f"SIGKILL {number}": sigkill for number in range(4)}
        ways["node removed"] = remove_node
        kills = kill_at_random(process, runs_folder(tmp_path / "out"), ways, KILLS, random.Random(43))
        check(tmp_path, kills, process.communicate(), reference)
        assert kills["node removed"] > 0
    finally:
        cluster.shutdown()
