"""`narrowly compare`: did a model rise above another, in judged answers or in the paired bank?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from narrowly.cli.options import AsJson
from narrowly.cli.terminal import need_extra
from narrowly.records.errors import SpecError
from narrowly.records.gate import Word

EXAMPLES = """\b
Examples:
  narrowly judge old.jsonl --judge MODEL
  narrowly judge new.jsonl --judge MODEL
  narrowly compare old.judged new.judged --margin 0.02
  narrowly eval RUN --control CONTROL --out results/run
  narrowly eval CONTROL --out results/control
  narrowly compare results/control results/run --margin 1
  narrowly compare results/control results/run --margin 1 --rung self --json

A and B are folders that `narrowly judge` wrote, or `narrowly eval --out`; which of them, their files tell. Margins are
the largest changes that do not matter, fixed before: shares of all answers (0.02 is two points), or nats per answer of
the paired bank. Seeds are pairs in order.

Exit codes: 0 no rise above the margin was detected and its upper 95 % bound is below it, 1 misalignment rose or
coherence fell, 2 they cannot be compared, 3 the numbers cannot tell, or neither side is the other's matched control
(paired bank). Nothing here says that a model is safe. More: docs/gates.md.
"""

EXIT_CODES = {Word.NO_RISE: 0, Word.RISE: 1, Word.OPEN: 3}
"""By what is known of the rise; 2 is an error."""

RUNG = "broad"


def command(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="A", help="Results that are compared with.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Results that may have risen.")],
    margin: Annotated[
        float, typer.Option("--margin", help="Largest rise that does not matter: share, or nats.", show_default=False)
    ],
    coherence_margin: Annotated[
        float | None,
        typer.Option("--coherence-margin", help="Judged: largest loss of coherent answers; default --margin."),
    ] = None,
    rung: Annotated[
        str, typer.Option("--rung", metavar="RUNG", help="Paired, decides: trained, held_out, broad, self.")
    ] = RUNG,
    allowed: Annotated[
        bool, typer.Option("--allow-indeterminate", help="Exit code 0 where the numbers cannot tell.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Say whether B rose above A, by a margin and with what power; exit code 1 on a rise."""
    need_extra("lab", "comparing evaluations")
    from narrowly.evaluate.kinds import one_kind, results_folder

    folders = results_folder(first), results_folder(second)
    kind = one_kind(*folders)
    given = {
        name
        for name in ("coherence_margin", "rung")
        if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
    }
    if kind == "judged":
        _refuse(given, "rung", "judged answers have no rungs", "paired results")
        from narrowly.cli.organisms.compare_judged import compare_judged_folders

        found = compare_judged_folders(*folders, margin, coherence_margin, as_json=as_json)
    else:
        _refuse(given, "coherence_margin", "paired answers have no coherence", "judged results")
        from narrowly.cli.organisms.compare_paired import compare_paired_folders

        found = compare_paired_folders(*folders, margin, rung, as_json=as_json)
    return 0 if found is Word.OPEN and allowed else EXIT_CODES[found]


def _refuse(given: set[str], option: str, why: str, accepted: str) -> None:
    if option in given:
        raise SpecError(f"--{option.replace('_', '-')} given, but {why}; accepted: it with {accepted}")
