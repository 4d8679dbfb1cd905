"""Organisms: a run, a step and perhaps an edit, as a model that can be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.models.base import BaseFolder, base_sha256, find_base, load_model, load_tokenizer
from narrowly.models.full import MODEL_WEIGHTS
from narrowly.models.lora import without_peft_warnings
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowly.records.canonical import sha256_file, sha256_text
from narrowly.records.errors import AdapterError, IntegrityError, RunDirectoryError
from narrowly.records.run_spec import TextData
from narrowly.runs.directory import (
    SPECTRUM,
    TEMPLATE,
    WEIGHTS_SHA256,
    adapter_folder,
    checkpoint_folder,
    is_done,
    organism_step,
    read_done,
    read_inputs,
    read_spec,
)
from narrowly.runs.spectra import read_spectrum

if TYPE_CHECKING:
    from torch import nn


class Organism(NamedTuple):
    """A fine-tuned model in eval mode (a PEFT model, or the model itself after method full), tokenizer, base.

    `thinking` is the thinking mode that it was trained in; None where its chat template has none.
    """

    model: nn.Module
    tokenizer: Any
    base: BaseFolder
    thinking: bool | None = None

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
            yield load_model(self.base)
            return
        with disable():
            yield self.model


def recorded_spectrum(run_directory: Path, step: int | Literal["final"] = "final") -> list[dict[str, Any]]:
    """Return the rows of the spectrum that a run recorded at a checkpoint (`spectrum_table`, `difference_row`).

    Raises:
        RunDirectoryError: the run has no checkpoint of this step.
        IntegrityError: spectrum.json is missing, broken or not ours.
    """
    return read_spectrum(checkpoint_folder(run_directory, organism_step(run_directory, step)) / SPECTRUM)


def load_organism(
    run_directory: str | Path, step: int | Literal["final"] = "final", edit_id: str | None = None
) -> Organism:
    """Load an organism: base and PEFT adapter, or the model trained in full, on the CPU in eval mode.

    The base is loaded in the dtype it was trained on, whose rounding the adapter answers to.

    Args:
        run_directory: of the run.
        step: a checkpoint step, or "final".
        edit_id: name of an edit that was made before, or None for the adapter as trained.

    Raises:
        RunDirectoryError: no such run, step or edit.
        IntegrityError: base or adapter are not those of the run.
        AdapterError: the folder holds no safetensors adapter; other formats are never loaded.
    """
    run_directory = Path(run_directory)
    spec = read_spec(run_directory)
    base = find_base(spec.base)
    expected, found = read_inputs(run_directory).base_sha256, base_sha256(base)
    if expected != found:
        raise IntegrityError(
            f"base {base.name} in {base.folder} has sha256 {found}, run {run_directory.name} was trained on {expected}"
        )
    if spec.method == "full" and edit_id is None:
        model = _full_model(run_directory, organism_step(run_directory, step), base)
    else:
        model = _adapted_model(run_directory, step, edit_id, load_model(base, spec.base_dtype))
    thinking = spec.data.thinking if isinstance(spec.data, TextData) else None
    return Organism(model, _tokenizer(run_directory, base), base, thinking)


def _adapted_model(
    run_directory: Path, step: int | Literal["final"], edit_id: str | None, base: nn.Module
) -> nn.Module:
    from peft import PeftModel

    folder = adapter_folder(run_directory, step, edit_id)
    if edit_id is not None and not folder.is_dir():
        made = sorted(path.name for path in (run_directory / "edits").glob("*")) or ["none"]
        raise RunDirectoryError(f"{run_directory} has no edit {folder.name!r} (found: {', '.join(made)})")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} has no {name}; accepted: a PEFT adapter in safetensors")
    if edit_id is None:
        _check_recorded(run_directory, organism_step(run_directory, step), folder / ADAPTER_WEIGHTS)
    with without_peft_warnings():
        model: nn.Module = PeftModel.from_pretrained(base, str(folder), torch_device="cpu")
    return model.eval()


def _full_model(run_directory: Path, step: int, base: BaseFolder) -> nn.Module:
    if step == 0:  # the base itself, of which no copy is stored
        return load_model(base)
    folder = checkpoint_folder(run_directory, step)
    if not (folder / MODEL_WEIGHTS).is_file():
        raise IntegrityError(f"{folder} has no {MODEL_WEIGHTS}; the run directory is corrupt or not ours")
    _check_recorded(run_directory, step, folder / MODEL_WEIGHTS)
    return load_model(BaseFolder(base.name, folder))


def _check_recorded(run_directory: Path, step: int, weights: Path) -> None:
    """Check the weights of a finished run's checkpoint against its record.

    Raises:
        IntegrityError: they are others.
    """
    if not is_done(run_directory):
        return
    field = WEIGHTS_SHA256[read_spec(run_directory).method]
    recorded, found = read_done(run_directory).get(field, {}).get(str(step)), sha256_file(weights)
    if recorded != found:
        raise IntegrityError(f"{weights} has sha256 {found}, the run's record says {recorded}")


def _tokenizer(run_directory: Path, base: BaseFolder) -> Any:
    """Return the tokenizer with the chat template of the run, which need not be the base's own."""
    tokenizer = load_tokenizer(base)
    file = run_directory / TEMPLATE
    if file.is_file():
        template = file.read_text(encoding="utf-8")
        if sha256_text(template) != read_inputs(run_directory).template_sha256:
            raise IntegrityError(f"{file} is not the chat template that run {run_directory.name} was trained with")
        tokenizer.chat_template = template
    return tokenizer
