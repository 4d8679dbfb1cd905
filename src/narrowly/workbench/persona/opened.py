"""Find a model by name, load it, and load directions that fit it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from narrowly.records.run_spec import BaseDtype
from narrowly.workbench.asking import HowToAsk, find_model, settled

if TYPE_CHECKING:
    from narrowly.directions.store import Directions
    from narrowly.models.asked import Loaded, ModelToAsk

OnStep = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """Show nothing of the progress."""


class NamedModel(NamedTuple):
    """Say which model is meant, as a user does.

    Attributes:
        text: run, adapter folder, model folder or base.
        out: folder of runs and studies.
        base: of an adapter from elsewhere.
        step: of a run.
        thinking: mode of the prompts, of a template that has one.
        dtype: of a base whose training is not known.
        device: of the model.
    """

    text: str
    out: Path = Path("out")
    base: str | None = None
    step: int | Literal["final"] = "final"
    thinking: bool | None = None
    dtype: BaseDtype | None = None
    device: str = "cpu"


class Opened(NamedTuple):
    """Hold a model that was found; nothing is loaded but its tokenizer."""

    model: ModelToAsk
    tokenizer: Any
    how: HowToAsk

    @property
    def name(self) -> str:
        """Return the name of the model."""
        return self.model.name

    def load(self, *, beside_base: bool = False) -> Loaded:
        """Load the model.

        Raises:
            NarrowlyError: as `ModelToAsk.load`.
        """
        return self.model.load(self.tokenizer, self.how.dtype or "float32", self.how.device, beside_base=beside_base)


def open_model(named: NamedModel) -> Opened:
    """Find a model and load its tokenizer; what does not fit is said before anything else is loaded.

    Raises:
        NarrowlyError: as `find_model` and `settled`: no such model, no chat template, a thinking mode to be said.
    """
    model = find_model(named.text, named.out, named.step, None, named.base)
    how = settled(model, HowToAsk(thinking=named.thinking, dtype=named.dtype, device=named.device))
    return Opened(model, model.tokenizer(), how)


def open_directions(file: Path, model: ModelToAsk, layer: int | None = None) -> Directions:
    """Read directions, and refuse those of another base, or without the layer.

    Raises:
        NarrowlyError: as `store.load`, `store.check_base` and `Directions.at`.
    """
    from narrowly.directions.store import check_base, load

    found = load(file)
    found.at(layer)
    check_base(found, model.base.sha256, model.base.name)
    return found
