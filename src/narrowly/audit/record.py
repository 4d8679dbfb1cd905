"""Hold what a detector found: a training job, and for each field its value and where that comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Provenance = Literal["explicit", "default", "inherited", "overridden", "unknown"]
"""explicit: written at `at`. default: of a tool, at the version in `reason`. inherited: from another file (a base YAML,
the trainer's dataclass). overridden: something at `at` wins over what was declared. unknown: `reason` says why."""

NAMED = (
    "optimiser",
    "learning_rate",
    "weight_decay",
    "scheduler",
    "epochs",
    "max_steps",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_targets",
    "use_rslora",
)
"""The fields that every job prints, found or not."""

FIELDS = (
    *NAMED,
    "beta1",
    "beta2",
    "eps",
    "momentum",
    "optim_args",  # as written: text or mapping
    "muon_scale",  # Muon's scale rule: "original", "match_rms_adamw", "spectral_norm"
    "lora_plus_ratio",  # learning rate of B over that of A
    "learning_rate_multiplier",  # hosted APIs that do not disclose the rate
    "warmup_steps",
    "warmup_ratio",
    "batch_size",  # per device
    "accumulation",
    "max_grad_norm",
    "adapter",  # "lora", "qlora", "full", "dora", ...
    "lora_init",
    "use_dora",
    "precision",  # "bf16", "fp16", "fp32"
    "adapter_dtype",
    "base_model",
    "datasets",  # list of names or paths
    "evaluation",  # True, False, or what is evaluated
    "deepspeed",  # path of the file, or "inline"
    "distributed",  # "fsdp", "deepspeed", ...
    "seed",
)
"""Every field a job may have, in the order of print."""


@dataclass(frozen=True, slots=True)
class Field:
    """Hold one value of a job with its provenance.

    Attributes:
        value: the canonical value; None where it is not known or where there is none (lora_r of a full fine-tune).
        provenance: see `Provenance`.
        at: `file:line` of the evidence, or None.
        reason: why this value: the version of a default, what was overridden, why it is unknown.
        raw: the spelling that was found, where it is another than `value`.
    """

    value: Any = None
    provenance: Provenance = "unknown"
    at: str | None = None
    reason: str = ""
    raw: Any = None

    @property
    def known(self) -> bool:
        """Say whether the value was established."""
        return self.provenance != "unknown"

    def to_json(self) -> dict[str, Any]:
        """Return the field as `--json` prints it."""
        shown = {"value": self.value, "provenance": self.provenance, "at": self.at, "reason": self.reason or None}
        return shown if self.raw is None else {**shown, "raw": self.raw}


def explicit(value: Any, at: str | None, raw: Any = None, reason: str = "") -> Field:
    """Return a field that is written at `file:line`."""
    return Field(value, "explicit", at, reason, raw)


def default(value: Any, reason: str, at: str | None = None, raw: Any = None) -> Field:
    """Return a field that a tool fills in; the reason names tool and version."""
    return Field(value, "default", at, reason, raw)


def inherited(value: Any, at: str | None, reason: str, raw: Any = None) -> Field:
    """Return a field that comes from another file, which the reason names."""
    return Field(value, "inherited", at, reason, raw)


def overridden(value: Any, at: str | None, reason: str, raw: Any = None) -> Field:
    """Return a field whose declared value loses; the reason names what lost and where it stands."""
    return Field(value, "overridden", at, reason, raw)


def unknown(reason: str, at: str | None = None, raw: Any = None) -> Field:
    """Return a field that cannot be established, with the reason."""
    return Field(None, "unknown", at, reason, raw)


NOT_STATED = unknown("not stated, and no default of this tool is known here")

MARKS = (
    "custom_optimiser",  # optimizers=, optimizer_cls_and_kwargs, create_optimizer, configure_optimizers: code decides
    "deepspeed_optimiser",  # a DeepSpeed file has an optimiser block
    "unsloth_import",  # unsloth rewrites the defaults of Transformers and TRL
    "declared_optimiser",  # what was declared and lost; value: canonical name
    "muon_not_on_lora",  # Muon asked for, LoRA factors go to another optimiser; value: that optimiser
    "muon_drops",  # Muon asked for, some trainable parameters get no optimiser
    "muon_aux_lr",  # what Muon does not train shares Muon's rate
    "ignored_key",  # a key that the tool accepts and does not use; value: its name
    "rejected",  # the tool refuses this combination at start; value: what it says
    "penalty",  # a spectral penalty is added; value: how
    "penalty_in_compute_loss",  # a penalty inside compute_loss
    "penalty_in_autocast",  # a penalty inside autocast
    "pickle",  # a pickled file of settings that is not read; value: its name
    "hosted",  # the optimiser runs at a host and is not disclosed; value: host
    "weight_decay_ignored",  # declared and not applied
)
"""Facts that no field can hold, by name; `Job.marks` keeps each with its place."""


@dataclass(slots=True)
class Job:
    """Hold one training job.

    Attributes:
        tool: slug of the tool, as in `detectors.TOOLS`.
        file: path as shown: relative to the PATH that was given where that is a folder.
        line: first line of the declaration, from 1.
        name: what tells it from other jobs of the file: a variable, a section, a command; may be empty.
        kind: "script", "config", "command", "notebook", "saved" (written by a finished run) or "hosted".
        fields: by name of `FIELDS`; what a detector leaves out is unknown.
        marks: facts by name of `MARKS`.
        tool_version: value "5.23.0" or None; the reason says where it stands.
        cli_overridable: the command line may change it (argparse, HfArgumentParser, Hydra, draccus ...).
    """

    tool: str
    file: str
    line: int = 1
    name: str = ""
    kind: str = "config"
    fields: dict[str, Field] = field(default_factory=dict)
    marks: dict[str, Field] = field(default_factory=dict)
    tool_version: Field = field(default_factory=lambda: unknown("no lock file or requirement names a version"))
    cli_overridable: bool = False

    def __getitem__(self, name: str) -> Field:
        if name not in FIELDS:
            raise KeyError(name)
        return self.fields.get(name, NOT_STATED)

    def set(self, name: str, found: Field | None) -> None:
        """Set a field; None leaves it as it is."""
        if name not in FIELDS:
            raise KeyError(name)
        if found is not None:
            self.fields[name] = found

    def fill(self, others: Mapping[str, Field]) -> None:
        """Set those fields that are not there yet: defaults, or what a base file says."""
        for name, found in others.items():
            if name not in self.fields:
                self.set(name, found)

    def mark(self, name: str, value: Any, at: str | None, reason: str = "") -> None:
        """Note a fact of `MARKS` with its place."""
        if name not in MARKS:
            raise KeyError(name)
        self.marks[name] = Field(value, "explicit", at, reason)

    def mark_declared(self, declared: Field, reason: str) -> None:
        """Note which optimiser was written and lost; a default was declared by nobody."""
        if declared.provenance != "default" and declared.known:
            self.mark("declared_optimiser", declared.value, declared.at, reason)

    def value(self, name: str) -> Any:
        """Return the value of a field, None where it is unknown."""
        return self[name].value

    def to_json(self) -> dict[str, Any]:
        """Return the job as `--json` prints it: the named fields always, the others where something is known."""
        shown = {
            "tool": self.tool,
            "file": self.file,
            "line": self.line,
            "name": self.name,
            "kind": self.kind,
            "tool_version": self.tool_version.to_json(),
            "cli_overridable": self.cli_overridable,
        }
        fields = {name: self[name].to_json() for name in FIELDS if name in NAMED or name in self.fields}
        marks = {name: found.to_json() for name, found in self.marks.items()}
        return {**shown, **fields, "marks": marks}


@dataclass(frozen=True, slots=True)
class Skip:
    """Name a file that was not read or not understood, with the reason."""

    file: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {"file": self.file, "reason": self.reason}
