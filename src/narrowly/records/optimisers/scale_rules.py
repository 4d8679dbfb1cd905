"""The scale rules of Muon: what a rule multiplies the learning rate of one matrix by. No torch, no pydantic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

ScaleRule = Literal["original", "match_rms_adamw", "spectral_norm"]

SCALE_RULES: dict[ScaleRule, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_norm": lambda rows, columns: math.sqrt(rows / columns),
}
"""Factor on the learning rate of a rows x columns matrix: torch 2.13 default; Moonlight, arXiv 2502.16982; dion."""
