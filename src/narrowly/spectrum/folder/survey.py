"""Read the pairs of an adapter a few at a time, with a reason for every tensor that is no factor.

A whole adapter of an 8B model is 350 MB in float32. The file is mapped anew for every few modules, so that the pages
that were read can leave memory again. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from narrowly.records.errors import AdapterError
from narrowly.spectrum.folder.detect import layout_of
from narrowly.spectrum.folder.layout import Layout, Place
from narrowly.spectrum.folder.tensor_files import tensor_of
from narrowly.spectrum.pairs import LoraPair, Skipped, Survey, check_pairs, pair_fault, some_pairs

CHUNK = 16
"""Modules per mapping of the file: 22 MB of an 8B adapter at rank 32, and 16 headers of 60 kB parsed instead of 252."""

_ACCEPTED = "accepted: plain LoRA or rsLoRA (of linear layers, embeddings and experts)"


def survey_folder(path: Path | str) -> Survey:
    """Return the pairs of a saved adapter, and by name what has no usable pair.

    The pairs are in the file's order, on the CPU, in the dtype of the file. The layouts that are read are those of
    `layout_of`; each reader names what it reads of the tool's config.

    Raises:
        AdapterError: no adapter there, no or broken config, a pickle, a corrupt file, not one pair.
        MissingExtraError: where safetensors is not installed.
    """
    survey = Survey([], [])
    for chunk in survey_chunks(path):
        survey.pairs.extend(chunk.pairs)
        survey.skipped.extend(chunk.skipped)
    return some_pairs(survey, f"{path}: ")


def survey_chunks(path: Path | str, modules: int = CHUNK) -> Iterator[Survey]:
    """Yield the survey of an adapter a few modules at a time; a chunk that is let go leaves memory.

    Args:
        path: the adapter's folder or file.
        modules: modules per chunk.

    Raises:
        AdapterError, MissingExtraError: as `survey_folder`, but for an adapter without pairs.
    """
    layout = layout_of(Path(path))
    yield Survey([], layout.skipped)
    for start in range(0, len(layout.places), modules):
        survey = Survey([], [])
        for pair in _read(layout, layout.places[start : start + modules]):
            fault = pair_fault(pair)
            if fault:
                survey.skipped.append(Skipped(pair.name, fault))
            else:
                survey.pairs.append(pair)
        yield survey


def pairs_from_folder(path: Path | str) -> list[LoraPair]:
    """Return the pairs of a saved adapter, all of whose factors must belong to one.

    Tensors that stand beside the factors and leave their meaning alone (modules saved in full, single tokens, biases)
    are not looked at.

    Raises:
        AdapterError: as `survey_folder`, and for the first module or tensor that has no usable pair.
        MissingExtraError: where safetensors is not installed.
    """
    pairs: list[LoraPair] = []
    for chunk in survey_chunks(path):
        strange = [one for one in chunk.skipped if not one.beside]
        if strange:
            raise AdapterError(f"{path}: {strange[0].name}: {strange[0].reason}; {_ACCEPTED}")
        pairs.extend(chunk.pairs)
    return check_pairs(pairs)


def _read(layout: Layout, places: Sequence[Place]) -> Iterator[LoraPair]:
    read: dict[str, Tensor] = {}  # one tensor may hold the factors of many experts
    with layout.file.opened() as tensors:
        for place in places:
            for factor in (place.A, place.B):
                if factor.key not in read:
                    read[factor.key] = tensor_of(layout.file.path, tensors, factor.key)
            A_R_I, B_O_R = (factor.view(read[factor.key]) for factor in (place.A, place.B))
            yield LoraPair(place.name, A_R_I, B_O_R, place.scale)
