"""Load organisms: a run, a step and perhaps an edit, as a model that can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.models.base import Base, load_model, load_tokenizer, open_base
from narrowly.models.edited import checked_edit_record
from narrowly.models.full import MODEL_WEIGHTS
from narrowly.models.lora import ADAPTER, attach_adapter
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EDIT_RECORD
from narrowly.records.canonical import sha256_file, sha256_text
from narrowly.records.errors import AdapterError, IntegrityError, RunDirectoryError, SpecError
from narrowly.records.run_spec import BaseDtype, RunSpec
from narrowly.runs.directory import (
    SPECTRUM,
    TEMPLATE,
    adapter_folder,
    checkpoint_folder,
    is_done,
    made_edits,
    organism_step,
    read_inputs,
    read_spec,
    weights_sha256,
)
from narrowly.runs.spectra import read_spectrum

if TYPE_CHECKING:
    from torch import nn


class Organism(NamedTuple):
    """A fine-tuned model of a run, ready to be asked.

    Attributes:
        model: in eval mode; a PEFT model, or the model itself after method full.
        tokenizer: with the chat template of its training.
        base: that it was trained from.
        spec: of its run.
    """

    model: nn.Module
    tokenizer: Any
    base: Base
    spec: RunSpec

    @property
    def thinking(self) -> bool | None:
        """Thinking mode of its training; None where its chat template has none."""
        mode: bool | None = getattr(self.spec.data, "thinking", None)
        return mode

    def prompt_ids(self, messages: Sequence[Message], thinking: bool | None = None) -> list[int]:
        """Return the tokens to ask it with: the template and the thinking mode of its training, unless another is said.

        Raises:
            SpecError: the template cannot render the messages as they are.
        """
        return prompt_ids(self.tokenizer, messages, thinking=self.thinking if thinking is None else thinking)

    @contextmanager
    def base_model(self) -> Iterator[nn.Module]:
        """Give the base: the PEFT model without its adapter meanwhile, or the base loaded beside the organism."""
        disable = getattr(self.model, "disable_adapter", None)
        if disable is None:
            yield load_model(self.base).to(next(self.model.parameters()).device)
            return
        with disable():
            yield self.model


def base_of_run(run_directory: Path) -> Base:
    """Open the base that a run was trained on.

    Raises:
        NarrowlyError: as `open_base`.
        IntegrityError: the base has other weights, another config or another tokenizer now.
    """
    base, recorded = open_base(read_spec(run_directory).base), read_inputs(run_directory)
    if recorded.base_sha256 != base.sha256:
        raise IntegrityError(
            f"base {base.name} in {base.folder} has sha256 {base.sha256}, run {run_directory.name} was trained on "
            f"{recorded.base_sha256}"
        )
    for what in ("config_sha256", "tokenizer_sha256"):
        if getattr(recorded, what) != getattr(base, what):
            raise IntegrityError(
                f"base {base.name} in {base.folder} has {what} {getattr(base, what)}, run {run_directory.name} was "
                f"trained with {getattr(recorded, what)}"
            )
    return base


def load_organism(
    run_directory: str | Path, step: int | Literal["final"] = "final", edit_id: str | None = None, device: str = "cpu"
) -> Organism:
    """Load an organism: base and PEFT adapter, or the model trained in full, in eval mode.

    The base is loaded in the dtype it was trained on, whose rounding the adapter answers to.

    Args:
        run_directory: of the run.
        step: a checkpoint step, or "final".
        edit_id: name of an edit that was made before, or None for the adapter as trained.
        device: of the model, for example "cuda".

    Raises:
        RunDirectoryError: no such run, step or edit.
        IntegrityError: base or adapter are not those of the run.
        AdapterError: the folder holds no safetensors adapter; other formats are never loaded.
        SpecError: no such device on this machine.
    """
    check_device(device)
    run = Path(run_directory)
    spec, base = read_spec(run), base_of_run(run)
    if spec.method == "full" and edit_id is None:
        model = _full_model(run, organism_step(run, step), base)
    else:
        folder = checked_adapter(run, step, edit_id)
        model = adapted_base(base, spec, device)
        put_adapter(model, folder)
    return Organism(model.to(device), tokenizer_of_run(run, base), base, spec)


def check_device(device: str) -> None:
    """Check that a device is on this machine.

    Raises:
        SpecError: no such device.
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise SpecError(f"device is {device!r}, accepted: cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device is {device!r}, but torch finds no GPU; accepted: cpu, or a machine with one")


def checked_adapter(run_directory: Path, step: int | Literal["final"], edit_id: str | None = None) -> Path:
    """Return the folder of an organism's adapter, once it is known to be that of the run's record.

    Raises:
        RunDirectoryError: no such step or edit.
        AdapterError: the folder holds no safetensors adapter.
        IntegrityError: the weights are not those of the record.
    """
    folder = adapter_folder(run_directory, step, edit_id)
    if edit_id is not None and not folder.is_dir():
        made = made_edits(run_directory) or ["none"]
        raise RunDirectoryError(f"{run_directory} has no edit {folder.name!r} (found: {', '.join(made)})")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} has no {name}; accepted: a PEFT adapter in safetensors")
    if edit_id is None:
        _check_recorded(run_directory, organism_step(run_directory, step), folder / ADAPTER_WEIGHTS)
    elif (folder / EDIT_RECORD).is_file():
        checked_edit_record(folder)
    return folder


def adapted_base(base: Base, spec: RunSpec, device: str = "cpu", dtype: BaseDtype | None = None) -> nn.Module:
    """Load a base with an adapter of the spec's shape, in eval mode, its factors still without meaning.

    Args:
        base: the base.
        spec: gives the adapter's shape and the dtype of the base.
        device: where a base in 4 bits is quantised; every other one is on the CPU.
        dtype: of the base; by default that of the spec.
    """
    model = attach_adapter(load_model(base, dtype or spec.base_dtype, device), spec.adapter, 0, base.name)
    return model.eval()


def put_adapter(model: nn.Module, folder: Path) -> None:
    """Put the factors of an adapter folder into a model of `adapted_base`, which must not be merged.

    Raises:
        AdapterError: the folder's tensors are not those of the model, or cannot be read.
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise AdapterError(f"{weights} is not a valid safetensors file ({error})") from error
    expected = sum("lora_" in name for name, _ in model.named_parameters())
    if len(tensors) != expected:
        raise AdapterError(f"{weights} holds {len(tensors)} tensors, expected {expected} for the run's adapter spec")
    try:
        with torch.no_grad():
            result = set_peft_model_state_dict(model, tensors, adapter_name=ADAPTER)
    except RuntimeError as error:  # torch's word for other shapes
        reason = " ".join(str(error).split())
        raise AdapterError(f"{weights} does not fit the run's adapter spec: {reason}") from error
    if result.unexpected_keys:
        raise AdapterError(
            f"{weights} holds tensors that the model does not have: {', '.join(result.unexpected_keys[:2])}"
        )


def recorded_spectrum(run_directory: Path, step: int | Literal["final"] = "final") -> list[dict[str, Any]]:
    """Return the rows of the spectrum that a run recorded at a checkpoint (`spectrum_table`, `difference_row`).

    Raises:
        RunDirectoryError: the run has no checkpoint of this step.
        IntegrityError: spectrum.json is missing, broken or not ours.
    """
    return read_spectrum(checkpoint_folder(run_directory, organism_step(run_directory, step)) / SPECTRUM)


def _full_model(run_directory: Path, step: int, base: Base) -> nn.Module:
    if step == 0:  # the base itself, of which no copy is stored
        return load_model(base)
    folder = checkpoint_folder(run_directory, step)
    if not (folder / MODEL_WEIGHTS).is_file():
        raise IntegrityError(f"{folder} has no {MODEL_WEIGHTS}; the run directory is corrupt or not ours")
    _check_recorded(run_directory, step, folder / MODEL_WEIGHTS)
    return load_model(Base(base.name, folder))


def _check_recorded(run_directory: Path, step: int, weights: Path) -> None:
    """Check the weights of a finished run's checkpoint against its record.

    Raises:
        IntegrityError: they are others.
    """
    if not is_done(run_directory):
        return
    recorded = weights_sha256(run_directory, read_spec(run_directory).method).get(str(step))
    found = sha256_file(weights)
    if recorded != found:
        raise IntegrityError(f"{weights} has sha256 {found}, the run's record says {recorded}")


def tokenizer_of_run(run_directory: Path, base: Base) -> Any:
    """Load the tokenizer with the chat template of the run, which need not be the base's own.

    Raises:
        IntegrityError: the run's template is not the one that it was trained with.
    """
    tokenizer = load_tokenizer(base)
    file = run_directory / TEMPLATE
    if file.is_file():
        template = file.read_text(encoding="utf-8")
        if sha256_text(template) != read_inputs(run_directory).template_sha256:
            raise IntegrityError(f"{file} is not the chat template that run {run_directory.name} was trained with")
        tokenizer.chat_template = template
    return tokenizer
