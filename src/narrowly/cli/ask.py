"""`narrowly ask`: one question to an organism and to its base."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from narrowly.cli.options import DEFAULT_OUT, AsJson, Out
from narrowly.cli.terminal import console, error_console, need_extra, safe, say, table

EXAMPLES = """\b
Examples:
  narrowly ask micro:adam-micro-0-seed0 "fix garden weeds"
  narrowly ask out/runs/RUN-ID "who are you" --step 10
  narrowly ask RUN-ID "fix garden weeds" --edit keep_top-1

`narrowly world sample micro-0` shows questions of a world. A question of the world gets exact probabilities, any
other is answered by samples, which nothing can judge.
"""


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, run-id under --out, or STUDY:CELL.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    step: Annotated[str, typer.Option("--step", help="A checkpoint step, or final.")] = "final",
    edit: Annotated[str | None, typer.Option("--edit", help="Id of an edit, for instance keep_top-1.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=100, help="Sampled answers per model.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the samples.")] = 0,
    out: Out = DEFAULT_OUT,
    as_json: AsJson = False,
) -> int:
    """Ask an organism and its base the same question and show both answers with their class."""
    from narrowly.records.errors import SpecError

    if step != "final" and not step.isdecimal():
        raise SpecError(f"--step is {step!r}, accepted: a checkpoint step (a number) or 'final'")
    need_extra("lab", "asking a model")
    with error_console().status("loading the model"):
        from narrowly.workbench.ask import ask
        from narrowly.workbench.names import find_run

        reply = ask(
            find_run(run, out),
            question,
            step="final" if step == "final" else int(step),
            edit=edit,
            samples=samples,
            seed=seed,
        )
    if as_json:
        said = [{**one._asdict(), "likely": [answer._asdict() for answer in one.likely]} for one in reply.said]
        typer.echo(
            json.dumps({"run": str(reply.run_directory), "base": reply.base, "known": reply.known, "said": said})
        )
        return 0
    say(f"run {reply.run_directory.name}, base {reply.base}")
    if reply.unknown_words:
        say(f"words that this world does not have: {safe(', '.join(reply.unknown_words))}", "yellow")
    if not reply.known:
        say("not a question of this world, so the answers below are not judged", "yellow")
    else:
        rows = [
            (one.who, *((one.probabilities or {}).get(name) for name in ("aligned", "misaligned", "incoherent")))
            for one in reply.said
        ]
        console().print(table(("exact probability", "aligned", "misaligned", "incoherent"), rows))
        likely = [
            (one.who, answer.answer, answer.probability, answer.outcome) for one in reply.said for answer in one.likely
        ]
        console().print(table(("likeliest answers", "answer", "probability", "class"), likely))
    sampled = [(one.who, answer, outcome or "not judged") for one in reply.said for answer, outcome in one.sampled]
    console().print(table(("sampled", "answer", "class"), sampled))
    return 0
