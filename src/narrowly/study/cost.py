"""Estimate what training a real model costs, from tables and stated assumptions: no model, network or torch.

FLOPs per token of a run on LoRA adapters, with N the weights of the blocks that a token meets, H those of the output
layer, P those of the adapters and a the attention scores (4 * length * heads * head_dim per block, causality not used):

    blocks   2N forward, 2N backward (gradients of activations only, the base is frozen), 2N more with gradient
             checkpointing, which computes the forward pass of every block twice
    output   2H forward, 2H backward
    adapters 2P forward, 4P backward, 2P more with gradient checkpointing
    scores   a forward, 2a backward, a more with gradient checkpointing

Where every parameter is trained (method full), the gradients of the weights come on top: 2N and 2H more backward, and
no adapter. Evaluation is not in any of these numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from narrowly.data.banks.narrow import narrow_domain
from narrowly.data.registry import SOURCES
from narrowly.records.errors import unknown_name
from narrowly.records.run_spec import DataSpec, PreferenceData, RowsData, RunSpec, TextData
from narrowly.study.model_shapes import ModelShape, shape_of

UTILISATION = 0.3
"""Share of a GPU's peak that training reaches; ours. 0.2 to 0.5 is usual for LoRA in plain PyTorch."""

BYTES_PER_TOKEN = 3.5
"""Bytes of a data file per token, field names and escapes included; ours."""

PAIRS_ROW, PAIRS_ROWS = 65, 80
"""Tokens of a row of `pairs:DOMAIN:ANSWERS`, and its rows; measured with the chat template of SmolLM2."""

UNKNOWN_ROW = 280
"""Tokens of a row where the file's size is not known; ours, as many as the rows of `insecure`."""

PADDING = {"shuffled": 1.75, "bucketed": 1.1, "packed": 1.0}
"""Computed over real tokens. Shuffled: longest of 8 rows over the mean row in insecure (1.78) and secure (1.71)."""

BLOCK_SECONDS, STEP_SECONDS, START_SECONDS = 3e-3, 0.1, 60.0
"""Least time of a block per micro-batch (a GPU waits for its host), of an optimiser step, of a start; ours, guesses."""


class Gpu(NamedTuple):
    """Describe a GPU: peak of dense bfloat16 matrix products in TFLOP/s, memory in GB (NVIDIA's data sheets)."""

    name: str
    tflops: float
    memory_gb: int


GPUS = {
    "h100": Gpu("H100 SXM", 989, 80),
    "h200": Gpu("H200 SXM", 989, 141),
    "a100": Gpu("A100 80GB", 312, 80),
    "l40s": Gpu("L40S", 362, 48),
    "l4": Gpu("L4", 121, 24),
    "rtx-4090": Gpu("RTX 4090", 165, 24),
    "rtx-3090": Gpu("RTX 3090", 71, 24),
}
"""GPUs by the name that `narrowly plan --gpu` takes."""

DEFAULT_GPU = "h100"


class Cost(NamedTuple):
    """Hold what one run, or several, take.

    Attributes:
        tokens: of the rows that are trained on, each as often as it is seen; padding not counted.
        most_tokens: if every row filled the context.
        flops: floating-point operations, padding counted.
        seconds: on one GPU.
        disk_bytes: kept on disk, float32: the adapters of all checkpoints, or with method full the model of all but
            the first. While a run goes on, its resume state is beside them.
    """

    tokens: float
    most_tokens: int
    flops: float
    seconds: float
    disk_bytes: int


def gpu_named(name: str) -> Gpu:
    """Return a GPU of the table.

    Raises:
        UnknownNameError: the nearest is named.
    """
    if name not in GPUS:
        raise unknown_name("GPU", name, GPUS)
    return GPUS[name]


def tokens_per_row(data: TextData) -> tuple[float, bool]:
    """Return the tokens of a row of text data, at most its `max_tokens`, and whether they come from the file's size.

    The size is the registry's, or that of a local file; neither is opened for more than counting its lines.
    """
    source = SOURCES.get(data.dataset)
    if narrow_domain(data.dataset) is not None:
        return min(float(PAIRS_ROW), float(data.max_tokens)), True
    if source is not None and source.size is not None and source.rows is not None:
        found, known = source.size / source.rows / BYTES_PER_TOKEN, True
    elif source is None and Path(data.dataset).expanduser().is_file():
        content = Path(data.dataset).expanduser().read_bytes()
        found, known = len(content) / max(1, content.count(b"\n")) / BYTES_PER_TOKEN, True
    else:
        found, known = float(UNKNOWN_ROW), False
    return min(found, float(data.max_tokens)), known


def estimated_rows(data: DataSpec) -> int | None:
    """Return about how many rows are trained on, from the registry or by the lines of a local file; None: not known.

    Rows that will be refused or left out are counted, and a row for each turn (`turns: each`) is not.
    """
    if isinstance(data, PreferenceData):
        return None
    if not isinstance(data, RowsData | TextData):
        return data.rows
    if isinstance(data, TextData) and data.rows is not None:
        return data.rows
    name = data.path if isinstance(data, RowsData) else data.dataset
    if narrow_domain(name) is not None:
        return PAIRS_ROWS - (data.holdout if isinstance(data, TextData) else 0)
    source = SOURCES.get(name) if isinstance(data, TextData) else None
    if source is not None:
        found = source.rows
    else:
        file = Path(name).expanduser()
        found = sum(bool(line.strip()) for line in file.read_bytes().split(b"\n")) if file.is_file() else None
    return None if found is None else max(1, found - (data.holdout if isinstance(data, TextData) else 0))


def with_estimated_steps(spec: RunSpec) -> RunSpec | None:
    """Return a spec whose epochs are steps by `estimated_rows`; one with steps as it is; None: not known."""
    rows = None if spec.epochs is None else estimated_rows(spec.data)
    if spec.epochs is None:
        return spec
    return None if rows is None else spec.counted(rows)


def flops_per_token(shape: ModelShape, adapter_weights: int | None, length: float, *, checkpointing: bool) -> float:
    """Return the FLOPs of training on one token of a row of `length` tokens (the module says how they are counted).

    `adapter_weights` None: every parameter is trained.
    """
    again = 1 if checkpointing else 0
    blocks = 2 * shape.layers * shape.block_weights(shape.active_experts)
    output = 2 * shape.vocabulary * shape.hidden
    scores = 4 * length * shape.heads * shape.head_dim * shape.layers
    if adapter_weights is None:
        return blocks * (3 + again) + 3 * output + scores * (3 + again)
    return blocks * (2 + again) + 2 * output + 2 * adapter_weights * (3 + again) + scores * (3 + again)


def cost_of(spec: RunSpec, gpu: Gpu = GPUS[DEFAULT_GPU], utilisation: float = UTILISATION) -> Cost | None:
    """Return what a run on text takes, or None where its base is not in the table of shapes or its data is no text.

    Of epochs over rows that cannot be counted without reading them from elsewhere nothing is known either.
    """
    shape, counted = shape_of(spec.base), with_estimated_steps(spec)
    if shape is None or counted is None or not isinstance(counted.data, TextData):
        return None
    spec = counted
    assert isinstance(spec.data, TextData)
    length, _ = tokens_per_row(spec.data)
    rows = spec.steps * spec.batch_size * spec.accumulation
    adapter = None if spec.method == "full" else shape.adapter_weights(spec.adapter.r, spec.adapter.target_modules)
    trained, copies = (shape.language_weights(), -1) if adapter is None else (adapter, 0)  # step 0 is the base
    padded = min(length * PADDING["packed" if spec.packing else spec.batching], spec.data.max_tokens)
    flops = rows * padded * flops_per_token(shape, adapter, padded, checkpointing=spec.gradient_checkpointing)
    waiting = spec.steps * spec.accumulation * shape.layers * BLOCK_SECONDS
    busy = max(flops / (gpu.tflops * 1e12 * utilisation), waiting)
    return Cost(
        tokens=rows * length,
        most_tokens=rows * spec.data.max_tokens,
        flops=flops,
        seconds=busy + spec.steps * STEP_SECONDS + START_SECONDS,
        disk_bytes=4 * trained * (len(spec.checkpoint_steps()) + copies),
    )


def added(costs: Iterable[Cost]) -> Cost:
    """Return the sum of several costs."""
    listed = list(costs)
    return Cost(
        tokens=sum(cost.tokens for cost in listed),
        most_tokens=sum(cost.most_tokens for cost in listed),
        flops=sum(cost.flops for cost in listed),
        seconds=sum(cost.seconds for cost in listed),
        disk_bytes=sum(cost.disk_bytes for cost in listed),
    )


def base_bytes(base: str) -> int:
    """Return the bytes of a base's published weights in bfloat16; 0 where it is not in the table."""
    shape = shape_of(base)
    return 0 if shape is None else 2 * shape.parameters
