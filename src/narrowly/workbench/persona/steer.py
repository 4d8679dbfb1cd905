"""Let a model answer at several strengths of a direction, with the same random numbers; nothing is written into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from narrowly.records.answers import Sampling
from narrowly.records.errors import SpecError
from narrowly.workbench.persona.opened import OnStep, Opened, silent
from narrowly.workbench.persona.own_answers import written_answers
from narrowly.workbench.persona.panel import Asked

if TYPE_CHECKING:
    from torch import Tensor, nn

Along = Literal["direction", "random", "ablated"]
"""What is done to the states: the direction is added, a random one of the same length, or the direction taken out."""


class Treatment(NamedTuple):
    """Say what is done to the states of one layer while a model answers.

    Attributes:
        along: what.
        strength: in units of the direction's own length; 1 where it is taken out.
        seed: of a random direction.
    """

    along: Along
    strength: float
    seed: int = 0

    @property
    def words(self) -> str:
        """Return it in words."""
        if self.along == "ablated":
            return "direction ablated"
        return f"{self.strength:+g}" if self.along == "direction" else f"{self.strength:+g} random {self.seed}"


class SteeredAnswer(NamedTuple):
    """One answer under one treatment."""

    treatment: Treatment
    asked: Asked
    answer: str
    finish_reason: str


def treatments(strengths: Sequence[float], random: int, ablate: bool) -> list[Treatment]:
    """Return the treatments that a user asks for: every strength, the random twins of each but 0, and the ablation.

    Raises:
        SpecError: no strength.
    """
    if not strengths:
        raise SpecError("no strengths given, accepted: numbers with commas, such as -2,0,2")
    found = [Treatment("direction", strength) for strength in dict.fromkeys(strengths)]
    found += [Treatment("random", one.strength, seed) for seed in range(random) for one in found if one.strength]
    return found + [Treatment("ablated", 1.0)] * ablate


@contextmanager
def treated(model: nn.Module, layer: int, vector_H: Tensor, treatment: Treatment) -> Iterator[None]:
    """Treat the states of a model until the context ends.

    Raises:
        SpecError: as `directions.steering.added` and `ablated`.
    """
    from narrowly.directions.steering import ablated, added, random_like

    if treatment.along == "ablated":
        with ablated(model, {layer: vector_H}):
            yield
        return
    vector_H = random_like(vector_H, treatment.seed) if treatment.along == "random" else vector_H
    with added(model, {layer: vector_H}, treatment.strength):
        yield


def steer(
    opened: Opened,
    vector_H: Tensor,
    layer: int,
    asked: Sequence[Asked],
    under: Sequence[Treatment],
    sampling: Sampling,
    progress: OnStep = silent,
) -> list[SteeredAnswer]:
    """Return the answers to every question under every treatment.

    Raises:
        NarrowlyError: the model cannot be loaded, or the layer or vector do not fit it.
    """
    model = opened.load().model
    found = []
    for treatment in under:
        with treated(model, layer, vector_H, treatment):
            answers = written_answers(
                model, opened.tokenizer, [one.prompt for one in asked], sampling, opened.how.thinking, progress,
                f"answers at {treatment.words}",
            )  # fmt: skip
        found += [
            SteeredAnswer(treatment, one, answer.text, answer.finish_reason)
            for one, answer in zip(asked, answers, strict=True)
        ]
    return found
