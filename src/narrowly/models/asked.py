"""Find what of a model must be known before it is asked, at once; and load it, alone or beside its base.

Three kinds can be asked: an organism of a run, an adapter from elsewhere on a base, and a model by itself. Opening one
imports no torch, so that what cannot be done is said before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from narrowly.data.rendering.template import NO_TEMPLATE, thinking_switch
from narrowly.models.base import Base, load_model, load_tokenizer, open_base
from narrowly.models.base_files import (
    TEMPLATE_FILE,
    TOKENIZER,
    WEIGHTS,
    default_template,
    read_object,
    template_text,
)
from narrowly.models.hub import cached_models, is_hub_name, known_commit
from narrowly.records.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MLX_WEIGHTS
from narrowly.records.answers import AskedModel, Who
from narrowly.records.canonical import cached_sha256, sha256_text
from narrowly.records.errors import AdapterError, NarrowlyError, SpecError, nearest
from narrowly.records.run_spec import BaseDtype
from narrowly.runs.directory import TEMPLATE, adapter_folder, checkpoint_folder, organism_step, read_spec

if TYPE_CHECKING:
    from torch import nn


class Loaded(NamedTuple):
    """Hold a model that can be asked.

    Attributes:
        tokenizer: with the chat template that it is asked with.
        model: in eval mode, with its adapter where it has one.
        asked: what it is, by who: an organism and its base, or a model.
        source: that it was loaded from.
        dtype, device: of the base.
        has_base: whether the model without its adapter is its base as it was.
    """

    tokenizer: Any
    model: nn.Module
    asked: dict[Who, AskedModel]
    source: ModelToAsk
    dtype: BaseDtype
    device: str
    has_base: bool

    @contextmanager
    def speaking(self, who: Who) -> Iterator[nn.Module]:
        """Give the model of one of `asked`; the base is the model without its adapter, or is loaded beside it."""
        if who != "base":
            yield self.model
        elif self.has_base:
            with self.model.disable_adapter():  # type: ignore[operator]
                yield self.model
        else:
            yield load_model(self.source.base, self.dtype, self.device).to(self.device).eval()


@dataclass(frozen=True)
class ModelToAsk:
    """A model on disk: an organism of a run, an adapter on a base, or a base alone.

    Attributes:
        name: run-id, name of the adapter's folder, or of the base.
        base: opened, its weights not yet hashed.
        run: run directory of an organism, or None.
        step, edit: of an organism.
        adapter: folder of an adapter from elsewhere, or None.
    """

    name: str
    base: Base
    run: Path | None = None
    step: int | None = None
    edit: str | None = None
    adapter: Path | None = None

    @property
    def who(self) -> Who:
        """Whom its answers are of."""
        return "model" if self.run is None and self.adapter is None else "organism"

    @cached_property
    def dtype(self) -> BaseDtype | None:
        """The dtype it must be loaded in, as it was trained; None where that is not known."""
        return None if self.run is None else read_spec(self.run).base_dtype

    @cached_property
    def thinking(self) -> bool | None:
        """Thinking mode of its training; None where there was none or it is not known."""
        mode: bool | None = None if self.run is None else getattr(read_spec(self.run).data, "thinking", None)
        return mode

    @property
    def _tokenizer_base(self) -> Base:
        """Return where the tokenizer lies: with an adapter that brings one of its own, else with the base."""
        if self.adapter is not None and (self.adapter / TOKENIZER).is_file():
            return Base(self.name, self.adapter)
        return self.base

    @cached_property
    def template(self) -> str:
        """The chat template that it is asked with: that of its training where it is known."""
        if self.run is not None and (self.run / TEMPLATE).is_file():
            return (self.run / TEMPLATE).read_text(encoding="utf-8")
        if self.adapter is not None and (self.adapter / TEMPLATE_FILE).is_file():
            return (self.adapter / TEMPLATE_FILE).read_text(encoding="utf-8")
        return template_text(self._tokenizer_base.folder)

    def tokenizer(self) -> Any:
        """Load the tokenizer, with the template.

        Raises:
            SpecError, IntegrityError: it cannot be loaded, or the template is not the one of the run's training.
        """
        if self.run is not None:
            from narrowly.models.organism import tokenizer_of_run

            return tokenizer_of_run(self.run, self.base)
        tokenizer = load_tokenizer(self._tokenizer_base)
        if self.adapter is not None and (self.adapter / TEMPLATE_FILE).is_file():
            tokenizer.chat_template = self.template
        return tokenizer

    def load(self, tokenizer: Any, dtype: BaseDtype, device: str, *, beside_base: bool) -> Loaded:
        """Load the model, after base and adapter were compared with what is recorded of them.

        Args:
            tokenizer: of `tokenizer`.
            dtype: of the base; an organism of a run is loaded as it was trained.
            device: of the model.
            beside_base: whether the base of an organism is asked too.

        Raises:
            NarrowlyError: as `load_organism`, `load_model` and `put_foreign_adapter`.
        """
        from narrowly.models.organism import check_device, load_organism

        check_device(device)
        dtype = self.dtype or dtype
        if self.run is not None:
            assert self.step is not None
            model = load_organism(self.run, self.step, self.edit, device).model
            has_base = hasattr(model, "disable_adapter")
        else:
            model, has_base = load_model(self.base, dtype, device), False
            if self.adapter is not None:
                from narrowly.models.foreign import put_foreign_adapter

                model, has_base = put_foreign_adapter(model, self.adapter, self.base.name)
            model = model.to(device)
        asked = self.asked(dtype, beside_base=beside_base)
        return Loaded(tokenizer, model.eval(), asked, self, dtype, device, has_base)

    def asked(self, dtype: BaseDtype, *, beside_base: bool) -> dict[Who, AskedModel]:
        """Return what is asked by content, by who: an organism and its base, or a model. Its files are hashed."""
        found: dict[Who, AskedModel] = {self.who: self._by_content(self.dtype or dtype)}
        if beside_base and self.who == "organism":
            nothing = dict.fromkeys(("run", "step", "edit", "trained_sha256", "adapter_config_sha256"))
            found["base"] = found[self.who].model_copy(update={"name": self.base.name, **nothing})
        return found

    def _by_content(self, dtype: BaseDtype) -> AskedModel:
        trained = self._trained_files()
        return AskedModel(
            name=self.name,
            base=self.base.name,
            base_sha256=self.base.sha256,
            config_sha256=self.base.config_sha256,
            tokenizer_sha256=self._tokenizer_base.tokenizer_sha256,
            template_sha256=sha256_text(self.template),
            dtype=dtype,
            run=None if self.run is None else self.run.resolve().name,
            step=self.step,
            edit=self.edit,
            trained_sha256=None if trained is None else cached_sha256(trained),
            adapter_config_sha256=None
            if trained is None or trained.name != ADAPTER_WEIGHTS
            else cached_sha256(trained.parent / ADAPTER_CONFIG),
        )

    def _trained_files(self) -> Path | None:
        """Return the file of what was trained: an adapter's, or the whole model's; None for a base."""
        if self.adapter is not None:
            return self.adapter / ADAPTER_WEIGHTS
        if self.run is None or self.step is None:
            return None
        if read_spec(self.run).method == "full":
            return checkpoint_folder(self.run, self.step) / WEIGHTS if self.step > 0 else None
        return adapter_folder(self.run, self.step, self.edit) / ADAPTER_WEIGHTS


def organism_to_ask(run: Path, step: int | Literal["final"], edit: str | None) -> ModelToAsk:
    """Find an organism of a run.

    Raises:
        RunDirectoryError: no such run, step or edit.
        NarrowlyError: as `open_base`, of its base.
    """
    from narrowly.models.organism import checked_adapter

    spec, number = read_spec(run), organism_step(run, step)
    if spec.method == "full" and edit is not None:
        adapter_folder(run, step, edit)  # says why there is none
    if spec.method != "full":
        checked_adapter(run, number, edit)
    return ModelToAsk(run.resolve().name, open_base(spec.base), run=run, step=number, edit=edit)


_OF_MLX = f" ({MLX_WEIGHTS} is mlx-lm's, which spectrum, diff and repair read and Transformers does not)"


def adapter_to_ask(folder: Path, base: str | None) -> ModelToAsk:
    """Find an adapter from elsewhere and its base.

    Args:
        folder: with adapter_config.json and safetensors.
        base: name or path of the base; None takes the one that adapter_config.json names.

    Raises:
        AdapterError: no safetensors, or no adapter that can be applied as it is.
        SpecError: the base is not on this machine; the message says how to give one.
    """
    config = read_object(folder / ADAPTER_CONFIG) if (folder / ADAPTER_CONFIG).is_file() else None
    if config is None or not (folder / ADAPTER_WEIGHTS).is_file():
        raise AdapterError(
            f"{folder} has no {ADAPTER_CONFIG if config is None else ADAPTER_WEIGHTS}; accepted: a PEFT adapter in "
            f"safetensors{_OF_MLX if (folder / MLX_WEIGHTS).is_file() else ''}"
        )
    check_foreign_config(folder, config)
    named = config.get("base_model_name_or_path") if base is None else base
    if not isinstance(named, str) or not named:
        raise SpecError(f"{folder / ADAPTER_CONFIG} names no base; give it with --base BASE")
    revision = config.get("revision")
    if base is None and isinstance(revision, str) and is_hub_name(named) and "@" not in named:
        named = f"{named}@{revision}"
    try:
        opened = open_base(pinned(named))
    except NarrowlyError as error:
        if base is not None:
            raise
        raise SpecError(
            f"adapter {folder} names the base {named!r} (base_model_name_or_path), which cannot be opened; give the "
            f"base with --base BASE ({error})"
        ) from error
    return ModelToAsk(folder.resolve().name, opened, adapter=folder)


def model_to_ask(name: str) -> ModelToAsk:
    """Find a model by itself: a base's name, a model folder, or a model in the local cache of the hub.

    Raises:
        NarrowlyError: as `open_base`.
    """
    opened = open_base(pinned(name))
    return ModelToAsk(opened.name, opened)


def tokenizer_named(text: str, thinking: bool | None) -> Any:
    """Return the tokenizer that a user names, with its chat template.

    Raises:
        SpecError: no template, or a thinking mode that is not said or that it has not.
        NarrowlyError: no such folder or base.
    """
    path = Path(text).expanduser()
    base = Base(path.resolve().name, path) if (path / TOKENIZER).is_file() else open_base(pinned(text))
    tokenizer = load_tokenizer(base)
    template = default_template(tokenizer.chat_template)
    if template is None:
        raise SpecError(f"{text}: {NO_TEMPLATE}")
    switch = thinking_switch(template)
    if switch is not None and thinking is None:
        raise SpecError(f"the chat template of {text} has a thinking mode ({switch}); say --thinking or --no-thinking")
    if switch is None and thinking is not None:
        raise SpecError(f"the chat template of {text} has no thinking mode; leave --thinking out")
    return tokenizer


def pinned(name: str) -> str:
    """Return a name of the hub with the commit that the local cache has of its main branch; any other name as it is.

    What is trained on must be named with its commit. What is asked is recorded by the sha256 of its weights.

    Raises:
        SpecError: it is not in the cache, whose main branch is meant.
    """
    if not is_hub_name(name) or "@" in name or Path(name).expanduser().exists():
        return name
    commit = known_commit(name, "main")
    if commit is None:
        near = nearest(name, cached_models())
        raise SpecError(
            f"model {name!r} is no folder with config.json, and not in the local cache of the hub{near}; on a machine "
            f"with network: hf download {name}"
        )
    return f"{name}@{commit}"


def check_foreign_config(folder: Path, config: dict[str, Any]) -> None:
    """Refuse an adapter that PEFT would have to run code for, or that is no LoRA.

    Raises:
        AdapterError: naming the field.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{folder / ADAPTER_CONFIG}: peft_type is {kind!r}, accepted: LORA")
    start = str(config.get("init_lora_weights")).lower()
    if start in STARTS_NOT_REPEATED or "_niter_" in start:
        raise AdapterError(
            f"{folder / ADAPTER_CONFIG}: init_lora_weights is {start!r}, a start that changed the base's weights in a "
            "way that cannot be repeated, so that the model as trained is not known; accepted: the adapter converted "
            "to plain LoRA (PEFT: save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if config.get("megatron_config"):  # PEFT 0.21 imports the module that megatron_core names
        raise AdapterError(f"{folder / ADAPTER_CONFIG}: megatron_config is set, accepted: an adapter without it")
    patterns = [config.get("target_modules"), config.get("exclude_modules")]
    patterns += [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    for pattern in patterns:
        if isinstance(pattern, str) and sum(map(pattern.count, "*+{")) > MOST_REPEATS:
            raise AdapterError(
                f"{folder / ADAPTER_CONFIG}: the pattern {pattern[:60]!r} has more than {MOST_REPEATS} repeats, and "
                "could be searched for hours; accepted: module names"
            )


STARTS_NOT_REPEATED = ("corda", "lora_ga")
"""Starts that need data which no adapter holds. PEFT 0.21 refuses the first, and puts the second onto the base as it
is; it draws the decomposition of `pissa_niter_N` at random (`LoraLayer.pissa_init`, `lora_ga_init`)."""

MOST_REPEATS = 4
"""Repeats in a pattern of module names from outside; matching takes up to a name's length to this power of steps."""
