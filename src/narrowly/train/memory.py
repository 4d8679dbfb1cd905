"""Estimate the memory of a run from the shapes of its model and the lengths of its rows; nothing is loaded.

An estimate by formula, ours: weights, gradients and the optimiser's state are exact to a few per cent, activations are
those that autograd keeps of a decoder block (inputs and outputs of its linear layers), logits those of the supervised
positions in the base's type, in float32 and as a gradient. Python, its libraries and the CUDA context come on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.data.rows import Row
from narrowly.models.lora import target_matrices
from narrowly.models.targets import linear_layers
from narrowly.records.run_spec import RunSpec

if TYPE_CHECKING:
    from torch import nn

BYTES = {"float32": 4.0, "bfloat16": 2.0, "nf4": 2.0}
"""Of a number of the base and of its activations; the linear layers of nf4 have fewer."""

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""4 bits, an 8-bit scale for 64 numbers and a float32 scale for 256 of those (QLoRA, 2305.14314, section 3)."""

STATES = {"sgd": 1, "lion": 1, "muon": 1, "lora_muon": 1, "spectral_power": 1, "adafactor": 0, "ademamix": 3, "soap": 4}
"""Float32 numbers that an optimiser keeps for each trained one, where not Adam's 2; SOAP's are of square factors."""


class Memory(NamedTuple):
    """Hold bytes by what they are for."""

    base: int
    trained: int
    gradients: int
    optimiser: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self)


def trained_numbers(spec: RunSpec, model: nn.Module) -> int:
    """Return how many numbers a run trains: the factors of its adapter, or every parameter.

    Raises:
        UnknownNameError: a target module that the model does not have.
    """
    if spec.method == "full":
        return sum(parameter.numel() for parameter in model.parameters())
    return sum(spec.adapter.r * sum(_shape(model.get_submodule(path))) for path in target_matrices(model, spec.adapter))


def _shape(layer: Any) -> tuple[int, int]:
    rows, columns = layer.weight.shape
    return rows, columns


def memory_of(spec: RunSpec, model: nn.Module, rows: Sequence[Row]) -> Memory:
    """Return the estimated bytes of a training step on the longest rows, in one process.

    Args:
        spec: the run's, with its own target modules.
        model: its base, perhaps without weights (`empty_model`).
        rows: to train on, at least one.

    Raises:
        UnknownNameError: a target module that the model does not have.
    """
    width, trained = BYTES[spec.base_dtype], trained_numbers(spec, model)
    linear = {path: _shape(layer) for path, layer in linear_layers(model).items()}
    in_blocks = {path: shape for path, shape in linear.items() if any(part.isdecimal() for part in path.split("."))}
    numbers = sum(parameter.numel() for parameter in model.parameters())
    of_blocks = sum(rows_ * columns for rows_, columns in in_blocks.values())
    base = width * numbers if spec.base_dtype != "nf4" else NF4_BYTES * of_blocks + width * (numbers - of_blocks)
    most = sorted(rows, key=lambda row: len(row.input_ids), reverse=True)[: spec.batch_size]
    lengths = [len(row.input_ids) for row in most]
    tokens = sum(lengths) if spec.packing else len(most) * lengths[0]
    kept = spec.batch_size * max(row.supervised for row in rows)
    vocabulary = max((shape[0] for path, shape in linear.items() if path not in in_blocks), default=0)
    return Memory(
        base=0 if spec.method == "full" else round(base),
        trained=4 * trained,
        gradients=4 * trained * (2 if spec.method == "full" and spec.accumulation > 1 else 1),
        optimiser=4 * trained * STATES.get(spec.optimiser.kind, 2),
        activations=round(tokens * _bytes_per_token(spec, model, in_blocks, width)),
        logits=round(min(kept, tokens) * vocabulary * (width + 8)),
    )


def _bytes_per_token(spec: RunSpec, model: nn.Module, in_blocks: dict[str, tuple[int, int]], width: float) -> float:
    """Return the bytes of activations that are kept for a token; with checkpointing a block's input, and one block."""
    blocks: dict[str, float] = {}
    adapted = set() if spec.method == "full" else set(target_matrices(model, spec.adapter))
    for path, (rows, columns) in in_blocks.items():
        block = path[: next(place for place, part in _numbered(path) if part.isdecimal())]
        factors = 4.0 * (columns if width < 4 else 0) + 4.0 * spec.adapter.r if path in adapted else 0.0
        blocks[block] = blocks.get(block, 0.0) + width * (rows + columns) + factors
    if not spec.gradient_checkpointing or not blocks:
        return sum(blocks.values())
    hidden = min(min(shape) for shape in in_blocks.values())
    return len(blocks) * width * hidden + max(blocks.values())


def _numbered(path: str) -> list[tuple[int, str]]:
    """Return the parts of a path, each with where it ends."""
    ends, parts = 0, []
    for part in path.split("."):
        ends += len(part) + 1
        parts.append((ends, part))
    return parts
