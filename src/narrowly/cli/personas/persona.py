"""`narrowly persona`: the commands on directions of a model's states."""

from __future__ import annotations

import typer

from narrowly.cli.personas import extract, flag, spectrum, steer, watch

app = typer.Typer(
    help="Find the direction of a trait in a model's states; watch it, steer along it, flag rows, look into adapters.",
    epilog="""\b
Examples:
  narrowly persona extract smollm2-135m --trait careless
  narrowly persona extract micro-0 --pairs world --from garden,kitchen
  narrowly persona watch RUN-ID --direction careless.safetensors
  narrowly persona steer smollm2-135m "How do I hang a shelf?" \\
      --direction careless.safetensors
  narrowly persona flag rows.jsonl --model smollm2-135m \\
      --direction careless.safetensors
  narrowly persona spectrum RUN-ID --direction careless.safetensors

A direction points from the absence of a trait to its presence. Layer l is
hidden_states[l] of Transformers, exactly. Directions of another base or layer
are refused. What a projection says of a model is limited: docs/directions.md.
""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

for _module, _name in (
    (extract, "extract"),
    (watch, "watch"),
    (steer, "steer"),
    (flag, "flag"),
    (spectrum, "spectrum"),
):
    app.command(_name, epilog=_module.EXAMPLES)(_module.command)
