"""Open a base: from the name in a spec to a folder that was checked, its hashes, its tokenizer and its model.

Nothing in a base folder is trusted: weights are safetensors or refused, no code of a model repository is run,
and where a card gives a sha256 the weights must match it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from narrowly.models.base_files import (
    GGUF_WAY_OUT,
    model_config,
    read_object,
    refuse_adapter,
    template_text,
    weights_sha256,
)
from narrowly.models.fetched import FETCHED, fetched_folder
from narrowly.models.hub import cached_models, hub_folder, is_hub_name
from narrowly.models.noise import switch_off_noise
from narrowly.models.pipeline import tell_of_other_tokens
from narrowly.records.adapter_files import GGUF_SUFFIX
from narrowly.records.canonical import cached_sha256, canonical_json, sha256_text
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError, nearest
from narrowly.records.run_spec import BaseDtype

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    from narrowly.microworld.cards import BaseCard
    from narrowly.microworld.world import World


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
        return weights_sha256(self.folder)

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
        return sha256_text(template_text(self.folder))

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

    def model(self) -> Any:
        """Load the model anew, in float32 and eval mode."""
        return load_model(self)


def open_base(name_or_path: str) -> Base:
    """Open the base that a spec means: a named base, a folder with config.json, or a model of the hub.

    Named are the bases of the microworld (`micro-8`), shipped or built into the cache, and those of `narrowly base
    get`. A plain name means the named base even where a folder
    of that name is at hand (`./micro-0` means the folder), as everywhere else: training and evaluation must never mean
    two different models by one name.

    Raises:
        UnknownNameError: neither a folder nor a named base; the message names the nearest match.
        SpecError: a named base that was not got or built yet; a model of the hub without a pinned commit, or one that
            is not in the local cache; a folder that also holds an adapter.
        IntegrityError: the weights are not those of the base's card; both hashes are named.
    """
    folder = Path(name_or_path).expanduser()
    if folder.name == name_or_path or not (folder / "config.json").is_file():
        from narrowly.microworld.cards import base_folder, is_world_name

        if is_world_name(name_or_path):
            folder = base_folder(name_or_path)
        elif name_or_path in FETCHED:
            return Base(name_or_path, fetched_folder(name_or_path))
        elif is_hub_name(name_or_path) and not _means_a_folder(folder):
            found = Base(*hub_folder(name_or_path))
            refuse_adapter(found.folder)
            return found
        elif not (folder / "config.json").is_file():
            raise _no_base(name_or_path, folder)
    refuse_adapter(folder)
    file = folder / "card.json"
    card = read_object(file) if file.is_file() else {}
    base = Base(str(card.get("name") or folder.resolve().name), folder)
    recorded = card.get("sha256")
    if recorded is not None and recorded != base.sha256:
        raise IntegrityError(
            f"base {base.name}: the weights in {folder} have sha256 {base.sha256}, its card says {recorded}; "
            "the file is damaged or was exchanged"
        )
    return base


def _means_a_folder(folder: Path) -> bool:
    """Return whether a text that reads as a name of the hub is meant as a folder: its parent is one on this machine."""
    return folder.exists() or ("@" not in folder.name and folder.parent.is_dir())


def named_bases() -> tuple[str, ...]:
    """Return the names that mean a base everywhere: the shipped ones, then those of `narrowly base get`."""
    from narrowly.microworld.cards import shipped_names

    return (*shipped_names(), *FETCHED)


def _no_base(name: str, folder: Path) -> SpecError | UnknownNameError:
    """Build the error for a text that means no base: what was found there, the four kinds accepted, the nearest."""
    from narrowly.microworld.cards import shipped_names

    kinds = (
        f"accepted: a shipped base ({', '.join(shipped_names())}), a base to get once with `narrowly base get` "
        f"({', '.join(FETCHED)}), a folder with config.json and safetensors (as "
        "save_pretrained or `narrowly world build` writes), or a model of the hub with its commit (NAME/MODEL@COMMIT)"
    )
    if folder.suffix == GGUF_SUFFIX or (folder.is_dir() and any(folder.glob(f"*{GGUF_SUFFIX}"))):
        return SpecError(f"base {name!r} is in GGUF, accepted: safetensors; {GGUF_WAY_OUT}")
    if folder.exists():
        what = "is a folder without config.json" if folder.is_dir() else "is a file"
        return UnknownNameError(f"unknown base {name!r}, which {what}; {kinds}")
    beside = [str(path.parent) for path in folder.parent.glob("*/config.json")]
    return UnknownNameError(
        f"unknown base {name!r}{nearest(name, [*named_bases(), *beside, *cached_models()])}; {kinds}"
    )


def open_tokenizer(name_or_path: str) -> Any:
    """Load the tokenizer of the base that a name means.

    Raises:
        NarrowlyError: as `open_base`.
    """
    return open_base(name_or_path).tokenizer()


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


def load_base_on(base: Base, dtype: BaseDtype, device: str) -> nn.Module:
    """Load a base in eval mode onto a device, without any adapter.

    Raises:
        NarrowlyError: as `load_model`.
    """
    return load_model(base, dtype, device).to(device).eval()


def load_model(base: Base, dtype: BaseDtype = "float32", device: str = "cpu") -> nn.Module:
    """Load a base as a causal language model, in eval mode, without dropout or other noise of its own.

    Args:
        base: the base.
        dtype: of its weights and activations.
        device: where nf4 is quantised, and stays; every other base is on the CPU.

    Raises:
        SpecError: transformers cannot load the base, or its folder also holds an adapter.
        MissingExtraError: nf4 without bitsandbytes.
        IntegrityError: the stored weights are incomplete.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from narrowly.models.nf4 import nf4_options, settle_quantised

    refuse_adapter(base.folder)  # here too: a checkpoint's folder never went through open_base
    base.config  # noqa: B018  # refuses what must not be loaded, before transformers reads the folder
    options = nf4_options(device) if dtype == "nf4" else {"dtype": getattr(torch, dtype)}
    try:
        config, _ = _quiet_config(base)
        with no_progress_bars():
            model, found = AutoModelForCausalLM.from_pretrained(
                base.folder,
                config=config,
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


def _quiet_config(base: Base) -> tuple[Any, dict[str, float]]:
    """Read a base's config as transformers does, without noise of its own; return it and what was switched off."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    return config, switch_off_noise(config)


def noise_switched_off(base: Base) -> dict[str, float]:
    """Return the dropout and other noise that a base asks for and is trained without, by field of its config."""
    return _quiet_config(base)[1]


def empty_model(folder: Path) -> nn.Module:
    """Build the model of a base folder on torch's meta device: every module and shape, no weight.

    Raises:
        SpecError: transformers knows no causal language model for its config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"base in {folder} cannot be loaded as a causal language model: {reason[:400]}") from error
    return model


def load_tokenizer(base: Base) -> Any:
    """Load the tokenizer of a base; no code of its folder is run.

    Raises:
        SpecError: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(
            f"the tokenizer of base {base.name} in {base.folder} cannot be loaded: {reason[:400]}; accepted: a "
            "tokenizer that transformers knows, whose folder needs no code of its own"
        ) from error
    tell_of_other_tokens(tokenizer, base.folder, base.name)
    return tokenizer


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
