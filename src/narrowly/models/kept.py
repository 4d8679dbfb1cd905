"""Keep a few bases with an adapter in memory, and put the factors of one organism after another into them.

Evaluating a study loads hundreds of organisms of a few bases: a base is loaded once per process, not once per organism.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.models.applied import before_merging, check_merged
from narrowly.models.lora import base_weights, unmerge
from narrowly.models.organism import (
    Organism,
    adapted_base,
    base_of_run,
    checked_adapter,
    load_organism,
    put_adapter,
    tokenizer_of_run,
)
from narrowly.records.canonical import canonical_json
from narrowly.records.errors import AdapterError
from narrowly.records.run_spec import BaseDtype
from narrowly.runs.directory import read_inputs, read_spec

if TYPE_CHECKING:
    from torch import Tensor

KEPT_MODELS = 4
"""PEFT models kept per process, 4 MB each at micro scale; cells come base by base, so few are in use at a time."""


class _Kept(NamedTuple):
    """A base with an adapter of some shape, always merged; `untouched` are the base's weights that merging changes."""

    model: Any
    tokenizer: Any
    untouched: dict[str, Tensor]


_models: OrderedDict[str, _Kept] = OrderedDict()


PromptOf = Callable[[Organism], Sequence[int]]
"""Token ids of a prompt, for an organism."""


def kept_organism(
    run_directory: Path,
    step: int,
    folder: Path | None = None,
    device: str = "cpu",
    proved_on: PromptOf | None = None,
) -> Organism:
    """Return an organism with its adapter merged, valid until the next call.

    A base that was trained on in bfloat16 is in float32 here, so that merging does not round the update away.
    A model that was trained in full is read from its checkpoint and not kept.

    Args:
        run_directory: of the run.
        step: checkpoint of the organism.
        folder: of an adapter that takes the place of the checkpoint's (an edit, a hybrid), or None.
        device: of the model.
        proved_on: prompt whose logits prove that the adapter acts, before the merge and after it; None proves nothing.

    Raises:
        IntegrityError: base or adapter are not those of the run.
        AdapterError: the adapter does not fit the spec, or does not act.
    """
    spec = read_spec(run_directory)
    if spec.method == "full":
        return load_organism(run_directory, step, device=device)
    base = base_of_run(run_directory)
    weights = checked_adapter(run_directory, step) if folder is None else folder
    inputs = read_inputs(run_directory).model_dump(mode="json", exclude={"data_sha256"})
    key = canonical_json([inputs, spec.adapter.model_dump(mode="json"), spec.base_dtype, device])
    if key in _models:
        unmerge(_models[key].model, _models[key].untouched)
    else:
        dtype: BaseDtype = "nf4" if spec.base_dtype == "nf4" else "float32"
        model: Any = adapted_base(base, spec, device, dtype).to(device)
        _models[key] = _Kept(model, tokenizer_of_run(run_directory, base), base_weights(model))
        while len(_models) > KEPT_MODELS:
            _models.popitem(last=False)
    kept = _models[key]
    try:
        put_adapter(kept.model, weights)
    except AdapterError:  # some of its tensors may be in the model by now
        del _models[key]
        raise
    organism = Organism(kept.model, kept.tokenizer, base, spec)
    _merge(organism, f"run {run_directory.name}, step {step}", proved_on)
    _models.move_to_end(key)
    return organism


def _merge(organism: Organism, name: str, proved_on: PromptOf | None) -> None:
    """Merge the adapter of an organism, with the proof that it acts where one is asked for."""
    model: Any = organism.model
    if proved_on is None:
        model.merge_adapter()
        return
    prompt = proved_on(organism)
    beside = before_merging(model, prompt, name)
    model.merge_adapter()
    check_merged(model, prompt, name, beside)


def forget_models() -> None:
    """Give back what is kept, on a GPU too: two models at once may not fit."""
    import gc

    import torch

    _models.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
