"""Describe the arithmetic behind a log-likelihood; numbers of two descriptions are never compared.

A model in 4 bits is another model: Q4_1 was up to 2.3 nats per answer away from the same weights in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from narrowly.records.errors import SpecError
from narrowly.records.spec import Spec

BackendKind = Literal["transformers", "endpoint"]
"""What computes: Transformers in this process, or a server behind an OpenAI-compatible endpoint."""

UNKNOWN = "unknown"


class Arithmetic(Spec):
    """How log-likelihoods were computed. What a server does not say is `unknown`."""

    backend: BackendKind
    engine: str = Field(description="what computes: transformers, or what a server calls itself")
    dtype: str = Field(description="of the weights as they enter the sums: float32, bfloat16, float16 or unknown")
    quantisation: str | None = Field(None, description="of the stored weights, such as nf4 or Q4_1; None: none")
    device: str = Field(description="kind of device: cpu, cuda or unknown")

    def __str__(self) -> str:
        """Return it in words."""
        stored = "" if self.quantisation is None else f", weights in {self.quantisation}"
        by = self.engine if self.engine == self.backend else f"{self.engine} ({self.backend})"
        return f"{by} in {self.dtype}{stored} on {self.device}"


def is_unknown(arithmetic: Arithmetic) -> bool:
    """Return whether nobody has said in what a model computes: neither a dtype nor a quantisation."""
    return arithmetic.dtype == UNKNOWN and arithmetic.quantisation is None


def one_arithmetic(found: Iterable[tuple[str, Arithmetic]]) -> Arithmetic:
    """Return the arithmetic that all of them have.

    Args:
        found: name of the result, and its arithmetic; at least one.

    Raises:
        SpecError: two differ; both are named, with the fields that differ. Or there are two and one is unknown.
    """
    (first, arithmetic), *others = found
    unknown = next((name for name, one in [(first, arithmetic), *others] if is_unknown(one)), None)
    if others and unknown is not None:
        raise SpecError(
            f"nobody has said in what {unknown} computes, and numbers of an unknown arithmetic are compared with none; "
            "say it with --arithmetic, for instance bfloat16 or q4_1"
        )
    for name, other in others:
        if other != arithmetic:
            fields = [field for field in Arithmetic.model_fields if getattr(arithmetic, field) != getattr(other, field)]
            raise SpecError(
                f"{first} was computed by {arithmetic}, {name} by {other}: {', '.join(fields)} differ, and such "
                "numbers are not compared; accepted: both computed alike"
            )
    return arithmetic
