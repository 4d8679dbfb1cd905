"""`narrowly optimisers`: what each optimiser does to A, B and other parameters, its fields and their sources."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, print_json, say, table

EXAMPLES = """\b
Examples:
  narrowly optimisers
      one line each
  narrowly optimisers muon
      its fields with defaults, choices and sources
  narrowly optimisers soap --json

A run names its optimiser by kind and fields: --set "optimiser={kind: soap, lr: 1e-3}".
"""


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this optimiser in full.")] = None,
    as_json: AsJson = False,
) -> int:
    """List the optimisers, or show one with its fields, their defaults and where each default comes from."""
    from narrowly.records.optimisers.registry import OPTIMISERS, REFUSED, describe

    if name is not None:
        description = describe(name)
        if as_json:
            print_json(description)
        else:
            _show(description)
        return 0
    described = [describe(kind) for kind in OPTIMISERS]
    if as_json:
        print_json({"optimisers": described, "refused": REFUSED})
        return 0
    columns = ("optimiser", "family", "A", "B", "other")
    console().print(table(columns, ([row[column] for column in columns] for row in described)))
    say("")
    for refused, reason in REFUSED.items():
        say(f"refused: {refused}: {reason}", style="dim")
    return 0


def _show(description: dict[str, Any]) -> None:
    say(f"{description['optimiser']} ({description['family']})", style="bold")
    for line in description["about"].splitlines():
        say(line)
    say("")
    for parameters in ("A", "B", "other"):
        say(f"{parameters}: {description[parameters]}")
    say("")
    rows = (
        (
            field,
            "required" if facts["required"] else json.dumps(facts["default"]),
            ", ".join(map(str, facts["accepted"])) if facts["accepted"] else None,
            facts["source"],
        )
        for field, facts in description["fields"].items()
    )
    console().print(table(("field", "default", "choices", "meaning and source of the default"), rows))
