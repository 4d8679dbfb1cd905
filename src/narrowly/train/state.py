"""Build what a run trains and trains with from its spec: model, tokenizer, optimiser, scheduler, penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.models.base import load_model, load_tokenizer
from narrowly.records.objectives import PREFERENCE_KINDS
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import RunInputs
from narrowly.train.reference import Reference

if TYPE_CHECKING:
    import torch
    from torch import nn

    from narrowly.models.weights import Weights
    from narrowly.spectrum.penalty import SpectralPenalty


class TrainState(NamedTuple):
    """Hold what a run changes from step to step, and its tokenizer.

    Attributes:
        model: in the spec's dtype, on its device.
        weights: the trained ones of `model`.
        tokenizer: of the base, with the chat template that the run trains on.
        optimizer: over the trained weights.
        scheduler: of its learning rates.
        penalty: None where the spec has none.
        reference: the organism at the start, where the objective compares the policy with it.
    """

    model: nn.Module
    weights: Weights
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    penalty: SpectralPenalty | None
    reference: Reference | None = None


def build_state(spec: RunSpec, inputs: RunInputs) -> TrainState:
    """Load the base, prepare the weights that are trained, and build everything that trains them.

    Raises:
        UnknownNameError, SpecError, IntegrityError, AdapterError, OptimiserError: bad input.
    """
    from narrowly.optim.build import build_optimizer
    from narrowly.train.schedule import build_scheduler

    model, weights = _trained(spec, inputs)
    if spec.gradient_checkpointing:
        # transformers 5.23 renamed it
        enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    model.to(spec.device)  # before the optimiser, whose state follows its parameters
    optimizer = build_optimizer(spec.optimiser, model)
    scheduler = build_scheduler(spec.schedule, optimizer, spec.steps)
    penalty = None
    if spec.penalty is not None:
        from narrowly.spectrum.penalty import SpectralPenalty

        penalty = SpectralPenalty(model, **spec.penalty.model_dump())
    tokenizer = load_tokenizer(inputs.base)
    if inputs.data.template is not None:
        tokenizer.chat_template = inputs.data.template  # observers ask with what the run was trained on
    reference = Reference(model) if spec.objective.kind in PREFERENCE_KINDS else None
    return TrainState(model, weights, tokenizer, optimizer, scheduler, penalty, reference)


def _trained(spec: RunSpec, inputs: RunInputs) -> tuple[nn.Module, Weights]:
    """Return the model and its trained weights: factors on a frozen base, or the whole base."""
    if spec.method == "full":
        from narrowly.models.full import FullWeights

        model = load_model(inputs.base, spec.base_dtype, spec.device)
        return model, FullWeights(model, inputs.base, spec.adapter, spec.spectrum_rank, inputs.data.template)
    from narrowly.models.fresh import fresh_model
    from narrowly.models.lora import AdapterWeights
    from narrowly.models.organism import put_adapter

    seed = spec.seed if spec.init_seed is None else spec.init_seed
    model = fresh_model(inputs.base, spec.adapter, seed, spec.base_dtype, spec.device)
    if inputs.start is not None:
        put_adapter(model, inputs.start)
    return model, AdapterWeights(model)


def pad_id(tokenizer: Any) -> int:
    """Return the token to pad with."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)  # padding is masked, so any id does
