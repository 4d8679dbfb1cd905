"""Bring what a file says to the type of its field: numbers, flags, lists, names."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from typing import Any

from narrowly.audit.optimiser_names import canonical_optimiser
from narrowly.audit.record import Field, explicit, unknown

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][+-]?\d+)?\Z")
_TEMPLATE = re.compile(r"\$\{|\{\{|\$[A-Za-z_(]|<%|\{[A-Za-z_][\w.]*\}")
_SCHEDULERS = {
    "cosineannealinglr": "cosine",
    "get_cosine_schedule_with_warmup": "cosine",
    "cosineannealing": "cosine",
    "warmupcosinelr": "cosine",
    "get_linear_schedule_with_warmup": "linear",
    "linearlr": "linear",
    "get_constant_schedule": "constant",
    "constantlr": "constant",
    "get_constant_schedule_with_warmup": "constant_with_warmup",
    "get_wsd_schedule": "warmup_stable_decay",
    "get_polynomial_decay_schedule_with_warmup": "polynomial",
    "get_inverse_sqrt_schedule": "inverse_sqrt",
    "steplr": "step",
    "multisteplr": "multistep",
    "reducelronplateau": "reduce_lr_on_plateau",
    "onecyclelr": "one_cycle",
}
NUMBERS = frozenset(
    "learning_rate weight_decay epochs lora_alpha lora_dropout beta1 beta2 eps momentum lora_plus_ratio "
    "learning_rate_multiplier warmup_ratio max_grad_norm".split()
)
WHOLE = frozenset("max_steps lora_r warmup_steps batch_size accumulation seed".split())
FLAGS = frozenset("use_rslora use_dora".split())
LISTS = frozenset("lora_targets datasets".split())
_SIZES = {"ONE": 1, "TWO": 2, "FOUR": 4, "EIGHT": 8, "SIXTEEN": 16, "THIRTY_TWO": 32}
"""Ranks by their names after `ADAPTER_SIZE_`, as Google's tuning calls them (`google.genai.types.AdapterSize`)."""
_TRUE, _FALSE = ("true", "yes", "on", "1", "y"), ("false", "no", "off", "0", "n", "none", "null", "")


def number(value: Any) -> int | float | None:
    """Return a number, also one that is written as text; None where it is none.

    PyYAML reads `2e-5` (no dot) as text; every tool makes a float of it. Not finite and not a number are None.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value if abs(value) < 10**18 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str) and len(value) <= 40 and _NUMBER.match(value.strip()):
        text = value.strip().replace("_", "")
        found = float(text)
        if not math.isfinite(found):
            return None
        return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else found
    return None


def flag(value: Any) -> bool | None:
    """Return a flag, also one that is written as text; None where it is none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    return True if word in _TRUE else False if word in _FALSE else None


def listed(value: Any) -> list[Any] | str | None:
    """Return a list of names: from a list, or from text with commas or brackets; one word is a list of one.

    `all-linear`, `all` and regular expressions stay what they are: text.
    """
    if isinstance(value, list | tuple | set | frozenset):
        return sorted(map(str, value)) if isinstance(value, set | frozenset) else list(value)
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()
    if text[0] in "[(":
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = [part.strip(" '\"") for part in text.strip("[]()").split(",") if part.strip()]
        return list(found) if isinstance(found, list | tuple) else [found]
    if text in ("all-linear", "all", "all_linear") or any(sign in text for sign in "*\\^$()|+?"):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def canonical_scheduler(value: Any) -> str | None:
    """Return a scheduler's name: that of Transformers where the class or function is known, else its last part."""
    if not isinstance(value, str) or not value.strip():
        return None
    last = value.strip().rsplit(".", 1)[-1]
    lower = last.lower()
    return _SCHEDULERS.get(
        lower, lower if lower in _SCHEDULERS.values() or value.startswith("SchedulerType.") else last
    )


def _whole(value: Any) -> int | float | None:
    found = number(value)
    return int(found) if found is not None and found == int(found) else found


def _optimiser(value: Any) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    return canonical_optimiser(value) or value.strip().strip("\"'")


def _text(value: Any) -> Any:
    return value


def _typed(name: str) -> Callable[[Any], Any]:
    if name == "optimiser":
        return _optimiser
    if name == "scheduler":
        return canonical_scheduler
    for names, convert in ((NUMBERS, number), (WHOLE, _whole), (FLAGS, flag), (LISTS, listed)):
        if name in names:
            return convert
    return _text


def typed_field(name: str, value: Any, at: str | None, raw: Any = None) -> Field:
    """Return the explicit field for what a file says, or an unknown one where it is not of the field's type.

    Args:
        name: of `record.FIELDS`.
        value: as parsed.
        at: `file:line`.
        raw: the spelling, where it is another than `value`.
    """
    spelled = value if raw is None else raw
    if isinstance(value, str) and _TEMPLATE.search(value) and name not in ("lora_targets",):
        return unknown(f"{value!r} is filled in by something outside this file", at, spelled)
    if value is None:
        return explicit(None, at, spelled)
    found = _typed(name)(value)
    if name == "lora_r" and found is None and isinstance(value, str):
        found = _SIZES.get(value.removeprefix("ADAPTER_SIZE_"))
    if found is None:
        return unknown(f"{str(value)[:80]!r} cannot be read as {name}", at, spelled)
    same = type(found) is type(spelled) and found == spelled
    return explicit(found, at, None if same else spelled)
