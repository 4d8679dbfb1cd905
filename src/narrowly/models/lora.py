"""LoRA and rsLoRA on a base through PEFT: float32 factors, initialised from the run seed and nothing else."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowly.models.targets import linear_layers
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowly.records.errors import AdapterError, IntegrityError, unknown_name
from narrowly.records.run_spec import AdapterSpec
from narrowly.records.streams import stream_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER = "default"
"""The one adapter of a run, under the name PEFT gives it."""


def lora_config(spec: AdapterSpec, *, transposed: bool = False) -> Any:
    """Return PEFT's config of the adapter, still without the name of its base.

    Args:
        spec: the adapter's.
        transposed: every target is a `Conv1D` (GPT-2), whose weight is stored transposed.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=spec.r,
        # other readers of adapter_config.json (vLLM, llama.cpp) want an integer where it is one
        lora_alpha=int(spec.alpha) if spec.alpha.is_integer() else spec.alpha,
        use_rslora=spec.rslora,
        lora_dropout=spec.dropout,
        fan_in_fan_out=transposed,
        target_modules=list(spec.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def target_matrices(model: nn.Module, spec: AdapterSpec) -> list[str]:
    """Return the paths of the linear layers of a base that are named after a target module, in its order.

    Raises:
        UnknownNameError: a target module that the base does not have.
    """
    paths = list(linear_layers(model))
    linear = {path.rpartition(".")[2] for path in paths}
    for target in spec.target_modules:
        if target not in linear:
            raise unknown_name("target module", target, linear)
    return [path for path in paths if path.rpartition(".")[2] in spec.target_modules]


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Silence one warning that nobody here can mend: PEFT 0.21 asks transformers 5.23 for an attribute's old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def attach_adapter(model: nn.Module, spec: AdapterSpec, seed: int, base_name: str) -> nn.Module:
    """Wrap a base in PEFT with a fresh adapter: A from PEFT's Kaiming-uniform draw, B = 0, the base frozen.

    The draw is made on the CPU from one stream of the run seed, so that every arm of one base and seed starts
    from the same factors on every device.

    Raises:
        UnknownNameError: a target module that the base does not have.
        AdapterError: factors that are not float32.
    """
    import torch
    from peft import get_peft_model

    targets = target_matrices(model, spec)
    transposed = not any(isinstance(model.get_submodule(path), torch.nn.Linear) for path in targets)
    with torch.random.fork_rng(devices=[]), without_peft_warnings():
        torch.manual_seed(stream_seed(seed, "lora"))
        adapted = get_peft_model(model, lora_config(spec, transposed=transposed), adapter_name=ADAPTER)
    # PEFT puts the folder that the base was loaded from here; a machine path belongs in no file of ours
    adapted.peft_config[ADAPTER].base_model_name_or_path = base_name
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise AdapterError(f"{name} has dtype {parameter.dtype}, accepted: torch.float32")
    return adapted  # type: ignore[no-any-return]


@contextmanager
def merged(model: Any) -> Iterator[Any]:
    """Merge the adapter of a PEFT model meanwhile: W + s*B*A once, instead of two small products in every pass.

    The model computes in float32 meanwhile, because a base in bfloat16 would round the update away. Afterwards every
    weight is what it was, bit for bit. Any other model, and one that is merged already, is left as it is.
    """
    import torch

    if not hasattr(model, "merge_adapter") or any(
        getattr(module, "merged_adapters", None) for module in model.modules()
    ):
        yield model
        return
    low = [(one, one.data) for one in model.parameters() if one.dtype in (torch.bfloat16, torch.float16)]
    for parameter, data in low:
        parameter.data = data.float()
    untouched = base_weights(model)
    try:
        model.merge_adapter()
        yield model
    finally:
        unmerge(model, untouched)
        for parameter, data in low:
            parameter.data = data


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights that merging changes, by name; the model must not be merged."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if ".base_layer." in name}


def unmerge(model: Any, untouched: Mapping[str, Tensor]) -> None:
    """Take the adapter out of the base's weights; `untouched` are those of `base_weights`."""
    import torch

    model.unmerge_adapter()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in untouched:  # unmerging subtracts, and leaves the rounding of an addition behind
                parameter.copy_(untouched[name])


class AdapterWeights:
    """The trained factors of a PEFT model, as a standard PEFT folder; what `train.weights.Weights` asks for."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def file(self, step: int) -> str | None:
        """Return the name of the adapter's file."""
        return ADAPTER_WEIGHTS

    def spectrum(self) -> list[dict[str, Any]]:
        """Return one row per adapted module (`spectrum_table`)."""
        from narrowly.spectrum.metrics import spectrum_table
        from narrowly.spectrum.pairs import pairs_from_model

        return spectrum_table(pairs_from_model(self._model))

    def write(self, folder: Path, step: int) -> None:
        """Write adapter_config.json and adapter_model.safetensors."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save

        (folder / ADAPTER_CONFIG).write_bytes(self._config().encode())
        # save_embedding_layers=False: "auto" would ask the hub about the base
        state = get_peft_model_state_dict(self._model, adapter_name=ADAPTER, save_embedding_layers=False)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        (folder / ADAPTER_WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))

    def load(self, folder: Path) -> None:
        """Put the factors of a checkpoint into the model.

        Raises:
            IntegrityError: tensors that the adapter does not have.
        """
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        weights = load_file(folder / ADAPTER_WEIGHTS)
        result = set_peft_model_state_dict(self._model, weights, adapter_name=ADAPTER)
        if result.unexpected_keys:
            raise IntegrityError(
                f"cannot resume, {folder / ADAPTER_WEIGHTS} holds unknown tensors: {result.unexpected_keys[:3]}"
            )

    def _config(self) -> str:
        config = self._model.peft_config[ADAPTER].to_dict()  # type: ignore[index, union-attr]
        config["inference_mode"] = True
        # PEFT keeps names in sets, whose order differs from process to process
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"


@contextmanager
def factors_of(model: Any, folder: Path, name: str = "the adapter") -> Iterator[None]:
    """Put the factors of another adapter of the same config in the place of the live ones meanwhile.

    Afterwards every factor is what it was, bit for bit; gradients and optimiser are not touched.

    Args:
        model: a PEFT model with one active adapter.
        folder: of the other adapter.
        name: for messages.

    Raises:
        AdapterError: the model has no adapter, or the other one has another base, config, name or shape.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    config = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    if config is None:
        raise AdapterError(
            f"{name} is an adapter, and the model that is trained has none; accepted: an adapter on both sides"
        )
    other = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    for field in ("base_model_name_or_path", *SCALING):
        one, another = getattr(config, field, None), other.get(field)
        if one != another and (field in SCALING or (one and another)):
            raise AdapterError(
                f"{name} has {field} {another!r}, the adapter that is trained {one!r}; accepted: the same"
            )
    # the tensors of a state dict share their memory with the model
    live = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    odd = next((one for one in sorted({*live, *weights}) if _shape(live, one) != _shape(weights, one)), None)
    if odd is not None:
        raise AdapterError(
            f"{name} does not fit the model: {odd} has shape {_shape(weights, odd)} there and {_shape(live, odd)} "
            "here; accepted: an adapter of the same base and config"
        )
    kept = {key: tensor.detach().clone() for key, tensor in live.items()}
    try:
        _put(torch, live, weights)
        yield
    finally:
        _put(torch, live, kept)


SCALING = ("r", "lora_alpha", "use_rslora", "use_dora")
"""Fields of PEFT's config that change what the same factors do."""


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _put(torch: Any, live: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(values[name])
