"""Name the kinds, forms and modes of the spectral penalty; strings alone, for its spec and for torch-only code."""

from __future__ import annotations

from typing import Literal, get_args

PenaltyKind = Literal[
    "frobenius_nuclear",
    "norm_held",
    "functional",
    "project",
    "spectral_entropy",
    "condition_number",
    "stable_rank",
    "spectral_norm",
    "nuclear_norm",
    "norm_only",
]
PenaltyForm = Literal["gram", "cholesky_g1"]
PenaltyMode = Literal["loss", "decoupled"]
CovarianceKind = Literal["full", "diagonal"]

KINDS: dict[PenaltyKind, str] = {
    "frobenius_nuclear": "the paper's: Frobenius over nuclear norm, 0 for a flat spectrum",
    "norm_held": "the same, without the part of its gradient that changes the Frobenius norm of the update",
    "functional": "the same of dW C^(1/2), C a running covariance of the module's inputs",
    "project": "no gradient: every few steps the spectrum is flattened in part, at its Frobenius norm",
    "spectral_entropy": "ln r minus the entropy of the singular values over their sum",
    "condition_number": "logarithm of the largest over the smallest singular value",
    "stable_rank": "hinge: 1 - stable rank / target below the target, 0 above it",
    "spectral_norm": "largest singular value; shrinks the update",
    "nuclear_norm": "sum of singular values; shrinks the update and makes its spectrum more peaked",
    "norm_only": "placebo: Frobenius norm; shrinks the update and leaves its spectrum's shape",
}
"""Every kind of penalty, in one line."""

FORMS: tuple[PenaltyForm, ...] = get_args(PenaltyForm)
MODES: tuple[PenaltyMode, ...] = get_args(PenaltyMode)
COVARIANCES: tuple[CovarianceKind, ...] = get_args(CovarianceKind)
