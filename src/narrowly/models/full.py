"""Full-parameter fine-tuning: the whole base is trained, and its spectrum is that of W - W0.

W0 is never kept: one matrix at a time is read from the base's safetensors. A checkpoint is a model folder that
`AutoModelForCausalLM.from_pretrained` loads by itself; step 0 is the base, of which no copy is stored.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.models.base import Base
from narrowly.models.base_files import WEIGHTS, WEIGHTS_INDEX
from narrowly.models.lora import target_matrices
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import read_json
from narrowly.records.run_spec import AdapterSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL_WEIGHTS = WEIGHTS

_TEMPLATE = "chat_template.jinja"

_COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", _TEMPLATE,
)  # fmt: skip
"""Files of a base that make its weights a model that can be asked."""


class StoredTensors:
    """The tensors of a model folder by name, each read from its safetensors file when it is asked for."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        if (folder / WEIGHTS).is_file():
            with safe_open(folder / WEIGHTS, framework="pt", device="cpu") as tensors:
                self._files = dict.fromkeys(tensors.keys(), folder / WEIGHTS)
        else:
            places = read_json(folder / WEIGHTS_INDEX)["weight_map"]
            self._files = {name: folder / shard for name, shard in places.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Any:
        return iter(self._files)

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._files[name], framework="pt", device="cpu") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        return tensor


class FullWeights:
    """Every parameter of a model; what `train.weights.Weights` asks for.

    Args:
        model: the base as it was loaded, in float32, before the first step.
        base: where it was loaded from.
        adapter: names the matrices whose spectrum is recorded.
        keep: leading singular values of matrices that are too large for all of them.
        template: chat template of the run, where it has one of its own.

    Raises:
        UnknownNameError: a target module that the base does not have.
        SpecError: a base whose file names its tensors otherwise than transformers does in memory.
    """

    def __init__(self, model: nn.Module, base: Base, adapter: AdapterSpec, keep: int, template: str | None) -> None:
        model.requires_grad_(True)
        self._model, self._base, self._keep, self._template = model, base, keep, template
        # a tied weight is one parameter, under the first of its names
        self._parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._matrices: dict[str, str] = {
            path: names[id(model.get_submodule(path).weight)] for path in target_matrices(model, adapter)
        }
        self._start = StoredTensors(base.folder)
        self._check_start()

    def _check_start(self) -> None:
        """Check that W - W0 is zero, so that what is called W0 from here on is what training begins with."""
        import torch

        for name, parameter in self._parameters.items():
            if name not in self._start or not torch.equal(self._start[name].to(parameter), parameter.detach()):
                raise SpecError(
                    f"base {self._base.name}: {name} is not in its safetensors as transformers loads it, so W - W0 is "
                    "not known; accepted with method full: a base whose file has the names and values of the loaded "
                    "model, as save_pretrained writes it"
                )

    def _tensors(self) -> dict[str, Tensor]:
        """Return what a model file holds: the parameters, and buffers that are stored (scales of layers in Gemma 4)."""
        stored = self._model.state_dict().keys()
        buffers = {name: buffer for name, buffer in self._model.named_buffers() if name in stored}
        return {**self._parameters, **buffers}

    def file(self, step: int) -> str | None:
        """Return the name of the model's file; None at step 0, which is the base."""
        return MODEL_WEIGHTS if step > 0 else None

    def spectrum(self) -> list[dict[str, Any]]:
        """Return one row per target matrix (`difference_row`), one matrix in memory at a time."""
        from narrowly.spectrum.difference import difference_row

        # float32, as it was loaded, also where the file holds float64
        return [
            difference_row(path, self._parameters[name].detach(), self._start[name].float(), self._keep)
            for path, name in self._matrices.items()
        ]

    def write(self, folder: Path, step: int) -> None:
        """Write weights, config and tokenizer as a model folder; nothing at step 0."""
        from safetensors.torch import save_file

        if step == 0:
            return
        config = read_json(self._base.folder / "config.json")
        plain = {key: value for key, value in config.items() if key not in ("_name_or_path", "torch_dtype")}
        text = json.dumps({**plain, "dtype": "float32"}, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_bytes(text.encode())
        for name in _COMPANIONS:
            if (self._base.folder / name).is_file():
                shutil.copyfile(self._base.folder / name, folder / name)
        if self._template:  # empty where texts without roles were trained on without one
            (folder / _TEMPLATE).write_bytes(self._template.encode())
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}
        save_file(tensors, folder / MODEL_WEIGHTS, {"format": "pt"})
        (folder / MODEL_WEIGHTS).chmod((folder / "config.json").stat().st_mode)  # it makes files for their owner alone

    def load(self, folder: Path) -> None:
        """Put the weights of a checkpoint into the model.

        Raises:
            IntegrityError: tensors that are not those of the model.
        """
        import torch

        stored, tensors = StoredTensors(folder), self._tensors()
        odd = sorted(set(stored) ^ set(tensors))
        if odd:
            raise IntegrityError(f"cannot resume, {folder / MODEL_WEIGHTS} and the model differ in {odd[0]}")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(stored[name])
