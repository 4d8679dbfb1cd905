"""Import the packages that engines stand on, each of them an extra of its own."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from narrowly.records.errors import MissingExtraError
from narrowly.records.install import install_hint


def needed(module: str, extra: str) -> ModuleType:
    """Import the package behind an engine.

    Raises:
        MissingExtraError: it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"--engine {extra} needs {module.partition('.')[0]}; add it with: {install_hint(extra)}"
        ) from error
