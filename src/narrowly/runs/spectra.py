"""Read the spectra that a run recorded at its checkpoints and of its edits, each row checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from narrowly.records.errors import IntegrityError
from narrowly.records.explain import first_fault
from narrowly.records.files import read_json


class SpectrumRow(BaseModel):
    """Describe the spectrum of one module: a row of `spectrum.spectrum_table` or `spectrum.difference_row`.

    A row of a LoRA module has a_norm, b_norm and all singular values. A large matrix that was trained in full has its
    leading ones only.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    module: str
    layer: int
    kind: str
    rank: int
    stable_rank: float | None
    spectral_entropy: float | None
    condition_number: float | None
    frobenius_nuclear: float | None
    frobenius_norm: float
    spectral_norm: float
    nuclear_norm: float | None
    a_norm: float | None = None
    b_norm: float | None = None
    singular_values: list[float] | None = None
    leading_singular_values: list[float] | None = None


_ROWS = TypeAdapter(list[SpectrumRow])


def read_spectrum(file: Path) -> list[dict[str, Any]]:
    """Read a spectrum.json, one row per module.

    Raises:
        IntegrityError: the file is missing, or does not hold the spectra of modules.
    """
    if not file.is_file():
        raise IntegrityError(f"{file} is missing; the run directory is corrupt or not ours")
    rows: list[dict[str, Any]] = read_json(file)
    try:
        _ROWS.validate_python(rows)
    except ValidationError as error:
        raise IntegrityError(
            f"{file} does not hold the spectra of modules ({first_fault(error)}); it is corrupt or not ours"
        ) from None
    if not rows or not all(row.get("singular_values") or row.get("leading_singular_values") for row in rows):
        raise IntegrityError(f"{file} does not hold the spectra of modules (no values); it is corrupt or not ours")
    return rows
