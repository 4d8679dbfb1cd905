"""Spectrum: LoRA pairs, singular values of their update, metrics, the spectral penalty, edits and comparisons.

Lives here: everything that is computed from the two factors of an adapter and nothing else. Any higher room
may call it, and so may an engineer who wants this part alone. It calls torch and, of
`narrowly.records`, errors, files and hashes; safetensors is imported only when a folder is read or written.
"""

from narrowly.spectrum.compare import compare_adapters, hybrids
from narrowly.spectrum.edits import apply_edit, apply_edit_to_model, edit_adapter_folder
from narrowly.spectrum.folder import pairs_from_folder, survey_folder
from narrowly.spectrum.metrics import (
    METRICS,
    SpectrumMetrics,
    folder_spectrum,
    spectrum_metrics,
    spectrum_summary,
    spectrum_table,
    update_norm,
)
from narrowly.spectrum.pairs import LoraPair, Skipped, Survey, pairs_from_model, survey_model
from narrowly.spectrum.penalty import SpectralPenalty, flatten_storage, spectral_penalty
from narrowly.spectrum.values import singular_values, singular_values_all, singular_values_g1

__all__ = [
    "METRICS",
    "LoraPair",
    "Skipped",
    "SpectralPenalty",
    "SpectrumMetrics",
    "Survey",
    "apply_edit",
    "apply_edit_to_model",
    "compare_adapters",
    "edit_adapter_folder",
    "flatten_storage",
    "folder_spectrum",
    "hybrids",
    "pairs_from_folder",
    "pairs_from_model",
    "singular_values",
    "singular_values_all",
    "singular_values_g1",
    "spectral_penalty",
    "spectrum_metrics",
    "spectrum_summary",
    "spectrum_table",
    "survey_folder",
    "survey_model",
    "update_norm",
]
