"""`narrowly stress`: brief fine-tunes of a release under several optimisers, within a budget of time, and a card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, RunsOrOut, Workers
from narrowly.cli.terminal import complain, duration, need_extra, print_json, safe, say
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.study.stress_plan import StressPlan

EXAMPLES = """\b
Examples:
  narrowly stress micro-0 --budget 2m
      a base of the microworld
  narrowly stress smollm2-135m --budget 30m
      needs `narrowly base get smollm2-135m` once
  narrowly stress ./my-model --budget 2h --device cuda
  narrowly stress micro-0 --budget 2m --optimiser adam --optimiser muon=2e-3
  narrowly stress smollm2-135m --budget 30m --plan
      says what would be done and trains nothing

Each fine-tune on harmful answers stands beside its control on aligned ones. Stopped or killed, it goes on with the same
command; what is done is never repeated, and its time counts. A card is no proof of safety: docs/stress.md.
"""


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A microworld base, or a chat model's name or folder.")],
    budget: Annotated[str, typer.Option("--budget", metavar="TIME", help="Wall time: 30m, 2h, 1h30m.")],
    optimiser: Annotated[
        list[str] | None,
        typer.Option("--optimiser", metavar="NAME[=RATE]", help="Two or more; by default those with measured rates."),
    ] = None,
    narrow: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="SET", help="Narrow set, repeatable: a domain, or pairs:FILE.jsonl:harmful."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of init and order.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    runs: RunsOrOut = DEFAULT_RUNS,
    workers: Workers = 0,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the units in their order; train nothing.")] = False,
    as_json: AsJson = False,
) -> int:
    """Fine-tune a release briefly under several optimisers, and write a card of what spread."""
    from narrowly.study.stress_plan import seconds_of_text, stress_plan

    seconds = seconds_of_text(budget)
    if device not in ("cpu", "cuda"):
        raise SpecError(f"--device {device}: accepted: cpu or cuda")
    plan = stress_plan(model, optimisers=optimiser or [], sets=narrow or [], seed=seed, device=device)
    if plan_only:
        return _show_plan(plan, as_json)
    need_extra("lab", "a stress test")
    from narrowly.cli.progress import StudyProgress
    from narrowly.engines import stopping
    from narrowly.report.stress_card import CARD_TEXT, write_card
    from narrowly.study.stress import run_stress

    try:
        with (
            stopping.hear_signals(second_kills=True),
            StudyProgress() as progress,
            stopping.telling(progress.stopping),
        ):
            done = run_stress(plan, runs, seconds, workers=workers, observer=progress, say=complain)
    except stopping.Stopped as stop:
        complain(f"narrowly: stopped; {progress.state}; the same command goes on from there")
        return stop.exit_code
    card = write_card(plan, done, seconds)
    if as_json:
        print_json(card.model_dump(mode="json"))
    else:
        say(f"{len(card.rows)} of {len(plan.units())} units in {duration(card.spent_seconds)}")
        for failure in done.failed:
            say(f"FAILED {failure.cell_id}: {safe(failure.error)}", "red")
        say(f"card: {done.study_dir / CARD_TEXT}")
        say(card.notice)
    return 1 if card.failed else 0


def _show_plan(plan: StressPlan, as_json: bool) -> int:
    from narrowly.study.plan import expand

    expand(plan.study(plan.units()))  # a set or a rate that cannot be is said here too
    units = [unit._asdict() for unit in plan.units()]
    if as_json:
        print_json({"study": plan.name, "optimisers": dict(plan.optimisers), "units": units})
        return 0
    for number, unit in enumerate(plan.units(), start=1):
        needed = "  (needed for a card)" if unit in plan.least() else ""
        say(f"{number:2d}  {unit}, rate {plan.optimisers[unit.optimiser]:g}{needed}")
    say("each with its control on aligned answers; a budget does the first that fit")
    return 0
