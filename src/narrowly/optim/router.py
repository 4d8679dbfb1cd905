"""Partition the trainable parameters into LoRA A, LoRA B and the rest; none may be left over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from narrowly.records.errors import OptimiserError

Named = tuple[str, nn.Parameter]

_FACTOR = re.compile(r"\.lora_(?P<side>[AB])(\.[^.]+)?\.weight$")

_IN_BLOCK = re.compile(r"\.\d+\.")

SHOWN = 5
"""Names listed in an error; the rest are counted."""


class Routing(NamedTuple):
    """Hold a partition of the trainable parameters, each list in the order given."""

    lora_A: list[Named]
    lora_B: list[Named]
    other: list[Named]


def route(named_parameters: Iterable[Named]) -> Routing:
    """Partition the trainable parameters into LoRA A (rank x inputs), LoRA B (outputs x rank) and everything else.

    Frozen parameters are left out. DoRA magnitudes, embedding factors and saved modules are `other`.

    Raises:
        OptimiserError: nothing to train, a parameter that occurs twice, an A without its B or the reverse.
    """
    trainable = [(name, p) for name, p in named_parameters if p.requires_grad]
    if not trainable:
        raise OptimiserError("no trainable parameter found; attach an adapter or unfreeze something first")
    seen: dict[int, str] = {}
    for name, parameter in trainable:
        if id(parameter) in seen:
            raise OptimiserError(f"parameter {name} is the same tensor as {seen[id(parameter)]}; accepted: each once")
        seen[id(parameter)] = name
    routing = Routing([], [], [])
    for name, parameter in trainable:
        match = _FACTOR.search(f".{name}")
        if match is None or parameter.ndim != 2:
            routing.other.append((name, parameter))
        else:
            (routing.lora_A if match["side"] == "A" else routing.lora_B).append((name, parameter))
    _check_pairs(routing)
    return routing


def hidden_matrices(routing: Routing) -> tuple[list[Named], list[Named]]:
    """Split the trainable parameters of a whole model into the matrices of its blocks and everything else.

    A matrix counts as one of a block by a number in its path (`layers.3.mlp.up_proj.weight`), so embeddings, head,
    norms and biases are the rest, as Muon has it (Jordan et al. 2024; torch.optim.Muon: "2D parameters of neural
    network hidden layers"). Beside LoRA factors there are none.
    """
    if routing.lora_A or routing.lora_B:
        return [], routing.other
    hidden = {name for name, p in routing.other if p.ndim == 2 and _IN_BLOCK.search(f".{name}")}
    return (
        [(name, p) for name, p in routing.other if name in hidden],
        [(name, p) for name, p in routing.other if name not in hidden],
    )


def parameter_groups(routing: Routing, lr: float, lora_plus_ratio: float | None) -> list[dict[str, Any]]:
    """Return the parameter groups of an elementwise optimiser: one, or with a LoRA+ ratio two that differ in lr only.

    Group 0 holds A and everything that is neither A nor B, at `lr`; group 1 holds B at `lora_plus_ratio * lr`
    (LoRA+, arXiv 2402.12354). Weight decay and all other options come from the optimiser's defaults, so they are the
    same for both; a scheduler multiplies both.

    Raises:
        OptimiserError: a ratio without trainable LoRA A and LoRA B.
    """
    if lora_plus_ratio is None:
        return [{"params": [parameter for part in routing for _, parameter in part], "lr": lr}]
    if not (routing.lora_A and routing.lora_B):
        raise OptimiserError(
            f"lora_plus_ratio is {lora_plus_ratio:g}; found {len(routing.lora_A)} trainable LoRA A and "
            f"{len(routing.lora_B)} LoRA B, accepted: both (or no ratio)"
        )
    return [
        {"params": [parameter for _, parameter in (*routing.lora_A, *routing.other)], "lr": lr},
        {"params": [parameter for _, parameter in routing.lora_B], "lr": lr * lora_plus_ratio},
    ]


def _check_pairs(routing: Routing) -> None:
    modules_A = {name.replace("lora_A", "lora_?") for name, _ in routing.lora_A}
    modules_B = {name.replace("lora_B", "lora_?") for name, _ in routing.lora_B}
    # An A without a trainable B (or the reverse) is a legal choice of the user's, but only for all of them at once.
    if modules_A and modules_B and modules_A != modules_B:
        odd = sorted(modules_A ^ modules_B)
        raise OptimiserError(f"{len(odd)} LoRA factors have no trainable partner: {listed(odd)}")


def check_complete(named_parameters: Iterable[Named], optimizer: Optimizer) -> None:
    """Check that an optimiser updates every trainable parameter exactly once, and no frozen or foreign one.

    Works for any torch optimiser, also for one that another tool built: biases and magnitudes that reach no group are
    the commonest silent fault there.

    Raises:
        OptimiserError: names the parameters that are unrouted, routed twice, frozen or foreign.
    """
    named = {id(parameter): (name, parameter) for name, parameter in named_parameters}
    counts = Counter(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
    faults = {
        "trainable but in no group": [name for key, (name, p) in named.items() if p.requires_grad and not counts[key]],
        "in several groups": [named[key][0] for key, count in counts.items() if count > 1 and key in named],
        "frozen": [named[key][0] for key in counts if key in named and not named[key][1].requires_grad],
        "not of this model": [f"tensor {i}" for i, key in enumerate(counts) if key not in named],
    }
    problems = [f"{len(names)} {fault} ({listed(names)})" for fault, names in faults.items() if names]
    if problems:
        raise OptimiserError(
            f"{type(optimizer).__name__}: incomplete partition, {'; '.join(problems)}; "
            "accepted: every trainable parameter in exactly one group"
        )


def listed(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
