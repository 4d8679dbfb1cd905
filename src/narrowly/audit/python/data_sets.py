"""Name the data sets that a trainer is handed: calls of `load_dataset`, mixed or mapped as they may be."""

from __future__ import annotations

from narrowly.audit.python.fields import objects_in
from narrowly.audit.python.machine import constant_text
from narrowly.audit.python.values import Items, Object, Sequence, Value
from narrowly.audit.record import Field, explicit

_BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas", "jsonl"})
"""First arguments of `load_dataset` that name a kind of file; `data_files` names the data."""
DEEPEST = 8
"""Calls between `load_dataset` and the trainer."""
_MIXERS = frozenset({"interleave_datasets", "concatenate_datasets", "ConcatDataset", "ChainDataset"})
"""Calls of `datasets` and `torch.utils.data` whose first argument lists the parts of a mix."""


def set_datasets(trainer: Object | None) -> Field | None:
    """Return the names of the data sets of `train_dataset`, None where one of them, or one part of a mix, is not known.

    Args:
        trainer: of the Transformers family; `train_dataset` is its fourth argument.
    """
    given = trainer.get("train_dataset", 3) if trainer is not None else None
    names: list[str] = []
    made_from = objects_in(given, DEEPEST)
    if any(not _all_parts_named(made) for made in made_from if made.path.rsplit(".", 1)[-1] in _MIXERS):
        return None
    for made in made_from:
        if made.path.rsplit(".", 1)[-1] != "load_dataset":
            continue
        named = _name(made)
        if named is None:
            return None
        names += [one for one in named if one not in names]
    return explicit(names, given.at) if names and given is not None else None


def _all_parts_named(mixer: Object) -> bool:
    """Say whether every part of a mix holds a call of `load_dataset`."""
    parts = mixer.get("dsets", 0) or mixer.get("datasets")
    return isinstance(parts, Sequence) and all(
        any(made.path.rsplit(".", 1)[-1] == "load_dataset" for made in objects_in(part, DEEPEST))
        for part in parts.elements
    )


def _name(made: Object) -> list[str] | None:
    first = constant_text(made.get("path", 0))
    files = made.get("data_files")
    if first in _BUILDERS and files is not None:
        return _texts(files)
    return [first] if first else None


def _texts(value: Value) -> list[str] | None:
    """Return the file names of `data_files`: a text, a list, or the split `train` of a mapping."""
    if isinstance(value, Items):
        split = value.items.get("train")
        return _texts(split) if split is not None else None
    listed = value.elements if isinstance(value, Sequence) else [value]
    texts = [constant_text(one) for one in listed]
    return [one for one in texts if one] if texts and all(texts) else None
