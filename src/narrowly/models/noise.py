"""Switch off what a base draws at random while it is trained: dropout, dropped layers, noise of a router.

A published config may ask for it, and a field that it leaves out may have a default that does (GPT-2: 0.1). The rule is
that a base is trained without; dropout of a run is that of its adapter (`adapter.dropout`). Config and file stay as
they are, so the run-id holds what the config asks for, and environment.json names what was switched off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PARTS = ("dropout", "pdrop", "layerdrop", "drop_path", "jitter")
"""Parts of the names of such fields in the configs of transformers 5.23 (attention_dropout, attn_pdrop, layerdrop,
router_jitter_noise ...); all are probabilities or widths from 0 to 1."""


def _is_noise(name: str, value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and any(p in name for p in _PARTS)
    )


def _places(config: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted path, what holds it, name) of every such field of a config, in nested ones too."""
    fields: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config)
    for name, value in list(fields.items()):
        if _is_noise(name, value):
            yield f"{path}{name}", config, name
        elif isinstance(value, dict) or hasattr(value, "model_type"):
            yield from _places(value, f"{path}{name}.")


def switch_off_noise(config: Any) -> dict[str, float]:
    """Set every such field of a config of transformers to 0; return those that were above, by dotted path."""
    found: dict[str, float] = {}
    for path, holder, name in _places(config):
        found[path] = float(holder[name] if isinstance(holder, dict) else getattr(holder, name))
        if isinstance(holder, dict):
            holder[name] = 0.0
        else:
            setattr(holder, name, 0.0)
    return found
