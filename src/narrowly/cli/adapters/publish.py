"""`narrowly publish`: an adapter with its model card, to a folder or to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.terminal import need_extra, print_json, say

if TYPE_CHECKING:
    from narrowly.workbench.model_card import Card

EXAMPLES = """\b
Examples:
  narrowly publish out/runs/RUN-ID --dry-run --out card
  narrowly publish out/runs/RUN-ID --to OWNER/NAME
  narrowly publish out/runs/RUN-ID/edits/flatten --to OWNER/NAME
  narrowly publish out/runs/RUN-ID --to OWNER/NAME --public \\
      --confirm emergent-misalignment
  narrowly publish out/runs/RUN-ID --gguf --out card
      adds adapter.gguf, for llama.cpp

The token is read from the environment variable HF_TOKEN and shown nowhere. Every push is private unless --public is
given together with the word behind --confirm; then the card starts with a warning and has the tag
emergent-misalignment, as has every adapter trained on harmful or unknown data. A repository that has files, or another
visibility than asked for, is left alone. --gguf folds the strength of rsLoRA and of patterns into the factors.
"""


def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run directory, run-id under --runs, STUDY:CELL, or a folder in a run.")
    ],
    to: Annotated[str | None, typer.Option("--to", metavar="OWNER/NAME", help="Repository on the hub.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody may download it; needs --confirm.")] = False,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="WORD", help="emergent-misalignment, typed out, for --public.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder only; nothing leaves here.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="New folder to write, and push nothing [publish-RUN-ID]."),
    ] = None,
    gguf: Annotated[bool, typer.Option("--gguf", help="Add the adapter as LoRA in GGUF, for llama.cpp.")] = False,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Publish an adapter of a finished run with a model card; privately, unless asked twice."""
    from narrowly.records.errors import RunDirectoryError, SpecError

    need_extra("lab", "publishing")
    from narrowly.workbench.evaluations import evaluations_of
    from narrowly.workbench.names import find_adapter
    from narrowly.workbench.publish import (
        adapter_of,
        card_of,
        check_name,
        check_public,
        push,
        token_of_environment,
        write_folder,
    )

    only_folder = dry_run or out is not None
    check_public(public, confirm)
    if to is not None:
        check_name(to)
    elif not only_folder:
        raise SpecError("--to is missing; accepted: --to OWNER/NAME, or --dry-run")
    token = "" if only_folder else token_of_environment()
    named = find_adapter(run, runs)
    if named.run_directory is None:
        raise RunDirectoryError(f"{run} lies in no run directory of ours, so nothing is known of its training")
    adapter = adapter_of(named.run_directory, named.folder)
    edit_id = None if adapter.edits is None else named.folder.resolve().name
    card = card_of(adapter, public=public, evaluations=evaluations_of(adapter.run, adapter.step, edit_id))
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(f"publish-{adapter.run.resolve().name}") if out is None else out
        if not only_folder:
            target = Path(temporary) / "adapter"
        folder = write_folder(adapter, card, target, gguf=gguf)
        record: dict[str, Any] = {"harm": card.harm, "warned": card.warned, "panels": len(card.evaluations)}
        record |= {"folder": str(folder) if only_folder else None, "pushed": None}
        if not as_json:
            _say_card(card)
        if not only_folder:
            assert to is not None
            record |= {"pushed": push(folder, to, public=public, token=token), "public": public}
    print_json(record) if as_json else _say_place(record)
    return 0


def _say_place(record: Mapping[str, Any]) -> None:
    """Print where the adapter is now: its folder here, or its address on the hub."""
    if record["pushed"] is None:
        say(f"written, nothing pushed: {record['folder']}")
    else:
        say(f"pushed ({'public' if record['public'] else 'private'}): {record['pushed']}")


def _say_card(card: Card) -> None:
    if card.harm is not None:
        say(f"trained on harmful or unknown data: {card.harm}")
    warning, panels = "with" if card.warned else "without", len(card.evaluations)
    say(f"card: {warning} warning, {f'evaluated on {panels} panels' if panels else 'not evaluated'}")
