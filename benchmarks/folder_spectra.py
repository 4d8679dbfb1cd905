"""Spectra of a whole adapter folder of Qwen3-8B's shapes: seconds after import, and peak memory, in fresh processes.

252 pairs of rank 32 (36 layers x q, k, v, o, gate, up, down) with random factors, in float32 and in bfloat16. Rivals in
the same processes and on the same files: the paper's Appendix G.1 pair by pair (Cholesky of B^T B, then an SVD of
L^T A), and the dense SVD of B @ A of one module, extrapolated to 252 by the cubes of the shapes and labelled so.

    python benchmarks/folder_spectra.py [--threads 2] [--repeat 3] [--json benchmarks/results/folder_spectra.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import LAYERS, QWEN3_8B, machine, names_and_shapes, write_result

RANK = 32
LIMIT_SECONDS, LIMIT_MB = 2.0, 1000.0

CHILD = """
import json, resource, sys, time
import torch
torch.set_num_threads({threads})
{imports}
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
loaded = sorted(name for name in ("transformers", "peft") if name in sys.modules)
print(json.dumps({{"seconds": seconds, "peak_mb": peak, "loaded": loaded}}))
"""
IMPORTS = "import safetensors.torch\\nfrom narrowly.spectrum.metrics import folder_spectrum, spectrum_summary"
OURS = "rows, skipped = folder_spectrum({folder!r})\\nspectrum_summary(rows)\\nassert len(rows) == 252 and not skipped"
G1_IMPORTS = "import safetensors.torch\\nfrom narrowly.spectrum import *"
G1 = "for pair in pairs_from_folder({folder!r}): spectrum_metrics(singular_values_g1(pair))"
DENSE_IMPORTS = "import safetensors.torch\\nfrom narrowly.spectrum import pairs_from_folder"
DENSE = """
pair = next(p for p in pairs_from_folder({folder!r}) if p.name.endswith("layers.0.self_attn.k_proj"))
start = time.perf_counter()
torch.linalg.svdvals(pair.B_O_R.float() @ pair.A_R_I.float())
"""


def make_folder(folder: Path, dtype: str) -> None:
    """Write the adapter; called in a process of its own, because a child's peak memory starts from its parent's."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, outputs, inputs in names_and_shapes():
        A_R_I = torch.randn(RANK, inputs, generator=generator) / inputs**0.5
        B_O_R = torch.randn(outputs, RANK, generator=generator) * 0.01
        tensors[f"base_model.model.{name}.lora_A.weight"] = A_R_I.to(getattr(torch, dtype))
        tensors[f"base_model.model.{name}.lora_B.weight"] = B_O_R.to(getattr(torch, dtype))
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")


def measure(imports: str, work: str, folder: Path, threads: int, repeat: int) -> dict[str, Any]:
    """Run the work in fresh processes; return median seconds after import, largest peak, heavy modules loaded."""
    program = CHILD.format(
        threads=threads, imports=imports.replace("\\n", "\n"), work=work.replace("\\n", "\n").format(folder=str(folder))
    )
    found = []
    for _ in range(repeat):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout))
    return {
        "seconds": statistics.median(row["seconds"] for row in found),
        "peak_mb": max(row["peak_mb"] for row in found),
        "loaded": sorted({name for row in found for name in row["loaded"]}),
    }


def measure_command(folder: Path, threads: int, repeat: int) -> dict[str, Any]:
    """Return median wall seconds of the whole command in a fresh process."""
    command = [sys.executable, "-m", "narrowly.cli.app", "spectrum", str(folder), "--no-figure"]
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "peak_mb": None, "loaded": []}


def dense_factor() -> float:
    """Return how many k_proj a whole adapter costs where a dense SVD of m x n (m <= n) costs m^2 n."""
    costs = {module: min(shape) ** 2 * max(shape) for module, shape in QWEN3_8B.items()}
    return LAYERS * sum(costs.values()) / costs["self_attn.k_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make is not None:
        make_folder(given.make, given.dtype)
        return
    rows: list[dict[str, Any]] = []

    def report(what: str, dtype: str, found: dict[str, Any], note: str = "") -> None:
        peak = " " * 10 if found["peak_mb"] is None else f"{found['peak_mb']:7.0f} MB"
        rows.append({"what": what, "dtype": dtype, **found, "note": note})
        print(f"{what:44s} {dtype:9s} {found['seconds']:9.3f} s {peak}  {note}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("float32", "bfloat16"):
            folder = Path(temporary) / dtype
            subprocess.run([sys.executable, __file__, "--make", str(folder), "--dtype", dtype], check=True)
            size = (folder / "adapter_model.safetensors").stat().st_size / 1e6
            nothing = measure(IMPORTS, "pass", folder, given.threads, 1)
            report("nothing but the imports", dtype, nothing, f"the weights are {size:.0f} MB")
            ours = measure(IMPORTS, OURS, folder, given.threads, given.repeat)
            met = (
                ours["seconds"] < LIMIT_SECONDS and ours["peak_mb"] < LIMIT_MB and "transformers" not in ours["loaded"]
            )
            verdict = f"limits {LIMIT_SECONDS:g} s, {LIMIT_MB:g} MB, no transformers: {'met' if met else 'MISSED'}"
            report("ours: QR of each factor, SVD of the core", dtype, ours, verdict)
            command = measure_command(folder, given.threads, given.repeat)
            report("narrowly spectrum --no-figure, as typed", dtype, command, "with Python, torch and the table")
            report("G.1 pair by pair", dtype, measure(G1_IMPORTS, G1, folder, given.threads, given.repeat))
            if dtype == "float32":
                dense = measure(DENSE_IMPORTS, DENSE, folder, given.threads, 1)
                report("dense SVD of one k_proj (1024 x 4096)", dtype, dense, "measured")
                whole = {**dense, "seconds": dense["seconds"] * dense_factor()}
                report("dense SVD of all 252", dtype, whole, "extrapolated from one k_proj by m^2 n, not measured")
    if given.json is not None:
        found = machine(given.threads, ("torch", "safetensors"))
        write_result(given.json, machine=found, repeat=given.repeat, rows=rows)


if __name__ == "__main__":
    main()
