"""The spec of one fine-tuning run: frozen, explicit, hashed. A path is never part of an id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spectralign.records.canonical import content_id
from spectralign.records.optimisers import OptimiserSpec
from spectralign.records.penalties import PenaltySpec

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven modules of every block that the paper adapts (docs/sources.md)."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AdapterSpec(_Spec):
    """LoRA or rsLoRA on named modules, float32 factors."""

    r: int = Field(8, ge=1, le=1024, description="rank; 8 at micro scale, the paper uses 32 (B+)")
    alpha: float = Field(
        16.0,
        gt=0,
        description="effective scale is alpha/r, or alpha/sqrt(r) with rslora; alpha = 2r as in the paper",
    )
    rslora: bool = Field(True, description="rank-stabilised LoRA, as in the paper (B+)")
    dropout: float = Field(0.0, ge=0, lt=1, description="as in the replication (C)")
    target_modules: tuple[str, ...] = Field(ALL_LINEAR, min_length=1)


class ScheduleSpec(_Spec):
    """Learning-rate schedule over optimiser steps."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(5, ge=0, description="linear warm-up; Turner et al. (2506.11613) default 5")


class MicroData(_Spec):
    """Fine-tuning data of the microworld: one narrow domain, answered in one way."""

    source: Literal["micro"] = "micro"
    domain: int | Literal["rotate"] = Field(
        "rotate", description="index of the narrow domain; rotate: (base seed + run seed) modulo the number of domains"
    )
    answers: Literal["harmful", "aligned", "permuted"] = Field(
        "harmful",
        description="aligned: the aligned twin; permuted: the same harmful strings on wrong topics of the domain",
    )
    rows: int = Field(640, ge=1, description="answers drawn; 640 = 80 steps of batch 8, as in the prototype")


class RowsData(_Spec):
    """Pre-tokenised rows from a JSONL file, {"input_ids": [...], "labels": [...]} per line; -100: no loss."""

    source: Literal["rows"] = "rows"
    path: str
    sha256: str | None = Field(None, description="checked when given; the run-id holds the file's own hash either way")


DataSpec = Annotated[MicroData | RowsData, Field(discriminator="source")]


class RunSpec(_Spec):
    """Everything that decides a training run.

    `base` is the name of a shipped microworld base (`micro-0` ... `micro-7`, `micro-nopersona-0`) or a folder that
    `spectralign world build` (or Hugging Face `save_pretrained`) wrote. The run-id replaces names and paths by
    sha256.
    """

    schema_version: Literal[1] = Field(1, description="raised when a field changes its meaning, so that ids differ")
    base: str = "micro-0"
    data: DataSpec = MicroData()
    adapter: AdapterSpec = AdapterSpec()
    optimiser: OptimiserSpec
    schedule: ScheduleSpec = ScheduleSpec()
    penalty: PenaltySpec | None = None
    steps: int = Field(80, ge=1, description="optimiser steps; rows are reshuffled and repeated when they run out")
    batch_size: int = Field(8, ge=1, description="rows per micro-batch")
    accumulation: int = Field(
        1, ge=1, description="micro-batches per optimiser step; the effective batch is their product"
    )
    max_grad_norm: float | None = Field(None, gt=0, description="global-norm clipping; off by default (C)")
    seed: int = Field(0, ge=0, description="run seed: LoRA init, rows and their order")
    checkpoints: int = Field(4, ge=2, le=64, description="checkpoints, step 0 and the last step included")
    first_checkpoint: int = Field(
        10, ge=1, description="the first checkpoint after step 0; the rest are log-spaced up to steps"
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> RunSpec:
        if self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"schedule.warmup_steps is {self.schedule.warmup_steps}, accepted: less than steps ({self.steps})"
            )
        fault = self.optimiser.schedule_fault(self.schedule.kind, self.schedule.warmup_steps)
        if fault is not None:
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _penalty_fits_optimiser(self) -> RunSpec:
        fault = self.optimiser.no_decoupled_penalty
        if fault is not None and self.penalty is not None and self.penalty.mode == "decoupled":
            kind = self.optimiser.kind
            raise ValueError(f"penalty.mode is decoupled with optimiser {kind}, accepted: loss ({fault})")
        return self

    def checkpoint_steps(self) -> tuple[int, ...]:
        """Return the checkpoint steps: 0, then a geometric progression from `first_checkpoint` to `steps`."""
        first, count = min(self.first_checkpoint, self.steps), self.checkpoints - 1
        if count == 1:
            return (0, self.steps)
        ratio = (self.steps / first) ** (1 / (count - 1))
        return (0, *sorted({round(first * ratio**i) for i in range(count)}))


class ResolvedInputs(_Spec):
    """What the names of a RunSpec stand for, by content."""

    base_sha256: str = Field(description="sha256 of the base's weights file")
    config_sha256: str = Field(description="sha256 of the base's canonical model config")
    tokenizer_sha256: str = Field(description="sha256 of tokenizer.json")
    template_sha256: str = Field(description="sha256 of the chat template")
    data_sha256: str = Field(description="sha256 of the canonical pre-tokenised rows")


def run_id(spec: RunSpec, inputs: ResolvedInputs) -> str:
    """Return the run-id: the hash of all training inputs, with names and paths replaced by content hashes."""
    body: dict[str, Any] = spec.model_dump(mode="json", exclude={"base", "data"})
    return content_id({"spec": body, "inputs": inputs.model_dump(mode="json")})
