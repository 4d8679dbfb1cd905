"""What the spectral penalty costs per optimiser step at the shapes of Qwen3-8B: value and gradient of 252 adapters.

Rivals, taking turns in one process, gradients created anew in every run (as after `zero_grad()`):

  gram, flat storage     ours, after `flatten_storage`
  gram, PEFT parameters  ours, on separate parameters, as PEFT makes them
  G.1                    the paper's Appendix G.1 with autograd, module by module
  G.1 batched            the same, modules of one shape stacked: kinder than the paper
  eigvalsh               Gram matrices and torch.linalg.eigvalsh with autograd, stacked

    python benchmarks/penalty_step.py                      ranks 8 32 64 128 on the CPU
    python benchmarks/penalty_step.py --device cuda        the same on a GPU
    python benchmarks/penalty_step.py --ranks 32 --check   exits 1 where a promise of the project is missed

The share of a real training step is measured by benchmarks/training_step.py.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from measure import machine, medians, names_and_shapes, take_turns, write_result
from torch import Tensor

from narrowly.spectrum import LoraPair, SpectralPenalty, flatten_storage

PROMISED = {
    ("cpu", "gram, flat storage"): 6.0,
    ("cpu", "gram, PEFT parameters"): 4.0,
    ("cuda", "gram, flat storage"): 30.0,
}
"""How many times faster than G.1 at rank 32."""


def make_pairs(rank: int, device: torch.device, layers: int) -> list[LoraPair]:
    """Return random live pairs: A as PEFT starts it, B small and of mixed scale."""
    generator = torch.Generator(device).manual_seed(rank)
    pairs = []
    for name, outputs, inputs in names_and_shapes(layers):
        A_R_I = (torch.rand(rank, inputs, device=device, generator=generator) * 2 - 1) / math.sqrt(inputs)
        B_O_R = torch.randn(outputs, rank, device=device, generator=generator)
        B_O_R *= torch.logspace(-3, -5, rank, device=device)
        pairs.append(LoraPair(name, torch.nn.Parameter(A_R_I), torch.nn.Parameter(B_O_R), 2.0 / math.sqrt(rank)))
    return pairs


def factors(pairs: list[LoraPair]) -> list[Tensor]:
    """Return A and B of every pair."""
    return [factor for pair in pairs for factor in (pair.A_R_I, pair.B_O_R)]


def ratio_of(S_K_C: Tensor) -> Tensor:
    """Return the sum over pairs of the Frobenius over the nuclear norm."""
    return (torch.linalg.vector_norm(S_K_C, dim=-1) / S_K_C.sum(-1)).sum()


def g1_values(A: Tensor, B: Tensor) -> Tensor:
    """Return the singular values of L^T A, L L^T = B^T B + 1e-8 I; of one pair or of a stack."""
    gram = B.mT @ B
    lower = torch.linalg.cholesky(gram + 1e-8 * torch.eye(gram.shape[-1], device=gram.device))
    return torch.linalg.svdvals(lower.mT @ A)


def eigen_values(A: Tensor, B: Tensor) -> Tensor:
    """Return singular values by eigenvalues of L^T (B^T B) L, L L^T = A A^T, with a floor under the root."""
    lower = torch.linalg.cholesky(A @ A.mT)
    core = lower.mT @ (B.mT @ B) @ lower
    values = torch.linalg.eigvalsh(core)
    return (values.clamp_min(0) + 1e-8 * values[..., -1:].detach()).sqrt()


def by_module(pairs: list[LoraPair], values: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the penalty without its offset, one module after the other."""
    return torch.stack([ratio_of(values(pair.A_R_I, pair.B_O_R)[None]) for pair in pairs]).mean()


def stacked(pairs: list[LoraPair], values: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the same with modules of one shape stacked."""
    shapes: dict[tuple[int, ...], list[LoraPair]] = {}
    for pair in pairs:
        shapes.setdefault((*pair.A_R_I.shape, *pair.B_O_R.shape), []).append(pair)
    sums = [
        ratio_of(values(torch.stack([p.A_R_I for p in group]), torch.stack([p.B_O_R for p in group])))
        for group in shapes.values()
    ]
    return torch.stack(sums).sum() / len(pairs)


def compare(rank: int, device: torch.device, layers: int, repeat: int) -> dict[str, object]:
    """Time all rivals at one rank, and say how far ours are from G.1 in value and direction."""
    pairs = make_pairs(rank, device, layers)
    ours = SpectralPenalty(pairs, 1.0)

    def prepare(name: str) -> None:
        """Lay the factors out as a rival has them; one copy of them all is enough, as rank 128 fills the memory."""
        for factor in factors(pairs):
            factor.grad = None
        if "flat" in name:
            flatten_storage(pairs)
        elif pairs[0].A_R_I.untyped_storage().nbytes() > pairs[0].A_R_I.nbytes:
            for factor in factors(pairs):
                factor.data = factor.data.clone()

    rivals: dict[str, Callable[[], object]] = {
        "gram, flat storage": ours.seed_gradients,
        "gram, PEFT parameters": ours.seed_gradients,
        "G.1": lambda: by_module(pairs, g1_values).backward(),
        "G.1 batched": lambda: stacked(pairs, g1_values).backward(),
        "eigvalsh": lambda: stacked(pairs, eigen_values).backward(),
    }
    times = medians(take_turns(rivals, repeat, device, prepare))
    gradients = []
    for name in ("gram, PEFT parameters", "G.1"):
        prepare(name)
        rivals[name]()
        gradients.append([factor.grad.detach().clone() for factor in factors(pairs)])
    inner = sum(float(torch.vdot(one.flatten(), other.flatten())) for one, other in zip(*gradients, strict=True))
    norms = [math.sqrt(sum(float(one.square().sum()) for one in found)) for found in gradients]
    cosine = inner / (norms[0] * norms[1])
    peak = None
    if device.type == "cuda":
        prepare("gram, flat storage")
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        ours.seed_gradients()
        peak = (torch.cuda.max_memory_allocated(device) - held) / 2**20
    return {
        "rank": rank,
        "milliseconds": {n: 1e3 * s for n, s in times.items()},
        "cosine_to_g1": cosine,
        "extra_mib": peak,
    }


def main() -> int:
    """Print a table for every rank and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32, 64, 128])
    parser.add_argument("--layers", type=int, default=36, help="36 is Qwen3-8B")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit 1 where a promised ratio is missed")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(given.device)
    rows, missed = [], []
    for rank in given.ranks:
        row = compare(rank, device, given.layers, given.repeat)
        rows.append(row)
        times = row["milliseconds"]
        assert isinstance(times, dict)
        print(f"rank {rank}, {7 * given.layers} adapters; cosine to G.1's gradient {row['cosine_to_g1']:.6f}")
        for name, milliseconds in times.items():
            ratio = times["G.1"] / milliseconds
            promise = PROMISED.get((device.type, name)) if rank == 32 else None
            word = "" if promise is None else f"   promised {promise:g}: {'met' if ratio >= promise else 'MISSED'}"
            missed += [name] if promise is not None and ratio < promise else []
            print(f"  {name:24s} {milliseconds:9.1f} ms   G.1 takes {ratio:6.2f} times as long{word}", flush=True)
    if given.json is not None:
        write_result(
            given.json,
            machine=machine(given.threads, device=given.device),
            repeat=given.repeat,
            layers=given.layers,
            rows=rows,
        )
    return int(given.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
