"""`narrowly defences`: what each defence does, when, at which cost, where it comes from, and its options."""

from __future__ import annotations

from typing import Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, print_json, say, table

EXAMPLES = """\b
Examples:
  narrowly defences
      one line each
  narrowly defences kl_to_base
      its options with defaults, its cost and its source
  narrowly train run.yaml --defence kl_to_base:weight=.3
      the defended run
  narrowly realign out/runs/RUN-ID --by realign_sail:steps=80
      a defence after training

docs/defences.md says which one to take when, and what is not known.
"""


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this defence in full.")] = None,
    as_json: AsJson = False,
) -> int:
    """List the defences that keep a fine-tune narrow, or show one with its options, their defaults and sources."""
    from narrowly.study.defences.registry import DEFENCES, describe

    if name is None:
        described = [describe(kind) for kind in DEFENCES]
        if as_json:
            print_json({"defences": described})
        else:
            console().print(
                table(["defence", "acts", "what"], ([d["defence"], d["stage"], d["about"]] for d in described))
            )
        return 0
    found = describe(name)
    if as_json:
        print_json(found)
        return 0
    say(f"{found['defence']}, {found['stage']} training", style="bold")
    for label in ("about", "cost", "source"):
        say(f"{label}: {found[label]}" if label != "about" else found[label])
    if found["options"]:
        say("")
        columns = ["name", "type", "default", "about"]
        console().print(
            table(["option", *columns[1:]], ([row[column] for column in columns] for row in found["options"]))
        )
    return 0
