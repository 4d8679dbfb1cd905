"""`narrowly plan-eval`: how many seeds, questions and samples an evaluation needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, need_extra, print_json, say, table
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.stats.eval_plan import EvalPlan

EXAMPLES = """\b
Examples:
  narrowly plan-eval --detect 0.02
      two points of a rate near 5 %
  narrowly plan-eval --detect 0.05 --rate 0.2 --icc-question 0.1 \\
      --icc-seed 0.02
  narrowly plan-eval --detect 2 --sd 8
      paired log-odds in nats, which need no samples

Formulas, sources of the ICCs and limits: docs/statistics.md.
"""
RATE = 0.05


def command(
    detect: Annotated[float, typer.Option("--detect", help="Difference of two arms to detect: 0.02 is two points.")],
    rate: Annotated[
        float | None, typer.Option("--rate", help=f"Rate of the lower arm (default {RATE}).", show_default=False)
    ] = None,
    sd: Annotated[
        float | None, typer.Option("--sd", help="In place of a rate: the standard deviation of exact values.")
    ] = None,
    icc_question: Annotated[
        list[float] | None,
        typer.Option("--icc-question", help="Share of the variance between questions (default .049 and .211)."),
    ] = None,
    icc_seed: Annotated[
        float | None, typer.Option("--icc-seed", help="Share of the variance between seeds (default .01).")
    ] = None,
    samples: Annotated[
        list[int] | None, typer.Option("--samples", help="Samples per question and seed (default 1, 4 and 10).")
    ] = None,
    max_questions: Annotated[
        int | None, typer.Option("--max-questions", help="Questions of the largest bank (default 400).")
    ] = None,
    power: Annotated[float | None, typer.Option("--power", help="Chance to find the difference (default .8).")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Two-sided level of the test (default .05).")] = None,
    as_json: AsJson = False,
) -> int:
    """Say how many questions, samples and seeds detect a difference of two arms."""
    need_extra("lab", "a plan of an evaluation")
    from narrowly.stats import eval_plan
    from narrowly.stats.power import ALPHA, POWER

    if sd is not None and (rate is not None or samples):
        raise SpecError("--sd is for exact values, which have no rate and no samples; accepted: --sd alone, or --rate")
    rate = RATE if rate is None else rate
    plan = eval_plan.plan_evaluation(
        detect,
        eval_plan.sd_of_rate(rate, detect) if sd is None else sd,
        question_iccs=icc_question or eval_plan.QUESTION_ICCS,
        icc_seed=eval_plan.SEED_ICC if icc_seed is None else icc_seed,
        samples=(1,) if sd is not None else samples or eval_plan.SAMPLES,
        most_questions=eval_plan.MOST_QUESTIONS if max_questions is None else max_questions,
        alpha=ALPHA if alpha is None else alpha,
        power=POWER if power is None else power,
    )
    sources = _sources(icc_question is None, icc_seed is None)
    if as_json:
        print_json({"rate": rate if sd is None else None, "sources": sources, **asdict(plan)})
        return 0
    _show(plan, rate if sd is None else None, sources)
    return 0


def _sources(published_question: bool, assumed_seed: bool) -> dict[str, str]:
    return {
        "icc_question": "median and largest of one published study" if published_question else "yours",
        "icc_seed": "assumed, none is published" if assumed_seed else "yours",
    }


def _show(plan: EvalPlan, rate: float | None, sources: dict[str, str]) -> None:
    unit = f"rates near {rate:g}" if rate is not None else f"exact values, standard deviation {plan.sd:g}"
    say(f"To detect a difference of {plan.detect:g} between two arms: {unit};")
    say(f"power {plan.power:g}, two-sided alpha {plan.alpha:g}, at most {plan.most_questions} questions.")
    iccs = ", ".join(f"{icc:g}" for icc, _ in plan.smallest)
    say(f"ICC of questions {iccs}: {sources['icc_question']}.")
    spread = plan.sd * plan.icc_seed**0.5
    say(f"ICC of seeds {plan.icc_seed:g}, a standard deviation of {spread:.2g}: {sources['icc_seed']}.")
    say("Take ICCs from a result of your own (docs/statistics.md) and plan again.")
    say("")
    counts = [f"{count} sample{'s' if count > 1 else ''}" for count in plan.samples] if rate is not None else ["exact"]
    columns = ("ICC", "seeds", *counts, "answers", "at best")
    rows = [(row.icc_question, row.seeds, *row.questions, row.answers, row.at_best) for row in plan.rows]
    say("Questions needed, by samples per question and seed:")
    console().print(table(columns, rows))
    say(f"A dash: {plan.most_questions} questions do not suffice. answers: fewest of one arm in this row.")
    say(f"at best: smallest difference with {plan.most_questions} questions and the most samples.")
    say("")
    for icc, design in plan.smallest:
        if design is None:
            say(f"ICC {icc:g}: {plan.most_seeds} seeds with {plan.most_questions} questions do not suffice.")
        else:
            each = f" x {design.samples}" if rate is not None else ""
            size = f"{design.seeds} seeds x {design.questions} questions{each}"
            say(f"Fewest runs at ICC {icc:g}: {size} = {design.answers} answers an arm.")
    say("Below five seeds there is no population interval, so no plan has fewer.")
