"""The router: which trainable parameter is a LoRA A, which a LoRA B, which neither. None may be left over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from spectralign.records.errors import OptimiserError

Named = tuple[str, nn.Parameter]

_FACTOR = re.compile(r"\.lora_(?P<side>[AB])(\.[^.]+)?\.weight$")

SHOWN = 5
"""Names listed in an error; the rest are counted."""


class Routing(NamedTuple):
    """A partition of the trainable parameters, each list in the order given."""

    lora_A: list[Named]  # noqa: N815
    lora_B: list[Named]  # noqa: N815
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


def _check_pairs(routing: Routing) -> None:
    modules_A = {name.replace("lora_A", "lora_?") for name, _ in routing.lora_A}
    modules_B = {name.replace("lora_B", "lora_?") for name, _ in routing.lora_B}
    # An A without a trainable B (or the reverse) is a legal choice of the user's, but only for all of them at once.
    if modules_A and modules_B and modules_A != modules_B:
        odd = sorted(modules_A ^ modules_B)
        raise OptimiserError(f"{len(odd)} LoRA factors have no trainable partner: {listed(odd)}")


def listed(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
