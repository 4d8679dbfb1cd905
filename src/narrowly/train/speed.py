"""How fast a run goes and how much memory it takes: recorded beside the results, never among them."""

from __future__ import annotations

import sys
import time
from typing import TypedDict

from narrowly.records.run_spec import RunSpec


class SpeedRow(TypedDict):
    """One optimiser step: tokens read (padding left out), seconds without what a checkpoint takes, rows per pass.

    `memory_bytes` is the largest amount so far: allocated on the GPU, or resident for a run on the CPU.
    `micro_batch` is smaller than the spec's `batch_size` where memory did not suffice for that.
    """

    step: int
    tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int
    micro_batch: int


class Speed:
    """A stopwatch over optimiser steps."""

    def __init__(self, spec: RunSpec) -> None:
        self.device = spec.device
        if spec.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()  # an earlier run of this process may have needed more
        self.begin()

    def begin(self) -> None:
        """Start the next step's time."""
        self._began = time.perf_counter()

    def of_step(self, step: int, tokens: int, micro_batch: int) -> SpeedRow:
        """Return the row of the step that has just ended."""
        seconds = time.perf_counter() - self._began
        return {
            "step": step,
            "tokens": tokens,
            "seconds": round(seconds, 6),
            "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "memory_bytes": peak_memory(self.device),
            "micro_batch": micro_batch,
        }


def peak_memory(device: str) -> int:
    """Return the most bytes held so far: by torch on the GPU, or resident by this process on the CPU (0 if unknown)."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return 0
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024
