"""One Muon step on the 504 LoRA factors of Qwen3-8B: ours, batched from Gram matrices, and torch.optim.Muon.

Both get the same factors, gradients and settings (Nesterov momentum .95, five Newton-Schulz steps, no decay). Times are
medians over repetitions; ours and torch's take turns, so that other load on the machine hits both. The gradients are
noise; `--condition` gives them singular values from 1 to 1/condition instead, where our Gram matrices are summed in
float64 on the CPU. The table also says how far our step is from the plain float32 iteration matrix by matrix (relative
in Frobenius norm, largest of some factors) and its cosine to torch's, which runs in bfloat16. Peak memory is what
`Optimizer.step` adds to what parameters, gradients and momenta hold.

    python benchmarks/muon_step.py [--device cuda] [--rank 32] [--threads 2] [--json benchmarks/results/muon_step.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from measure import LAYERS, QWEN3_8B, machine, medians, take_turns, write_result
from torch import Tensor, nn

LIMIT = 3.0
SETTINGS: dict[str, Any] = {"lr": 1e-3, "momentum": 0.95, "nesterov": True, "weight_decay": 0.0}


def factors(device: str, layers: int, rank: int, condition: float) -> list[nn.Parameter]:
    """Return the factors of all layers, A and B of each module in turn, with their gradients."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    shapes = [shape for outputs, inputs in QWEN3_8B.values() for shape in ((rank, inputs), (outputs, rank))]
    for shape in shapes * layers:
        parameter = nn.Parameter(torch.randn(shape, generator=generator).to(device))
        gradient = torch.randn(shape, generator=generator)
        if condition > 1:
            basis = torch.linalg.qr(gradient if shape[0] > shape[1] else gradient.T).Q
            values = torch.logspace(0, -float(torch.tensor(condition).log10()), rank)
            turn = torch.linalg.qr(torch.randn(rank, rank, generator=generator)).Q
            tall = basis * values @ turn
            gradient = tall if shape[0] > shape[1] else tall.T.contiguous()
        parameter.grad = gradient.to(device)
        parameters.append(parameter)
    return parameters


def optimisers(parameters: list[nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    from narrowly.optim import Muon
    from narrowly.optim.lora_muon import LoRAMuon
    from narrowly.optim.spectral_power import SpectralPower

    newton_schulz = {**SETTINGS, "orthogonaliser": "newton_schulz5", "ns_steps": 5}
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    return {
        "torch.optim.Muon": torch.optim.Muon(parameters, **SETTINGS, ns_steps=5, adjust_lr_fn="original"),
        "ours, newton_schulz5": Muon(parameters, **newton_schulz, scale_rule="original", eps=1e-7),
        "ours, polar_express": Muon(
            parameters, **newton_schulz | {"orthogonaliser": "polar_express"}, scale_rule="original", eps=1e-7
        ),
        "ours, SpectralPower(-0.5)": SpectralPower(
            parameters, **SETTINGS, power=-0.5, floor=1e-3, scale_rule="original"
        ),
        "ours, LoRA-Muon": LoRAMuon(pairs, **newton_schulz, floor=0.5),
    }


def extra_memory(work: Callable[[], Any], device: str) -> float:
    """Return the largest MB that one step holds beyond what was held before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    held, peak = 0, 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def twin(direction: Tensor) -> Tensor:
    """Five quintic steps on the matrix itself, float32."""
    X = direction if direction.shape[0] <= direction.shape[1] else direction.T
    X = X / X.norm()
    for _ in range(5):
        G = X @ X.T
        X = 3.4445 * X + (-4.7750 * G + 2.0315 * G @ G) @ X
    return X if direction.shape[0] <= direction.shape[1] else X.T


def agreement(device: str, rank: int, condition: float) -> dict[str, float]:
    """Return the largest error to the twin and the least cosine to torch's first step, over one layer's factors."""
    ours, theirs = factors(device, 1, rank, condition), factors(device, 1, rank, condition)
    made = [optimisers(ours)["ours, newton_schulz5"], optimisers(theirs)["torch.optim.Muon"]]
    for group in (group for optimizer in made for group in optimizer.param_groups):
        group["lr"] = 1.0
    for parameter in [*ours, *theirs]:
        parameter.data.zero_()
    for optimizer in made:
        optimizer.step()
    errors, cosines = [], []
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        expected = -twin(one.grad) * max(1.0, one.shape[0] / one.shape[1]) ** 0.5
        errors.append(float((one.detach() - expected).norm() / expected.norm()))
        cosines.append(float(nn.functional.cosine_similarity(one.detach().flatten(), other.detach().flatten(), dim=0)))
    return {"error_to_float32_twin": max(errors), "cosine_to_torch": min(cosines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--rank", type=int, nargs="*", default=[32])
    parser.add_argument("--condition", type=float, nargs="*", default=[1.0, 1000.0])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    for rank, condition in product(given.rank, given.condition):
        parameters = factors(given.device, given.layers, rank, condition)
        kind = "noise" if condition <= 1 else f"condition {condition:g}"
        print(f"{len(parameters)} factors of rank {rank}, gradients: {kind}, {given.device}")
        made = optimisers(parameters)
        steps = {name: optimizer.step for name, optimizer in made.items()}
        rival, ours, *others = steps
        # the promised pair takes turns by itself, so that the others' memory does not come between
        times = take_turns({name: steps[name] for name in (rival, ours)}, given.repeat, device)
        times |= take_turns({name: steps[name] for name in others}, given.repeat, device)
        median = medians(times)
        for name, found in median.items():
            ratio = median["torch.optim.Muon"] / found
            extra = extra_memory(made[name].step, given.device)
            rows.append(
                {
                    "rank": rank,
                    "gradients": kind,
                    "optimiser": name,
                    "ms": found * 1e3,
                    "faster_than_torch": ratio,
                    "extra_mb": extra,
                    "all_ms": [one * 1e3 for one in times[name]],
                }
            )
            print(f"  {name:28s} {found * 1e3:9.2f} ms  {ratio:5.2f} x torch's speed  {extra:8.1f} MB in the step")
        check = agreement(given.device, rank, condition)
        checks.append({"rank": rank, "gradients": kind, **check})
        print(
            f"  newton_schulz5: error to the float32 twin {check['error_to_float32_twin']:.1e}, "
            f"cosine to torch.optim.Muon {check['cosine_to_torch']:.5f}"
        )
        del parameters, made
    for row in (row for row in rows if row["optimiser"] == "ours, newton_schulz5"):
        reached = row["faster_than_torch"]
        verdict = "met" if reached >= LIMIT else "MISSED"
        print(f"limit {LIMIT:g} x at rank {row['rank']} on {row['gradients']}: {verdict} ({reached:.2f} x)")
    if given.json is not None:
        found_machine = machine(given.threads, device=given.device)
        count = given.layers * 2 * len(QWEN3_8B)
        write_result(given.json, machine=found_machine, factors=count, repeat=given.repeat, rows=rows, checks=checks)


if __name__ == "__main__":
    main()
