"""Say where the factors of an adapter lie in its file: which tensor, and how that is seen as a matrix.

A view of a tensor shares its memory, so one description serves for reading factors and for writing them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from narrowly.spectrum.pairs import Skipped

View = Callable[[Tensor], Tensor]
"""From a stored tensor to a matrix that shares its memory."""


class Tensors(Protocol):
    """A file of tensors that is open for reading."""

    def get_tensor(self, name: str) -> Tensor:
        """Return one tensor, on the CPU."""


class TensorFile(Protocol):
    """A file of tensors."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    def opened(self) -> AbstractContextManager[Tensors]:
        """Return a context in which tensors can be read; what was read outlives it."""


class Factor(NamedTuple):
    """One factor: the key of its tensor, and the view that makes it rank x inputs (A) or outputs x rank (B)."""

    key: str
    view: View


class Place(NamedTuple):
    """Where the pair of one module lies, and its scale."""

    name: str
    A: Factor
    B: Factor
    scale: float


class Layout(NamedTuple):
    """An adapter as its tool wrote it.

    Attributes:
        tool: whose layout it is, for messages.
        file: with the factors.
        config: file with the scale, None where `file` has it.
        places: the modules whose update is `scale * B @ A`.
        skipped: everything else, with reasons.
        base: name of the base model as the tool wrote it; empty where it says none.
        revision: of the base; empty where the tool says none.
        read_only: why edited factors cannot be written back in this layout; None where they can.
    """

    tool: str
    file: TensorFile
    config: Path | None
    places: list[Place]
    skipped: list[Skipped]
    base: str
    revision: str = ""
    read_only: str | None = None


def as_it_is(tensor: Tensor) -> Tensor:
    """View a factor that is stored as the matrix that it is."""
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    """View a factor that is stored the other way round."""
    return tensor.T
