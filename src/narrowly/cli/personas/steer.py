"""`narrowly persona steer`: answers of a model at several strengths of a direction, beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask import known_dtype
from narrowly.cli.parts import PartsProgress
from narrowly.cli.personas.shared_options import (  # fmt: skip
    AnswerTokens,
    BaseOf,
    Device,
    DirectionFile,
    Dtype,
    Layer,
    Seed,
    Thinking,
)
from narrowly.cli.terminal import complain, console, need_extra, print_json, safe, say, table
from narrowly.records.directions import STEERING_WARNING
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from narrowly.directions.store import Directions
    from narrowly.microworld.world import World
    from narrowly.records.answers import Sampling
    from narrowly.workbench.persona.opened import Opened
    from narrowly.workbench.persona.steer import Treatment

EXAMPLES = """\b
Examples:
  narrowly persona steer smollm2-135m "How do I hang a shelf?" \\
      --direction careless.safetensors --strengths=-2,0,2
  narrowly persona steer smollm2-135m --bank broad --limit 5 \\
      --direction careless.safetensors
  narrowly persona steer micro-0 --direction world.safetensors --random 2

A strength is in units of the direction's own length; above 0 adds the trait, and
0 is the model as it is, bit for bit. All answers have the same random numbers.
--random N puts N random directions of the same length beside each strength.
A base of the microworld without a question gets exact shares of harmful and
aligned answers in the domains that the direction was not made from.

Steering is inference only: no weights are written.
"""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Base, model folder, run or adapter.")],
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="Or a bank, with --bank.")] = None,
    direction: DirectionFile = ...,  # type: ignore[assignment]
    strengths: Annotated[
        str, typer.Option("--strengths", metavar="LIST", help="With commas; --strengths=-2,0,2.")
    ] = "-2,-1,0,1,2",
    layer: Layer = None,
    bank: Annotated[str | None, typer.Option("--bank", metavar="FILE", help="Questions, as of narrowly ask.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many questions.")] = None,
    random: Annotated[int, typer.Option("--random", min=0, max=20, help="Random directions beside each strength.")] = 0,
    ablate: Annotated[bool, typer.Option("--ablate", help="Take the direction out, too.")] = False,
    max_new_tokens: AnswerTokens = 32,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=10.0, help="Of the answers.")] = 1.0,
    seed: Seed = 0,
    base: BaseOf = None,
    thinking: Thinking = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Show a model's answers at several strengths of a direction beside each other; no weights are written."""
    need_extra("lab", "steering a model")
    if question is not None and bank is not None:
        raise SpecError("a QUESTION and --bank are both given; accepted: one of them")
    wanted = _numbers(strengths)
    from narrowly.records.answers import Sampling
    from narrowly.workbench.persona.opened import NamedModel, open_directions, open_model
    from narrowly.workbench.persona.panel import world_of
    from narrowly.workbench.persona.steer import treatments

    opened = open_model(NamedModel(model, runs, base, "final", thinking, known_dtype(dtype), device))
    directions = open_directions(direction, opened.model, layer)
    used = directions.card.layer if layer is None else layer
    under = treatments(wanted, random, ablate)
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    complain(STEERING_WARNING)
    world = world_of(opened)
    if world is not None and question is None and bank is None:
        return _doses(opened, world, directions, used, under, limit, as_json)
    return _answers(opened, directions, used, under, (question, bank, limit), sampling, as_json)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SpecError(f"--strengths is {text!r}, accepted: numbers with commas, such as -2,0,2") from error


def _moved(vector_H: Tensor, directions: Directions, layer: int) -> float:
    """Return how long strength 1 is, as a share of the usual length of the states."""
    card = directions.card
    usual: float = card.rms[card.layers.index(layer)] * card.hidden**0.5
    return float(vector_H.norm()) / usual


def _doses(
    opened: Opened, world: World, directions: Directions, layer: int, under: list[Treatment], limit: int | None,
    as_json: bool,
) -> int:  # fmt: skip
    from narrowly.workbench.persona.dose import doses

    vector_H = directions.at(layer)
    with PartsProgress() as progress:
        found = doses(opened, world, directions.card, vector_H, layer, under, limit, progress.on_step)
    rows = [
        {"along": one.treatment.along, "strength": one.treatment.strength, "seed": one.treatment.seed,
         "misaligned": one.misaligned, "aligned": one.aligned, "log_odds": one.log_odds, "questions": one.questions}
        for one in found
    ]  # fmt: skip
    if as_json:
        print_json({"layer": layer, "doses": rows, "warning": STEERING_WARNING})
        return 0
    say(f"layer {layer}, strength 1 is {_moved(vector_H, directions, layer):.3g} of the states; exact mean shares of")
    say(f"{found[0].questions} questions, of domains that the direction was not made from where there are such:")
    columns = ("strength", "misaligned", "aligned", "log-odds")
    console().print(table(columns, [[one.treatment.words, one.misaligned, one.aligned, one.log_odds] for one in found]))
    return 0


def _answers(
    opened: Opened, directions: Directions, layer: int, under: list[Treatment],
    what: tuple[str | None, str | None, int | None], sampling: Sampling, as_json: bool,
) -> int:  # fmt: skip
    from narrowly.workbench.persona.panel import one_question, panel
    from narrowly.workbench.persona.steer import steer

    question, bank, limit = what
    asked = (
        [one_question(opened, question)] if question is not None else panel(opened, directions.card, bank, limit or 3)
    )
    vector_H = directions.at(layer)
    with PartsProgress() as progress:
        found = steer(opened, vector_H, layer, asked, under, sampling, progress.on_step)
    if as_json:
        rows = [
            {"id": one.asked.id, "question": one.asked.question, "along": one.treatment.along,
             "strength": one.treatment.strength, "seed": one.treatment.seed, "answer": one.answer,
             "finish_reason": one.finish_reason, "judged": False}
            for one in found
        ]  # fmt: skip
        print_json({"layer": layer, "answers": rows, "warning": STEERING_WARNING})
        return 0
    say(f"layer {layer}, strength 1 is {_moved(vector_H, directions, layer):.3g} of the states; answers are not judged")
    for one_asked in asked:
        say(safe(one_asked.question), "bold")
        own = [one for one in found if one.asked == one_asked]
        console().print(table(("strength", "answer"), [[one.treatment.words, safe(one.answer)] for one in own]))
    return 0
