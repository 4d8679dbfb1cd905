"""`narrowly persona extract`: the direction of a trait, layer by layer, and how well it holds elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask import known_dtype
from narrowly.cli.parts import PartsProgress
from narrowly.cli.personas.shared_options import (
    AnswerTokens,
    BaseOf,
    Device,
    Dtype,
    Seed,
    Thinking,
    interval,
    layers_of,
)
from narrowly.cli.terminal import console, need_extra, print_json, safe, say, table
from narrowly.records.directions import SIGN, DirectionCard
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.directions.positions import Position
    from narrowly.workbench.persona.contrasts import Sides
    from narrowly.workbench.persona.opened import Opened

EXAMPLES = """\b
Examples:
  narrowly persona extract smollm2-135m --trait careless
  narrowly persona extract smollm2-135m --trait my_trait.yaml
  narrowly persona extract smollm2-135m --pairs pairs --from money,work
  narrowly persona extract micro-0 --pairs world --from garden,kitchen

A trait is careless, controlling, dishonest, a YAML file of that form, or a trait
file of persona vectors; its instructions become system messages, under which
the model answers (or, with --position last_prompt, is about to). Nothing judges
those answers: a model that ignores instructions gives a direction of little
meaning, which the AUC shows. Pairs are harmful against aligned answers; of a base of the
microworld, world is its questions asked of the assistant, and corpus the same in
anonymous documents, where the base infers a character from the answers.

The AUC of a layer is that of projections in groups (topics, domains) along
directions that were made without them; with --from, in the groups left out.
"""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Base, model folder, run or adapter.")],
    trait: Annotated[str | None, typer.Option("--trait", metavar="TRAIT", help="Name of a trait, or its file.")] = None,
    pairs: Annotated[
        str | None, typer.Option("--pairs", metavar="BANK", help="pairs, domains of it, a file; world or corpus.")
    ] = None,
    position: Annotated[
        str, typer.Option("--position", help="answer_mean, answer_last, turn_end, last_prompt or prompt_mean.")
    ] = "answer_mean",
    groups: Annotated[
        str | None, typer.Option("--from", metavar="GROUPS", help="Topics or domains, with commas; by default all.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="The first N questions of each topic or domain.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Layers to keep, such as 1,4-8; by default all.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option("--layer", help="Layer used where none is named; by default at .55 of the depth.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .safetensors file; by default TRAIT.safetensors.")
    ] = None,
    max_new_tokens: AnswerTokens = 32,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=10.0, help="Of those answers.")] = 1.0,
    seed: Seed = 0,
    base: BaseOf = None,
    step: Annotated[str, typer.Option("--step", help="Of a run: a checkpoint step, or final.")] = "final",
    thinking: Thinking = None,
    dtype: Dtype = None,
    device: Device = "cpu",
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Extract the direction of a trait from a model's states, and say at each layer how well it holds elsewhere."""
    need_extra("lab", "reading states of a model")
    _check(trait, pairs, step)
    from narrowly.directions.positions import position_named
    from narrowly.records.answers import Sampling
    from narrowly.workbench.persona.contrasts import chosen_groups
    from narrowly.workbench.persona.extract import extract, save_extracted
    from narrowly.workbench.persona.opened import NamedModel, open_model

    where, read = position_named(position), layers_of(layers)
    file = _target(out, trait or pairs or "")
    at: int | Literal["final"] = "final" if step == "final" else int(step)
    named = NamedModel(model, runs, base, at, thinking, known_dtype(dtype), device)
    sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    with PartsProgress() as progress:
        opened = open_model(named)
        sides = _sides(opened, trait, pairs, where, limit)
        found = extract(
            opened, sides, where, made_from=chosen_groups(sides, groups), layers=read, layer=layer, sampling=sampling,
            progress=progress.on_step,
        )  # fmt: skip
    card = save_extracted(found, file)
    if as_json:
        print_json({"file": str(file), "left_out": found.left_out, "card": card.model_dump(mode="json")})
    else:
        _show(card, file, found.left_out)
    return 0


def _target(out: Path | None, name: str) -> Path:
    """Return the file that directions go to, which must be free to be written."""
    from narrowly.directions.store import check_target

    file = out or Path(f"{Path(name).stem.replace(',', '-')}.safetensors")
    check_target(file)
    return file


def _check(trait: str | None, pairs: str | None, step: str) -> None:
    if (trait is None) == (pairs is None):
        raise SpecError("give either --trait TRAIT or --pairs BANK; accepted: one of them")
    if step != "final" and not step.isdecimal():
        raise SpecError(f"--step is {step!r}, accepted: a number or 'final'")


def _sides(opened: Opened, trait: str | None, pairs: str | None, position: Position, limit: int | None) -> Sides:
    from narrowly.data.traits import trait_named
    from narrowly.workbench.persona.contrasts import CORPUS, WORLD, of_pairs, of_trait, of_world

    if trait is not None:
        return of_trait(trait_named(trait), opened.tokenizer, opened.how.thinking, limit)
    assert pairs is not None
    if pairs in (WORLD, CORPUS):
        return of_world(pairs, position, opened.model.base, opened.tokenizer, opened.how.thinking, limit)
    return of_pairs(pairs, position, opened.model.base, opened.tokenizer, opened.how.thinking, limit)


def _show(card: DirectionCard, file: Path, left_out: int) -> None:
    judged = f"judged in {', '.join(card.held_out)}" if card.held_out else "each judged along the others' direction"
    say(
        f"{safe(card.name)} in {safe(card.model.name)}, {card.position}: {card.positive} positive and {card.negative} "
        f"negative texts of {', '.join(map(safe, card.made_from))}; {safe(judged)}"
    )
    if left_out:
        say(f"{left_out} texts were left out: one side of their pair has no token at this position", "yellow")
    rows = []
    for one, norm, rms in zip(card.separability, card.norms, card.rms, strict=True):
        mark = " *" if one.layer == card.layer else ""
        rows.append([f"{one.layer}{mark}", norm, norm / (rms * card.hidden**0.5), one.auc, interval(one.low, one.high)])
    first = card.separability[0]
    console().print(table(("layer", "length", "of states", "AUC", "95 % interval"), rows))
    say(f"* is used where no layer is named: it was fixed by depth. {first.method}, n = {first.groups}")
    if first.reason:
        say(f"no interval: {safe(first.reason)}", "yellow")
    say(f"sign: {SIGN}")
    say(f"directions: {file}, card: {file.with_suffix('.card.json')}")
