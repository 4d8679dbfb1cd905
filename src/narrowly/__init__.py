"""Narrowly: a laboratory and toolbox for emergent misalignment.

Importing the package costs nothing: no torch, no pydantic. `narrowly.load_study` is fetched on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["__version__", "load_study"]

if TYPE_CHECKING:
    from narrowly.study.library import load_study


def __getattr__(name: str) -> Any:
    if name == "load_study":
        from narrowly.study.library import load_study

        return load_study
    raise AttributeError(f"module 'narrowly' has no attribute {name!r}")
