"""Read expert LoRA of PEFT's `target_parameters`, whose two matrices hold the factors of all experts of a layer.

r and lora_alpha are those of one expert, and their patterns are matched against the name of the parameter. Two
parameters of one module are two nested wrappers, whose order the file does not say; the shapes of their factors do
(PEFT 0.21.2, tuners_utils.py, _inject_parameters).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from narrowly.spectrum.experts import MOST_EXPERTS, columns_of_expert, expert_name, rows_of_expert
from narrowly.spectrum.folder.layout import Factor, Place
from narrowly.spectrum.pairs import EXPERTS, Skipped

GATE_UP, DOWN = "gate_up_proj", "down_proj"
"""Parameters of the experts of Transformers' mixtures; gate_up_proj writes twice as many numbers as down_proj reads."""

Shapes = tuple[tuple[int, ...], ...]


def parameter_of(module: str, config: Mapping[str, Any], shapes: Mapping[str, Shapes]) -> str | Skipped | None:
    """Return the whole name of the parameter that a module's factors adapt.

    Args:
        module: its name, with `.base_layer` behind it for the inner one of two parameters of the same module.
        config: adapter_config.json.
        shapes: of A and B by module.

    Returns:
        None where the module is adapted itself, and a reason where the file does not say which parameter it is.
    """
    owner = re.sub(r"(\.base_layer)+$", "", module)
    listed = [str(entry).rpartition(".") for entry in config.get("target_parameters") or ()]
    names = sorted({name for place, _, name in listed if f".{owner}".endswith(f".{place}")})
    if not names:
        return None
    if len(names) == 1:
        return f"{owner}.{names[0]}"
    inner, outer = (shapes.get(name, ()) for name in (f"{owner}.base_layer", owner))
    if names != sorted((GATE_UP, DOWN)) or len(inner) != 2 or len(outer) != 2 or not _tells(inner, outer):
        return Skipped(module, f"{EXPERTS}, and the file does not say which parameter is which")
    is_gate_up = (module == owner) == _is_gate_up(outer, inner)
    return f"{owner}.{GATE_UP if is_gate_up else DOWN}"


def _tells(inner: Shapes, outer: Shapes) -> bool:
    """Return whether the shapes say which of two parameters is gate_up_proj."""
    whole = all(len(shape) == 2 for shape in (*inner, *outer))
    return whole and _is_gate_up(inner, outer) != _is_gate_up(outer, inner)


def _is_gate_up(one: Shapes, other: Shapes) -> bool:
    """Return whether `one` is gate_up_proj beside `other` as down_proj, stored either way round."""
    (_, inputs), (outputs, _) = one
    (_, down_inputs), (down_outputs, _) = other
    as_linear = inputs == down_outputs and outputs == 2 * down_inputs
    return as_linear or (outputs == down_inputs and inputs == 2 * down_outputs)


def expert_places(
    parameter: str, keys: Mapping[str, str], shapes: Shapes, rank: int, scale: float
) -> Iterator[Place | Skipped]:
    """Yield the place of every expert's pair in the two matrices of a parameter.

    Args:
        parameter: whole name of the parameter.
        keys: of A and B.
        shapes: of A and B.
        rank: of one expert, a divisor of A's rows.
        scale: of every expert.
    """
    experts = shapes[0][0] // rank
    if experts > MOST_EXPERTS:
        yield Skipped(parameter, f"{experts} experts, accepted: up to {MOST_EXPERTS}")
        return
    if len(shapes[1]) != 2 or shapes[1][1] != shapes[0][0]:
        yield Skipped(parameter, f"lora_A has shape {shapes[0]} but lora_B {shapes[1]}: not of as many experts")
        return
    for expert in range(experts):
        yield Place(
            expert_name(parameter, expert),
            Factor(keys["A"], partial(rows_of_expert, expert=expert, rank=rank)),
            Factor(keys["B"], partial(columns_of_expert, expert=expert, rank=rank)),
            scale,
        )
