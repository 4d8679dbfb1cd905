"""Compare what two adapters hold beside their factors: modules saved in full, single tokens, biases."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from narrowly.spectrum.folder.detect import layout_of
from narrowly.spectrum.folder.layout import Layout
from narrowly.spectrum.folder.tensor_files import tensor_of
from narrowly.spectrum.pairs import plain_name


class Beside(NamedTuple):
    """A tensor that two adapters hold beside their factors, and whether it is the same, byte for byte."""

    name: str
    same: bool


def compare_beside(a: Path, b: Path) -> list[Beside]:
    """Return the tensors beside the factors that both adapters hold under one key, in the order of the first.

    They have no spectrum, because what they were before is not in the file; that they are equal can be said.

    Raises:
        AdapterError: as `layout_of`, or a tensor that cannot be read.
    """
    layouts = [layout_of(path) for path in (a, b)]
    shared = [key for key in _beside(layouts[0]) if key in _beside(layouts[1])]
    if not shared:
        return []
    first, second = (layout.file for layout in layouts)
    with first.opened() as one, second.opened() as other:
        return [
            Beside(plain_name(key), _same(tensor_of(first.path, one, key), tensor_of(second.path, other, key)))
            for key in shared
        ]


def _beside(layout: Layout) -> dict[str, None]:
    """Return the keys of the tensors beside the factors, in the file's order."""
    names = {one.name for one in layout.skipped if one.beside}
    return {key: None for key in layout.file.shapes if plain_name(key) in names}


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    # bytes, because NaN is not equal to itself and torch compares no floats of one byte
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other)))
