"""Which share of a real training step the spectral penalty and the Muon step take: Qwen3-8B, random weights, bfloat16.

One optimiser step is 16 384 tokens (8 sequences of 2 048, one at a time), LoRA of rank 32 on all seven linear modules
of the 36 blocks, factors in float32, gradient checkpointing. No weights are downloaded. Timed are the step without and
with the penalty; the penalty alone on PEFT's parameters, with flat storage, and replayed from a CUDA graph; and the
steps of the optimisers alone.

    python benchmarks/training_step.py --json benchmarks/results/training_step-cuda.json     needs a GPU with 40 GB
    python benchmarks/training_step.py --tiny                                                 the same code on a CPU
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import machine, medians, take_turns, write_result

from narrowly.optim import build_optimizer
from narrowly.records.optimisers.registry import AdamSpec, MuonSpec
from narrowly.spectrum import SpectralPenalty, flatten_storage, pairs_from_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMISED = 0.005
"""Largest share of a step that the penalty may take on a GPU."""


def make_model(tiny: bool, device: torch.device, rank: int) -> Any:
    """Return Qwen3-8B (or a tiny Qwen3) with random weights and a LoRA adapter whose B has left zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 256}
    sizes = small if tiny else {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
    heads = {"num_attention_heads": 2 if tiny else 32, "num_key_value_heads": 1 if tiny else 8, "head_dim": 128}
    config = Qwen3Config(**sizes, **heads, tie_word_embeddings=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            base = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    base.gradient_checkpointing_enable({"use_reentrant": False})
    base.enable_input_require_grads()
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, use_rslora=True, target_modules=TARGETS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.float()
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    return model.train()


def captured(penalty: SpectralPenalty) -> Callable[[], Any]:
    """Return a function that replays the penalty's seeding, written into existing gradients, from a CUDA graph."""
    for pair in penalty.pairs:
        pair.A_R_I.grad, pair.B_O_R.grad = torch.zeros_like(pair.A_R_I), torch.zeros_like(pair.B_O_R)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            penalty.seed_gradients()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        penalty.seed_gradients()
    return graph.replay


def main() -> int:
    """Time the step, print shares and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to see that the benchmark runs")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--check", action="store_true", help="exit 1 where the penalty takes more than 0.5 %% of a step"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        parser.error("no GPU found; --tiny runs the same code on a CPU (its shares mean nothing)")
    device = torch.device("cpu" if given.tiny else "cuda")
    sequences, length = (2, 32) if given.tiny else (8, 2048)
    torch.manual_seed(0)
    model = make_model(given.tiny, device, given.rank)
    optimizer = build_optimizer(AdamSpec(lr=1e-5), model)
    tokens = torch.randint(model.config.vocab_size, (sequences, 1, length), device=device)
    pairs = pairs_from_model(model)
    penalty = SpectralPenalty(model, 0.1)

    def step(seed: bool) -> None:
        optimizer.zero_grad()
        if seed:
            penalty.seed_gradients()
        for ids in tokens:
            (model(input_ids=ids, labels=ids).loss / sequences).backward()
        optimizer.step()

    def clear(name: str = "") -> None:
        for pair in pairs:
            pair.A_R_I.grad = pair.B_O_R.grad = None

    whole = medians(
        take_turns({"step": lambda: step(False), "step with the penalty": lambda: step(True)}, given.repeat, device)
    )
    alone = medians(take_turns({"penalty, PEFT parameters": penalty.seed_gradients}, 20, device, clear))
    flatten_storage(pairs)
    alone |= medians(take_turns({"penalty, flat storage": penalty.seed_gradients}, 20, device, clear))
    if device.type == "cuda":
        clear()
        alone |= medians(take_turns({"penalty, flat storage, CUDA graph": captured(penalty)}, 20, device))
    for spec in (AdamSpec(lr=1e-5), MuonSpec(lr=1e-5)):
        for pair in pairs:
            pair.A_R_I.grad, pair.B_O_R.grad = torch.randn_like(pair.A_R_I), torch.randn_like(pair.B_O_R)
        stepper = build_optimizer(spec, model)
        alone |= medians(take_turns({f"optimiser step, {spec.kind}": stepper.step}, 20, device))
        stepper.state.clear()
    print(f"{len(pairs)} adapters of rank {given.rank}, {sequences * length} tokens")
    for name, seconds in (whole | alone).items():
        print(f"  {name:36s} {1e3 * seconds:10.2f} ms   {seconds / whole['step']:9.3%} of a step", flush=True)
    share = alone["penalty, flat storage"] / whole["step"]
    if not given.tiny:
        verdict = "met" if share <= PROMISED else "MISSED"
        print(f"penalty, flat storage: {share:.3%} of a step, promised at most {PROMISED:.1%}: {verdict}")
    if given.json is not None:
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        found = machine(torch.get_num_threads(), ("torch", "transformers", "peft"), device.type)
        milliseconds = {name: 1e3 * seconds for name, seconds in (whole | alone).items()}
        write_result(
            given.json,
            machine=found,
            rank=given.rank,
            tokens=sequences * length,
            milliseconds=milliseconds,
            peak_gib=peak,
        )
    return int(given.check and not given.tiny and share > PROMISED)


if __name__ == "__main__":
    raise SystemExit(main())
