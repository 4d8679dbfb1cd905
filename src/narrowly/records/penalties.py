"""Specify a spectral penalty: every field explicit, every field in the run-id."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from narrowly.records.penalty_names import CovarianceKind, PenaltyForm, PenaltyKind, PenaltyMode
from narrowly.records.spec import Spec

_OPTIONS: dict[str, dict[str, Any]] = {
    "project": {"every": 1},
    "stable_rank": {"target": None},
    "functional": {"decay": 0.99, "covariance": "full"},
}
"""Fields that belong to one kind only, with their defaults; None: the field has to be given."""


class PenaltySpec(Spec):
    """Penalise a LoRA update by lambda times the mean over modules of one function of its singular values.

    `narrowly.spectrum.SpectralPenalty` takes the same fields and says what they do.
    """

    kind: PenaltyKind = Field("frobenius_nuclear", description="frobenius_nuclear is the paper's (B)")
    lam: float = Field(ge=0, description="lambda; the paper's value is unknown. Of project: the strength, 0 to 1")
    form: PenaltyForm = Field(
        "gram",
        description="gram: closed form from Gram matrices; cholesky_g1: the paper's Appendix G.1 with its 1e-8 jitter",
    )
    mode: PenaltyMode = Field(
        "loss", description="loss: added to the loss, as in the paper (B); decoupled: applied to the parameters"
    )
    warmup_steps: int = Field(0, ge=0, description="optimiser steps over which lambda rises from 0; none as default")
    max_grad_ratio: float | None = Field(
        None, ge=0, description="largest norm of its gradient, in units of the task gradient's; none as default"
    )
    target: Annotated[float, Field(ge=1)] | None = Field(None, description="of stable_rank: where it stops to push")
    every: Annotated[int, Field(ge=1)] | None = Field(None, description="of project: steps between two projections")
    decay: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="of functional: share of the old covariance kept per step; 0.99, ours"
    )
    covariance: CovarianceKind | None = Field(None, description="of functional: full, unless it is large")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Write the defaults that depend on the kind into the spec, so that they are in the run-id."""
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        kind = filled.get("kind", "frobenius_nuclear")
        if kind == "project":
            filled.setdefault("mode", "decoupled")
        for name, default in _OPTIONS.get(kind, {}).items() if isinstance(kind, str) else ():
            if filled.get(name) is None:
                filled[name] = default
        return filled

    @model_validator(mode="after")
    def _fits_its_kind(self) -> PenaltySpec:
        for kind, options in _OPTIONS.items():
            for name in options:
                found = getattr(self, name)
                if kind != self.kind and found is not None:
                    raise ValueError(f"{name} is {found!r} with kind {self.kind}, accepted: only with kind {kind}")
                if kind == self.kind and found is None:
                    raise ValueError(f"{name} is missing, which kind {kind} needs")
        if self.kind == "project":
            if self.lam > 1:
                raise ValueError(f"lam is {self.lam:g}, accepted for project: its strength, 0 to 1")
            if self.mode == "loss" or self.max_grad_ratio is not None:
                raise ValueError("project has no gradient, accepted: mode decoupled and no max_grad_ratio")
        plain = self.kind == "frobenius_nuclear" and self.mode == "loss" and self.max_grad_ratio is None
        if self.form == "cholesky_g1" and not plain:
            raise ValueError("form cholesky_g1, accepted: kind frobenius_nuclear in mode loss without max_grad_ratio")
        return self
