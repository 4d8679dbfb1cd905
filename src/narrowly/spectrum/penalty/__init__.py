"""The spectral penalty: value and closed-form gradient from Gram matrices, by matrix products alone.

kinds.py          the penalties as functions of two Gram matrices
stacks.py         many pairs as few batched products
of_model.py       SpectralPenalty: the penalty in a training loop
decoupled.py      its mode "decoupled": steps and projections beside the optimiser
loss_term.py      the penalty as a term of a loss
appendix_g1.py    the paper's own route (Appendix G.1)
covariance.py     the running covariance of inputs that the kind "functional" needs
task_gradient.py  the norm of the task gradient, which bounds the penalty's
options.py        what is accepted
precision.py      float32 that is float32
"""

from narrowly.records.penalty_names import FORMS, KINDS, MODES
from narrowly.spectrum.penalty.loss_term import spectral_penalty
from narrowly.spectrum.penalty.of_model import SpectralPenalty
from narrowly.spectrum.penalty.stacks import flatten_storage

__all__ = ["FORMS", "KINDS", "MODES", "SpectralPenalty", "flatten_storage", "spectral_penalty"]
