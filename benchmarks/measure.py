"""What the benchmarks share: shapes of Qwen3-8B, medians of rivals that take turns, a record of the machine.

Importing this loads no torch, as benchmarks of memory need.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

QWEN3_8B = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (12288, 4096),
    "mlp.up_proj": (12288, 4096),
    "mlp.down_proj": (4096, 12288),
}
"""(outputs, inputs) of the seven linear modules of a block."""

LAYERS = 36


def names_and_shapes(layers: int = LAYERS) -> list[tuple[str, int, int]]:
    """Return (module, outputs, inputs) of every adapted module; 252 of them for Qwen3-8B."""
    return [(f"model.layers.{i}.{name}", *shape) for i in range(layers) for name, shape in QWEN3_8B.items()]


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock measures work and not its queueing."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def take_turns(
    rivals: Mapping[str, Callable[[], Any]],
    repeat: int,
    device: torch.device,
    before: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
    """Return the seconds of every run of every rival; they take turns, after one run each that is not counted.

    Args:
        rivals: by name.
        repeat: runs of each.
        device: that is waited for.
        before: called with the rival's name before each run, outside the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(repeat + 1):
        for name, work in rivals.items():
            before(name)
            synchronise(device)
            start = time.perf_counter()
            work()
            synchronise(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each rival's runs."""
    return {name: statistics.median(runs) for name, runs in seconds.items()}


def machine(threads: int, packages: Iterable[str] = ("torch",), device: str = "cpu") -> dict[str, Any]:
    """Return what a reader needs to know about where a number comes from: kind of machine and versions, no names."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "threads": threads,
        "versions": {name: version(name) for name in packages},
    }
    if device == "cuda":
        import torch

        found["device"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def write_result(path: Path, **content: Any) -> None:
    """Write a result file beside the benchmark that printed it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
