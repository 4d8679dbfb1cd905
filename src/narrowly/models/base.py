"""Open a base: from the name in a spec to a folder that was checked, its hashes, its tokenizer and its model.

Nothing in a base folder is trusted: weights are safetensors or refused, no code of a model repository is run,
and where a card gives a sha256 the weights must match it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.models.hub import hub_folder, is_hub_name
from narrowly.records.adapter_files import ADAPTER_CONFIG
from narrowly.records.canonical import cached_sha256, canonical_json, sha256_text
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import read_json
from narrowly.records.run_spec import BaseDtype

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    from narrowly.microworld.cards import BaseCard
    from narrowly.microworld.world import World


WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

LOCAL_CONFIG_FIELDS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype"})
"""Fields of config.json that say where a file came from or how it is stored, not what the model computes in float32."""


@dataclass(frozen=True)
class Base:
    """A base on disk, read as far as it is asked: what it is called, where it lies, what it is by content.

    Attributes:
        name: without machine paths; of its card where it has one, else of its folder or on the hub.
        folder: with config, weights and tokenizer.
    """

    name: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json without the fields that say only where it came from (`model_config`)."""
        return model_config(self.folder)

    @cached_property
    def sha256(self) -> str:
        """Sha256 of the weights file, or of the names and hashes of all shards."""
        return _weights_sha256(self.folder)

    @cached_property
    def config_sha256(self) -> str:
        """Sha256 of `config` in canonical form."""
        return sha256_text(canonical_json(self.config))

    @cached_property
    def tokenizer_sha256(self) -> str:
        """Sha256 of tokenizer.json; SpecError where there is none."""
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            raise SpecError(f"base {self.folder} has no tokenizer.json; accepted: a fast tokenizer beside the weights")
        return cached_sha256(file)

    @cached_property
    def template_sha256(self) -> str:
        """Sha256 of the chat template as it is stored."""
        return sha256_text(_template(self.folder))

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens that the model knows, where its config says so."""
        return self._of_text("vocab_size")

    @property
    def positions(self) -> int | None:
        """Largest number of positions of the model, where its config says so."""
        return self._of_text("max_position_embeddings")

    def _of_text(self, field: str) -> int | None:
        found: int | None = self.config.get("text_config", self.config).get(field)
        return found

    def tokenizer(self) -> Any:
        """Load the tokenizer anew."""
        return load_tokenizer(self)


def open_base(name_or_path: str) -> Base:
    """Open the base that a spec means: a shipped base's name, a folder with config.json, or a model of the hub.

    A plain name means the shipped base even where a folder of that name is at hand (`./micro-0` means the folder), as
    everywhere else: training and evaluation must never mean two different models by one name.

    Raises:
        UnknownNameError: neither a folder nor a shipped base; the message names the nearest match.
        SpecError: a model of the hub without a pinned commit, or one that is not in the local cache; a folder that
            also holds an adapter.
        IntegrityError: the weights are not those of the base's card; both hashes are named.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.exists() and is_hub_name(name_or_path):
        found = Base(*hub_folder(name_or_path))
        _refuse_adapter(found.folder)
        return found
    if folder.name == name_or_path or not (folder / "config.json").is_file():
        from narrowly.microworld.cards import base_folder

        folder = base_folder(name_or_path)
    _refuse_adapter(folder)
    file = folder / "card.json"
    card = _read_object(file) if file.is_file() else {}
    base = Base(str(card.get("name") or folder.resolve().name), folder)
    recorded = card.get("sha256")
    if recorded is not None and recorded != base.sha256:
        raise IntegrityError(
            f"base {base.name}: the weights in {folder} have sha256 {base.sha256}, its card says {recorded}; "
            "the file is damaged or was exchanged"
        )
    return base


def open_tokenizer(name_or_path: str) -> Any:
    """Load the tokenizer of the base that a name means.

    Raises:
        NarrowlyError: as `open_base`.
    """
    return open_base(name_or_path).tokenizer()


def _refuse_adapter(folder: Path) -> None:
    """Refuse a base folder that also holds an adapter, which Transformers would load on top without a word.

    Its adapter_config.json alone decides (`find_adapter_config_file`, Transformers 5.23); others stay unread.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        found = sorted(path.name for path in folder.iterdir() if path.name.startswith("adapter_"))
        raise SpecError(
            f"base {folder} also holds an adapter ({', '.join(found)}), which would be loaded on top of its weights; "
            "accepted: a folder without adapter files (a copy without them, or the adapter merged into the weights)"
        )


def _read_object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise IntegrityError(f"{file} holds a {type(value).__name__}, accepted: a JSON object")
    return value


def _weights_sha256(folder: Path) -> str:
    """Return the sha256 of the weights file, or of the names and hashes of all shards."""
    if (folder / WEIGHTS).is_file():
        return cached_sha256(folder / WEIGHTS)
    if (folder / WEIGHTS_INDEX).is_file():
        index = _read_object(folder / WEIGHTS_INDEX)
        shards = sorted(set(index.get("weight_map", {}).values()))
        if any(Path(shard).name != shard for shard in shards):
            raise IntegrityError(f"{folder / WEIGHTS_INDEX} names files outside of its folder; it is refused")
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise IntegrityError(f"{folder} lacks {', '.join(missing) or 'every shard'} of {WEIGHTS_INDEX}")
        return sha256_text(canonical_json({shard: cached_sha256(folder / shard) for shard in shards}))
    found = sorted(path.name for path in folder.iterdir())
    raise SpecError(
        f"base {folder} has no {WEIGHTS} (found: {', '.join(found)}); other weight formats are never loaded"
    )


def _template(folder: Path) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = _read_object(settings).get("chat_template") if settings.is_file() else None
    # older folders hold a list of named templates inside the settings; its JSON is as good a text to hash as any
    return template if isinstance(template, str) else json.dumps(template or "")


def model_config(folder: Path) -> dict[str, Any]:
    """Return config.json without the fields that say only where it came from.

    Raises:
        SpecError: no config.json, or one that asks for code outside of transformers, for another weights file or for
            weights that are quantised already.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise SpecError(f"base {folder} has no config.json; accepted: a folder that save_pretrained wrote")
    config = _read_object(file)
    if "auto_map" in config:
        raise SpecError(f"base {folder} needs code of its own (auto_map in config.json); it is never run")
    if "transformers_weights" in config:
        raise SpecError(
            f"base {folder} names a weights file of its own (transformers_weights in config.json: "
            f"{config['transformers_weights']!r}), accepted: {WEIGHTS} or {WEIGHTS_INDEX}, and no such field"
        )
    if "quantization_config" in config:
        raise SpecError(
            f"base {folder} is quantised already (quantization_config in config.json), accepted: the weights that it "
            "was made from; base_dtype nf4 quantises them"
        )
    return {key: value for key, value in config.items() if key not in LOCAL_CONFIG_FIELDS}


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off the progress bars of transformers: a study loads hundreds of bases, and has a display of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(base: Base, dtype: BaseDtype = "float32", device: str = "cpu") -> nn.Module:
    """Load a base as a causal language model, in eval mode, without dropout of its own.

    Args:
        base: the base.
        dtype: of its weights and activations.
        device: where nf4 is quantised, and stays; every other base is on the CPU.

    Raises:
        SpecError: transformers cannot load the base, its folder also holds an adapter, or its config asks for dropout,
            which no field of a RunSpec would show.
        MissingExtraError: nf4 without bitsandbytes.
        IntegrityError: the stored weights are incomplete.
    """
    from transformers import AutoModelForCausalLM

    _refuse_adapter(base.folder)  # here too: a checkpoint's folder never went through open_base
    config = base.config
    noisy = {
        key: value
        for key, value in config.items()
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, int | float) and value > 0
    }
    if noisy:
        found = ", ".join(f"{key} {value}" for key, value in sorted(noisy.items()))
        raise SpecError(
            f"base {base.name} has {found} in config.json, accepted: 0; dropout belongs to the adapter "
            "(adapter.dropout)"
        )
    import torch
    from safetensors import SafetensorError

    from narrowly.models.nf4 import nf4_options, settle_quantised

    options = nf4_options(device) if dtype == "nf4" else {"dtype": getattr(torch, dtype)}
    try:
        with no_progress_bars():
            model, found = AutoModelForCausalLM.from_pretrained(
                base.folder,
                **options,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(
            f"base {base.name} in {base.folder} cannot be loaded as a causal language model: {reason}"
        ) from error
    absent = sorted(found["missing_keys"])
    if absent:  # transformers would draw them at random and only warn
        raise IntegrityError(f"base {base.name}: {len(absent)} weights are missing in {base.folder} ({absent[0]} ...)")
    if dtype == "nf4":
        settle_quantised(model, base.name)
    model.eval()
    return model  # type: ignore[no-any-return]


def load_tokenizer(base: Base) -> Any:
    """Load the tokenizer of a base; no code of its folder is run."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)


class WorldBase(NamedTuple):
    """A base of the microworld, loaded: float32 model in eval mode, its tokenizer, its world and its card."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    world: World
    card: BaseCard
    folder: Path


def load_world_base(name_or_path: str) -> WorldBase:
    """Load a base of the microworld with its world, after its weights were compared with its card.

    Raises:
        UnknownNameError: no such base.
        IntegrityError: the base has no card and so no world, or its weights differ from the card.
    """
    from narrowly.microworld.cards import base_folder, verify_weights
    from narrowly.microworld.world import World

    card = verify_weights(name_or_path)
    base = open_base(str(base_folder(name_or_path)))
    model: Any = load_model(base)
    return WorldBase(model, base.tokenizer(), World(card.config, card.world_seed), card, base.folder)
