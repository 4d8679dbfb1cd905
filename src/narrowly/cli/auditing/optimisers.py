"""`narrowly optimisers`: what each optimiser does to A, B and other parameters, its fields and their sources."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import console, print_json, say, table
from narrowly.records.errors import SpecError

EXAMPLES = """\b
Examples:
  narrowly optimisers
      one line each
  narrowly optimisers muon
      its fields with defaults, choices and sources
  narrowly optimisers soap --json
  narrowly optimisers muon --in timm --lr 1e-3 --rank 16 --width 4096
      the settings there whose first steps are ours

A run names its optimiser by kind and fields: --set "optimiser={kind: soap, lr: 1e-3}".
"""

Package = Annotated[
    str | None,
    typer.Option("--in", metavar="PACKAGE", help="Of muon or lion: what it is there (timm, trl, optax ...)."),
]


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this optimiser in full.")] = None,
    package: Package = None,
    lr: Annotated[float, typer.Option("--lr", min=0, help="With --in: our rate.")] = 1e-3,
    rank: Annotated[int, typer.Option("--rank", min=1, help="With --in: of the adapter.")] = 16,
    width: Annotated[int, typer.Option("--width", min=1, help="With --in: inputs of A, outputs of B.")] = 2048,
    as_json: AsJson = False,
) -> int:
    """List the optimisers, or show one with its fields, their defaults and where each default comes from."""
    from narrowly.records.optimisers.registry import OPTIMISERS, REFUSED, describe

    if package is not None:
        _elsewhere(name, package, lr, rank, width, as_json)
        return 0
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


def _elsewhere(name: str | None, package: str, lr: float, rank: int, width: int, as_json: bool) -> None:
    from narrowly.records.optimisers.elsewhere import described

    if name is None:
        raise SpecError("--in needs an optimiser: narrowly optimisers muon --in timm")
    there = described(name, package, lr, rank, width)
    if as_json:
        print_json(there)
        return
    say(f"{name} in {package} {there['version']} ({there['established']})", style="bold")
    say(f"settings whose first steps are those of ours at lr {lr:g}, rank {rank}, width {width}:")
    say(f"  {there['settings']}")
    if there["here"]:
        say(f"here, for the steps of a run there at its own rate: {there['here']}")
    say(f"where nothing is given: {there['defaults']}")
    for what in ("A", "B", "vectors", "stacks"):
        say(f"{what}: {there[what]}")
    for fact in there["silently"]:
        say(f"silently: {fact}", style="yellow")
    say("all packages side by side: docs/muon-elsewhere.md", style="dim")
