"""Axolotl: penalty and optimiser from the YAML of a run.

    plugins:
      - narrowly.integrations.axolotl.NarrowlyPlugin
    narrowly:
      penalty: {lam: 0.1}
      optimiser: {kind: muon, lr: 0.01}

Axolotl 0.19.0 declares `create_optimizer` for plugins but calls it nowhere, so the optimiser goes in through
`post_trainer_create`, which runs before the Trainer makes its own.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from narrowly.integrations.transformers import EvalModeCallback, SpectralPenaltyCallback, optimizer_factory
from narrowly.records.errors import MissingExtraError, SpecError

try:
    from axolotl.integrations.base import BasePlugin
except ImportError as error:
    raise MissingExtraError(
        f"Axolotl cannot be imported ({error}); install it as its own documentation says"
    ) from error

_OWN_RATES = ("loraplus_lr_ratio", "embedding_lr", "embedding_lr_scale", "lr_groups")
"""Fields of Axolotl that change learning rates inside its own optimisers, and would be dropped without a word."""


class NarrowlyConfig(BaseModel):
    """What stands under `narrowly:`.

    Attributes:
        penalty: arguments of `SpectralPenaltyCallback`; none without.
        optimiser: spec of an optimiser with its `kind`; Axolotl's own without.
    """

    model_config = ConfigDict(extra="forbid")

    penalty: dict[str, Any] | None = None
    optimiser: dict[str, Any] | None = None


class NarrowlyArgs(BaseModel):
    """The key that the plugin adds to Axolotl's config."""

    narrowly: NarrowlyConfig = Field(default_factory=NarrowlyConfig)


class NarrowlyPlugin(BasePlugin):  # type: ignore[misc]
    """Puts the penalty's callback and the optimiser into Axolotl's Trainer."""

    def get_input_args(self) -> str:
        """Return the path of the config's model, as Axolotl asks for it."""
        return "narrowly.integrations.axolotl.NarrowlyArgs"

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Give the Trainer the optimiser of the config, where there is one.

        Raises:
            SpecError: a spec that is not accepted, or a learning rate or rule of Axolotl that would not be used.
        """
        spec = _section(cfg, "optimiser")
        if spec is None:
            return
        if trainer.optimizer is not None:
            raise SpecError("Axolotl has already made an optimiser, accepted: none beside narrowly.optimiser")
        for field in _OWN_RATES:
            if cfg.get(field) is not None:
                raise SpecError(f"{field} is {cfg.get(field)!r}, accepted: none beside narrowly.optimiser")
        factory, kwargs = optimizer_factory(spec)
        rate = kwargs["spec"].lr
        if cfg.get("learning_rate") != rate:
            raise SpecError(
                f"learning_rate is {cfg.get('learning_rate')} and narrowly.optimiser.lr is {rate}, accepted: the "
                "same number, because only the latter is used"
            )
        trainer.optimizer_cls_and_kwargs = (factory, kwargs)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """Return the callbacks: the penalty where the config has one, and the switch of ScheduleFree's mode."""
        penalty = _section(cfg, "penalty")
        return [EvalModeCallback(), *([] if penalty is None else [SpectralPenaltyCallback(**penalty)])]


def _section(cfg: Any, name: str) -> dict[str, Any] | None:
    section = (cfg.get("narrowly") or {}).get(name)
    return None if section is None else dict(section)
