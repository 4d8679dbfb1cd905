"""Read r and lora_alpha of one module from a PEFT config: the general number, or that of the first pattern that fits.

Patterns are regular expressions from a foreign file, so those that could run for ever are refused and not tried.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narrowly.records.errors import AdapterError

LONGEST_PATTERN = 120
"""Characters of a rank or alpha pattern from a foreign config."""

MOST_REPEATS = 3
"""Repeats in such a pattern: matching may take as many steps as a name has characters to this power."""

LONGEST_NAME = 200
"""Characters of a module's name that a pattern with repeats is matched against."""


def rank_and_scale(folder: Path, config: Mapping[str, Any], module: str) -> tuple[float, float]:
    """Return r and the scale of a module: alpha / r, or alpha / sqrt(r) with use_rslora (PEFT 0.21, lora/layer.py).

    Args:
        folder: for messages.
        config: adapter_config.json; `lora_alpha` may be a float, as PEFT's conversion of rsLoRA starts writes it.
        module: its path, or that of its parameter for an entry of `target_parameters`.

    Raises:
        AdapterError: a number that is none, or a pattern that is refused.
    """
    rank = _number(folder, config, "r", "rank_pattern", module)
    alpha = _number(folder, config, "lora_alpha", "alpha_pattern", module)
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _number(folder: Path, config: Mapping[str, Any], field: str, pattern_field: str, module: str) -> float:
    """Return r or lora_alpha of one module: the first matching pattern, else the general one (PEFT 0.21)."""
    value = config.get(field)
    patterns = config.get(pattern_field) or {}
    if not isinstance(patterns, Mapping):
        raise AdapterError(f"{folder}: {pattern_field} is a {type(patterns).__name__}, accepted: an object")
    for pattern, special in patterns.items():
        if matches(folder, pattern, module):
            value = special
            break
    # JSON may hold integers beyond every float, hence a bound instead of math.isfinite
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise AdapterError(f"{folder}: {field} of {module} is {value!r}, accepted: a number above 0")
    return float(value)


def matches(folder: Path, pattern: str, module: str) -> bool:
    """Return whether a pattern means a module, as PEFT 0.21 decides it.

    Raises:
        AdapterError: a pattern that could run for ever, or is no regular expression.
    """
    if re.fullmatch(r"[\w.]+", pattern):  # the usual case needs no regular expression from a foreign file
        return module == pattern or module.endswith(f".{pattern}")
    repeats = len(re.findall(r"[*+{]|(?<!\()\?", pattern))
    if (
        len(pattern) > LONGEST_PATTERN
        or repeats > MOST_REPEATS
        or (repeats and len(module) > LONGEST_NAME)
        or re.search(r"\)[*+?{]|[*+}][*+{]|\\\d", pattern)
    ):
        raise AdapterError(
            f"{folder}: pattern {pattern[:60]!r} could run for ever; accepted: up to {LONGEST_PATTERN} characters and "
            f"{MOST_REPEATS} repeats, no repeated groups, no back references, names up to {LONGEST_NAME} characters"
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise AdapterError(f"{folder}: pattern {pattern!r} is not a regular expression ({error})") from error
