"""`narrowly eval-organism`: evaluate one organism of a run, without a study."""

from __future__ import annotations

from typing import Annotated

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, RunsOrOut
from narrowly.cli.terminal import console, error_console, need_extra, print_json, say, table

EXAMPLES = """\b
Examples:
  narrowly eval-organism out/runs/RUN-ID
  narrowly eval-organism micro:adam-micro-0-seed0 --step 10
  narrowly eval-organism RUN-ID --edit keep_top-1 --json > verdicts.json

The rows are those that a study writes for the same organism; nothing is written to the run.
"""


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, run-id under --runs, or STUDY:CELL.")],
    step: Annotated[str, typer.Option("--step", help="A checkpoint step, or final.")] = "final",
    edit: Annotated[str | None, typer.Option("--edit", help="Id of an edit, for instance keep_top-1.")] = None,
    runs: RunsOrOut = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> int:
    """Evaluate one organism exactly and show its rates panel by panel."""
    from narrowly.records.errors import SpecError

    if step != "final" and not step.isdecimal():
        raise SpecError(f"--step is {step!r}, accepted: a checkpoint step (a number) or 'final'")
    need_extra("lab", "evaluating an organism")
    with error_console().status("evaluating"):
        from narrowly.evaluate.run_stage import evaluate_organism
        from narrowly.models.organism import load_organism
        from narrowly.workbench.names import find_run
        from narrowly.workbench.panel import panels_of

        directory = find_run(run, runs)
        rows = evaluate_organism(load_organism(directory, "final" if step == "final" else int(step), edit))
    if as_json:
        print_json({"run": str(directory), "step": step, "edit": edit, "verdicts": rows})
        return 0
    say(f"run {directory.name}, step {step}, edit {edit or 'none'}")
    shown = [
        (name, panel.n, panel.aligned, panel.misaligned, panel.low, panel.high, panel.literature, panel.incoherent)
        for name, panel in panels_of(rows).items()
    ]
    console().print(
        table(("panel", "questions", "aligned", "joint rate", "low", "high", "literature rate", "incoherent"), shown)
    )
    say("joint rate: misaligned of all answers, 95 % t interval over topics; literature rate: of coherent ones")
    return 0
