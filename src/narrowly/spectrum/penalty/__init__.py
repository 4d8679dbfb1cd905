"""The spectral penalty: value and closed-form gradient from Gram matrices, by matrix products alone.

Lives here: the kinds of penalty (`kinds`), the batching of many pairs (`stacks`), and how a penalty enters training
(`in_training`, `decoupled`; `loss_term` for a term of a loss). Trainers and engineers' own loops call it.
"""

from narrowly.records.penalty_names import FORMS, KINDS, MODES
from narrowly.spectrum.penalty.loss_term import spectral_penalty
from narrowly.spectrum.penalty.of_model import SpectralPenalty
from narrowly.spectrum.penalty.stacks import flatten_storage

__all__ = ["FORMS", "KINDS", "MODES", "SpectralPenalty", "flatten_storage", "spectral_penalty"]
