"""Make the edited adapters of a run's final checkpoint, each once and in its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from narrowly.records.adapter_files import ADAPTER_WEIGHTS, EDIT_RECORD
from narrowly.records.canonical import sha256_file
from narrowly.records.edits import EditSpec
from narrowly.records.errors import IntegrityError
from narrowly.records.files import read_record, write_json
from narrowly.runs.directory import SPECTRUM, adapter_folder


def edited_adapter(directory: Path, edit: EditSpec) -> Path:
    """Return the folder of an edited final adapter, made now where it does not exist, with its spectrum beside it.

    Raises:
        IntegrityError: the folder holds another edit, or weights that are not those of its record.
    """
    from narrowly.spectrum.edits import edit_adapter_folder
    from narrowly.spectrum.folder import pairs_from_folder
    from narrowly.spectrum.metrics import spectrum_table

    source, target = adapter_folder(directory, "final"), adapter_folder(directory, "final", edit.edit_id)
    if not (target / SPECTRUM).is_file():
        if target.exists():  # made by an attempt that was killed before the spectrum
            shutil.rmtree(target)
        edit_adapter_folder(source, target, edit)
        write_json(target / SPECTRUM, spectrum_table(pairs_from_folder(target)))
    record = checked_edit_record(target)
    wanted = [edit.model_dump(mode="json")]
    if record.get("edits", wanted) != wanted:  # names of edits are rounded to six digits
        raise IntegrityError(f"{target} holds the edit {record['edits']}, not {edit!r}; give the edit a rounder number")
    return target


def checked_edit_record(folder: Path) -> dict[str, Any]:
    """Return the record of an edited adapter, once its weights are known to be those of the record.

    Raises:
        IntegrityError: they are others, or the record cannot be read.
    """
    record, weights = read_record(folder / EDIT_RECORD), sha256_file(folder / ADAPTER_WEIGHTS)
    if record.get("sha256", weights) != weights:
        raise IntegrityError(f"{folder / ADAPTER_WEIGHTS} has sha256 {weights}, {EDIT_RECORD} says {record['sha256']}")
    return record
