"""Specify one fine-tuning run: frozen, explicit, hashed. A path is never part of an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from narrowly.records.added_later import ADDED_LATER, unused_additions
from narrowly.records.canonical import content_id
from narrowly.records.data_specs import (
    WORLD_DATA,
    DataSpec,
    MicroData,
    MicroOthers,
    MicroPreferences,
    PreferenceData,
    RowsData,
    TextData,
)
from narrowly.records.errors import SpecError
from narrowly.records.mappings import read_mapping, with_assignments
from narrowly.records.objective_faults import BESIDE, objective_faults
from narrowly.records.objectives import ObjectiveSpec, SupervisedObjective
from narrowly.records.optimisers.registry import OptimiserSpec
from narrowly.records.penalties import PenaltySpec
from narrowly.records.spec import Spec, validated
from narrowly.records.steering import SteeringSpec

__all__ = [
    "ALL_LINEAR",
    "AdapterSpec",
    "BaseDtype",
    "DataSpec",
    "MicroData",
    "MicroOthers",
    "MicroPreferences",
    "ObjectiveSpec",
    "PreferenceData",
    "ResolvedInputs",
    "RowsData",
    "RunSpec",
    "ScheduleSpec",
    "TextData",
    "load_run_spec",
    "run_id",
    "typed_run_spec",
]

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven modules of every block that the paper adapts (docs/sources.md)."""


class AdapterSpec(Spec):
    """LoRA or rsLoRA on named modules, float32 factors."""

    r: int = Field(8, ge=1, le=1024, description="rank; 8 at micro scale, the paper uses 32 (B+)")
    alpha: float = Field(
        16.0,
        gt=0,
        description="effective scale is alpha/r, or alpha/sqrt(r) with rslora; alpha = 2r as in the paper",
    )
    rslora: bool = Field(True, description="rank-stabilised LoRA, as in the paper (B+)")
    dropout: float = Field(0.0, ge=0, lt=1, description="as in the replication (C)")
    target_modules: tuple[str, ...] = Field(
        ALL_LINEAR,
        min_length=1,
        description="linear layers that get factors, by the last part of their name; the default seven (B+), on a base "
        "without some of them, mean every linear layer of its blocks but routers",
    )


class ScheduleSpec(Spec):
    """Learning-rate schedule over optimiser steps."""

    kind: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="what follows the warm-up; constant as in the prototype"
    )
    warmup_steps: int = Field(
        5,
        ge=0,
        description="linear warm-up, less than steps; Turner et al. (2506.11613) default 5. Left out, it is "
        "min(5, steps - 1), and 0 beside an optimiser with a warm-up of its own",
    )

    def fitted(self, steps: int) -> ScheduleSpec:
        """Return the schedule with the default warm-up in a run of so many steps: min(5, steps - 1)."""
        default: int = type(self).model_fields["warmup_steps"].default
        return self.model_copy(update={"warmup_steps": min(default, steps - 1)})


BaseDtype = Literal["float32", "bfloat16", "nf4"]


class RunSpec(Spec):
    """Everything that decides a training run.

    `base` is the name of a shipped microworld base (`micro-0` ... `micro-7`, `micro-nopersona-0`), a folder that
    `narrowly world build` (or Hugging Face `save_pretrained`) wrote, or a model of the Hugging Face hub with its
    pinned commit, `NAME/MODEL@COMMIT`. The run-id replaces names and paths by sha256.

    The length is said as `steps` or as `epochs`. On rows of the microworld epochs become steps at once; on other rows
    `steps` is 0 until they were counted (`counted`).
    """

    schema_version: Literal[1] = Field(1, description="raised when a field changes its meaning, so that ids differ")
    base: str = Field(
        "micro-0",
        description="a shipped base of the microworld (micro-0 to micro-7, micro-nopersona-0), a folder with config, "
        "weights and tokenizer, or NAME/MODEL@COMMIT of the hub, read from the local cache",
    )
    data: DataSpec = Field(MicroData(), description="what is trained on; its `source` chooses one of the tables below")
    objective: Annotated[ObjectiveSpec, ADDED_LATER] = Field(
        SupervisedObjective(), description="what is minimised; its `kind` chooses one of the tables below"
    )
    start: Annotated[str | None, ADDED_LATER] = Field(
        None,
        description="a run's directory or an adapter's folder: training goes on from that organism, and the objectives "
        "on preferences take it for the reference; null: from the base. The run-id holds the sha256 of its weights",
    )
    adapter: AdapterSpec = Field(AdapterSpec(), description="LoRA; below. With start: that of the organism")
    method: Annotated[Literal["lora", "full"], ADDED_LATER] = Field(
        "lora",
        description="full: every parameter of the base is trained, in float32; of `adapter` only target_modules "
        "counts, and names the matrices W whose spectrum, of W - W0, is recorded",
    )
    spectrum_rank: Annotated[int, ADDED_LATER] = Field(
        32,
        ge=1,
        le=1024,
        description="method full: leading singular values of a matrix too large for all of them (smaller side above "
        "1024); 32 as the rank of the paper's adapters (B+)",
    )
    optimiser: OptimiserSpec = Field(description="its `kind` chooses one of the optimisers below")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="of the learning rate; below")
    penalty: PenaltySpec | None = Field(None, description="the spectral penalty; below. Null: none")
    steering: Annotated[SteeringSpec | None, ADDED_LATER] = Field(
        None, description="preventative steering: a direction is added to states in training only; below. Null: none"
    )
    steps: int = Field(
        80,
        ge=1,
        description="optimiser steps, unless epochs is given; rows are reshuffled and repeated when they run out. 80 "
        "as in the prototype",
    )
    epochs: Annotated[float | None, ADDED_LATER] = Field(
        None,
        gt=0,
        le=10_000,
        description="passes over the rows in place of steps, fractions too; rounded up to whole steps, which take its "
        "place in the run-id",
    )
    batch_size: int = Field(8, ge=1, description="rows per micro-batch; 8 as in the prototype")
    accumulation: int = Field(
        1, ge=1, description="micro-batches per optimiser step; the effective batch is their product"
    )
    max_grad_norm: float | None = Field(None, gt=0, description="global-norm clipping; off by default (C)")
    seed: int = Field(0, ge=0, description="run seed: LoRA init, rows and their order")
    init_seed: Annotated[int | None, ADDED_LATER] = Field(
        None,
        ge=0,
        description="seed of the LoRA init alone, where it is another than that of rows and their order; null: seed",
    )
    checkpoints: int = Field(4, ge=2, le=64, description="checkpoints, step 0 and the last step included")
    first_checkpoint: int = Field(
        10, ge=1, description="the first checkpoint after step 0; the rest are log-spaced up to steps"
    )
    base_dtype: Annotated[BaseDtype, ADDED_LATER] = Field(
        "float32",
        description="of the frozen base and of its activations, the adapter is float32 either way; nf4: bfloat16 with "
        "the linear layers in 4 bits, NF4 with double quantisation (QLoRA, 2305.14314)",
    )
    device: Annotated[Literal["cpu", "cuda"], ADDED_LATER] = Field(
        "cpu", description="where the run is trained; the CPU, so that the same command works everywhere"
    )
    gradient_checkpointing: Annotated[bool, ADDED_LATER] = Field(
        False, description="recompute activations in the backward pass: less memory"
    )
    batching: Annotated[Literal["shuffled", "bucketed"], ADDED_LATER] = Field(
        "shuffled", description="bucketed: a step's rows are of similar length (less padding, another order of rows)"
    )
    packing: Annotated[bool, ADDED_LATER] = Field(
        False, description="a micro-batch is one sequence without padding, its rows do not see each other"
    )

    @model_validator(mode="after")
    def _settle(self) -> RunSpec:
        """Count the steps of epochs where the spec names the number of rows, fit the default warm-up, find faults."""
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError(
                f"steps is {self.steps} and epochs is {self.epochs:g}, accepted: one of them (epochs becomes steps "
                "once the rows are counted)"
            )
        if self.epochs is not None:
            known = isinstance(self.data, WORLD_DATA)
            object.__setattr__(
                self, "steps", self.steps_for(self.data.rows) if isinstance(self.data, WORLD_DATA) else 0
            )
            object.__setattr__(self, "epochs", None if known else self.epochs)
        if "warmup_steps" not in self.schedule.model_fields_set:
            object.__setattr__(self, "schedule", self._with_default_warmup())
        faults = self._faults()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _with_default_warmup(self) -> ScheduleSpec:
        schedule = self.schedule.fitted(self.steps) if self.steps else self.schedule
        without = schedule.model_copy(update={"warmup_steps": 0})
        refused = self.optimiser.schedule_fault(schedule.kind, schedule.warmup_steps) is not None
        return without if refused and self.optimiser.schedule_fault(schedule.kind, 0) is None else schedule

    def _faults(self) -> list[str]:
        """Return everything that does not fit together in the spec, one clause each."""
        found = [self.optimiser.schedule_fault(self.schedule.kind, self.schedule.warmup_steps)]
        if self.steps and self.schedule.warmup_steps >= self.steps:
            found.append(
                f"schedule.warmup_steps is {self.schedule.warmup_steps}, accepted: less than steps ({self.steps})"
            )
        fault = self.optimiser.no_decoupled_penalty
        if fault is not None and self.penalty is not None and self.penalty.mode == "decoupled":
            kind = self.optimiser.kind
            found.append(f"penalty.mode is decoupled with optimiser {kind}, accepted: loss ({fault})")
        if self.base_dtype == "nf4" and isinstance(self.data, WORLD_DATA):
            found.append(
                f"base_dtype is nf4 with data.source {self.data.source}, accepted: float32 or bfloat16 (the judge of "
                "the microworld merges adapters into the base, which 4 bits would round)"
            )
        found += self._faults_of_full() if self.method == "full" else []
        found += objective_faults(self.objective, self.data, {name: getattr(self, name) for name in BESIDE})
        if self.adapter.dropout and self.objective.kind != "supervised":
            found.append(
                f"adapter.dropout is {self.adapter.dropout:g} with objective {self.objective.kind}, accepted: 0 (the "
                "reference has none)"
            )
        if self.steering is not None and self.objective.kind != "supervised":
            found.append(f"steering is given with objective {self.objective.kind}, accepted: supervised")
        if self.method == "lora" and self.spectrum_rank != RunSpec.model_fields["spectrum_rank"].default:
            found.append("spectrum_rank is given with method lora, accepted: with method full only")
        return [fault for fault in found if fault is not None]

    def _faults_of_full(self) -> list[str | None]:
        found: list[str | None] = []
        plain = AdapterSpec(target_modules=self.adapter.target_modules)
        for name in AdapterSpec.model_fields:
            value = getattr(self.adapter, name)
            if value != getattr(plain, name):
                found.append(
                    f"adapter.{name} is {value} with method full, which has no adapter; accepted: leave it out"
                )
        if self.penalty is not None:
            found.append(
                "penalty is given with method full, accepted: method lora (it is defined on the factors of an adapter)"
            )
        if self.init_seed is not None:
            found.append(f"init_seed is {self.init_seed} with method full, which has no LoRA init; accepted: null")
        if self.base_dtype != "float32":
            found.append(
                f"base_dtype is {self.base_dtype} with method full, accepted: float32 (the base itself is trained, and "
                "a small step would be lost in rounding)"
            )
        return [*found, self.optimiser.full_fault()]

    @model_serializer(mode="wrap")
    def _one_length_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write steps or epochs, never both, so that what is written can be read again.

        Beside epochs, a default warm-up is left out: it is fitted once the steps are known, where a typed one stays.
        An init_seed, an objective, a start and a steering that are not given are left out, so that an earlier spec is
        written as it was.
        """
        fields: dict[str, Any] = handler(self)
        for name in {"init_seed", "objective", "start", "steering"} & unused_additions(self):
            fields.pop(name, None)
        fields.pop("epochs" if self.epochs is None else "steps", None)
        if self.epochs is not None and "warmup_steps" not in self.schedule.model_fields_set and "schedule" in fields:
            fields["schedule"].pop("warmup_steps", None)
        return fields

    def steps_for(self, rows: int) -> int:
        """Return the optimiser steps of `epochs` passes over so many rows, rounded up, or `steps` where it is given.

        Exact arithmetic: .1 epochs of 640 rows in batches of 8 are 8 steps, though .1 * 80 is above 8 in binary.
        """
        if self.epochs is None:
            return self.steps
        return max(1, ceil(Fraction(str(self.epochs)) * rows / (self.batch_size * self.accumulation)))

    def counted(self, rows: int) -> RunSpec:
        """Return the spec with steps in place of epochs, for a run on so many rows; a spec with steps as it is.

        Raises:
            SpecError: a warm-up that is too long for the steps that come out.
        """
        if self.epochs is None:
            return self
        steps = self.steps_for(rows)
        schedule = self.schedule if "warmup_steps" in self.schedule.model_fields_set else self.schedule.fitted(steps)
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        counted: RunSpec = validated(RunSpec, {**fields, "epochs": None, "steps": steps, "schedule": schedule})
        return counted

    def checkpoint_steps(self) -> tuple[int, ...]:
        """Return the checkpoint steps: 0, then a geometric progression from `first_checkpoint` to `steps`.

        Raises:
            SpecError: epochs are given and the rows not yet counted (`counted`).
        """
        if self.epochs is not None:
            raise SpecError(f"epochs is {self.epochs:g}, whose steps are known once the rows are counted")
        first, count = min(self.first_checkpoint, self.steps), self.checkpoints - 1
        if count == 1:
            return (0, self.steps)
        ratio = (self.steps / first) ** (1 / (count - 1))
        return (0, *sorted({round(first * ratio**i) for i in range(count)}))


def load_run_spec(path: Path, assignments: Iterable[str] = ()) -> RunSpec:
    """Read a RunSpec from YAML or JSON.

    Args:
        path: the file; dotted keys are accepted (`optimiser.lr: 1e-3`).
        assignments: `a.b=value` overrides, in order.

    Raises:
        SpecError: one line: file, field path, value found, what is expected, nearest match.
    """
    return with_assignments(RunSpec, read_mapping(path, "run spec"), assignments, str(path))


class ResolvedInputs(Spec):
    """Hold what the names of a RunSpec stand for, by content."""

    base_sha256: str = Field(description="sha256 of the base's weights file")
    config_sha256: str = Field(description="sha256 of the base's canonical model config")
    tokenizer_sha256: str = Field(description="sha256 of tokenizer.json")
    template_sha256: str = Field(description="sha256 of the chat template")
    data_sha256: str = Field(description="sha256 of the canonical pre-tokenised rows")
    start_sha256: Annotated[str | None, ADDED_LATER] = Field(
        None, description="sha256 of the weights of the adapter that the run starts from"
    )
    steering_sha256: Annotated[str | None, ADDED_LATER] = Field(
        None, description="sha256 of the directions that states are moved along in training"
    )

    @model_serializer(mode="wrap")
    def _later_ones_where_there_are_any(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave start and steering out where there are none, so that an earlier record is written as it was."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name not in unused_additions(self)}


def run_id(spec: RunSpec, inputs: ResolvedInputs) -> str:
    """Return the run-id: the hash of all training inputs, with names and paths replaced by content hashes."""
    body: dict[str, Any] = spec.model_dump(mode="json", exclude={"base", "data", "start", *unused_additions(spec)})
    if "objective" in body:
        body["objective"].pop("data", None)  # rows are in the id by content
    if "steering" in body:
        body["steering"].pop("directions")  # likewise
    return content_id({"spec": body, "inputs": inputs.model_dump(mode="json")})


def typed_run_spec(spec: RunSpec | Mapping[str, Any] | str | Path) -> RunSpec:
    """Return the typed spec of a run from a mapping of its fields or a spec file; a typed one as it is.

    Raises:
        SpecError: as `load_run_spec`.
    """
    if isinstance(spec, RunSpec):
        return spec
    if isinstance(spec, str | Path):
        return load_run_spec(Path(spec))
    return with_assignments(RunSpec, spec, (), "run spec")
