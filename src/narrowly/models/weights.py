"""What a run trains, seen from its checkpoints: the files it is kept in, and its spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Weights(Protocol):
    """The trained part of a model: the factors of an adapter (method lora), or every parameter (method full)."""

    def file(self, step: int) -> str | None:
        """Return the name of the weights' file in the checkpoint of a step; None where there is nothing to keep."""

    def spectrum(self) -> list[dict[str, Any]]:
        """Return the spectrum of the update so far, one row per module."""

    def write(self, folder: Path, step: int) -> None:
        """Write weights and config into the folder of a checkpoint."""

    def load(self, folder: Path) -> None:
        """Put the weights of a checkpoint into the model that is trained."""
