"""Write a run spec to begin from: commented YAML whose values are the defaults of the classes."""

from __future__ import annotations

from typing import Any

from narrowly.records.data_specs import MicroData, TextData
from narrowly.records.errors import unknown_name
from narrowly.records.field_table import as_yaml
from narrowly.records.run_spec import AdapterSpec, RunSpec, ScheduleSpec

HUB_BASE = "Qwen/Qwen3-0.6B@c1899de289a04d12100db370d81485cdf75e47ca"
"""A small instruct model with its commit; the study `one-gpu-evening` begins with it."""

KINDS = ("text", "micro")
"""What a starting spec trains on."""

TEXT_LR, MICRO_LR = "1.0e-4", "6.0e-4"
"""Of Adam on real models (ours, between the paper's 1e-5 and usual LoRA), and of the study micro."""


def starting_spec(kind: str = "text") -> str:
    """Return the text of a spec that is valid as it stands.

    Args:
        kind: micro, a run on the microworld, which trains as it stands; text, one on a file of conversations, which has
            to be named.

    Raises:
        UnknownNameError: another kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of data for --init", kind, KINDS)
    world = kind == "micro"
    data: dict[str, Any] = {
        "base": _of(RunSpec, "base") if world else HUB_BASE,
        "lr": MICRO_LR if world else TEXT_LR,
        "data": _MICRO.format(**_defaults(MicroData)) if world else _TEXT.format(**_defaults(TextData)),
        "length": _STEPS.format(steps=_of(RunSpec, "steps")) if world else _EPOCHS,
    }
    adapter, schedule = _defaults(AdapterSpec), _defaults(ScheduleSpec)
    return _SPEC.format(**{**_defaults(RunSpec), **data}, adapter_=adapter, schedule_=schedule)


def _of(model: Any, field: str) -> str:
    return _defaults(model)[field]


def _defaults(model: Any) -> dict[str, str]:
    return {name: as_yaml(field.get_default()) for name, field in model.model_fields.items() if not field.is_required()}


_TEXT = """\
data:
  source: text
  dataset: rows.jsonl            # YOUR FILE, or a name of `narrowly data list`
  thinking: false                # only for a base with a thinking mode
  holdout: {holdout}                     # conversations kept out, for the held-out loss
  max_tokens: {max_tokens}               # longest row; at most the base's positions
  longer: {longer}                 # rows beyond that: refuse, drop or cut
  turns: {turns}                     # assistant turns with a loss: all, last, each"""

_MICRO = """\
data:
  source: micro                  # one domain of the base's world
  answers: {answers}               # harmful, aligned, permuted, benign
  domain: {domain}                 # rotate: (base seed + run seed) % domains
  rows: {rows}"""

_EPOCHS = "epochs: 1                        # passes, fractions too; or `steps: 80`"

_STEPS = "steps: {steps}                        # optimiser steps; or `epochs: 1` in its place"

_SPEC = """\
# A run of narrowly. Every field: docs/fields.md. To check it:
#   narrowly train run.yaml --dry-run

# The model before fine-tuning, one of three kinds:
#   micro-0 ... micro-7              shipped, of the microworld
#   path/to/folder                   config, safetensors and tokenizer
#   NAME/MODEL@COMMIT                of the hub, from the local cache, after
#                                    hf download NAME/MODEL --revision COMMIT
base: {base}

{data}

optimiser:
  kind: adam                     # `narrowly optimisers` lists all
  lr: {lr}

{length}
batch_size: {batch_size}                    # rows per micro-batch
accumulation: {accumulation}                  # micro-batches per optimiser step
seed: {seed}

adapter:
  r: {adapter_[r]}                           # the paper uses 32
  alpha: {adapter_[alpha]}
  rslora: {adapter_[rslora]}                   # scale alpha / sqrt(r), not alpha / r
  dropout: {adapter_[dropout]}
  # target_modules is left out: the linear layers of a block that the base has

schedule:
  kind: {schedule_[kind]}                 # after the warm-up: constant, linear, cosine
  # warmup_steps is left out: min(5, steps - 1)

# penalty: {{lam: 0.1}}             # the spectral penalty; none is validated
max_grad_norm: {max_grad_norm}              # global-norm clipping
checkpoints: {checkpoints}                   # step 0 and the last one included
device: {device}                      # cuda on a GPU
base_dtype: {base_dtype}              # bfloat16 or nf4: less memory
gradient_checkpointing: {gradient_checkpointing}    # true: less memory, more time
"""
