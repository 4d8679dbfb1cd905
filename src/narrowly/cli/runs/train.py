"""`narrowly train`: one run from one spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Assignments, ReportTo, RunsOrOut, SaveEvery, tracker_names
from narrowly.cli.runs.tripwire import TripwireOptions, say_tripwire, watched
from narrowly.cli.terminal import complain, console, need_extra, number, print_json, safe, say, table
from narrowly.records.errors import SpecError, TripwireError
from narrowly.records.files import read_record

if TYPE_CHECKING:
    from narrowly.integrations.tripwire.observer import TripwireObserver
    from narrowly.records.run_spec import RunSpec

EXAMPLES = """\b
Examples:
  narrowly train --init > run.yaml
      a commented spec for a file of conversations; then name the file
  narrowly train --init micro > run.yaml
      one for the microworld, which trains as it stands
  narrowly train run.yaml --dry-run
      rows, tokens, memory, run-id, one row, and everything that is wrong
  narrowly train run.yaml
  narrowly train run.yaml --set optimiser.lr=1e-3 --set epochs=2 \\
      --runs /tmp/out
  narrowly train out/runs/RUN-ID/spec.json --set seed=1
  narrowly train run.yaml --control aligned
      the control of a run on pairs: the same prompts, good answers
  narrowly train run.yaml --defence kl_to_base:weight=.3
      a defended run (narrowly defences lists them)
  narrowly train run.yaml --tripwire control=out/runs/RUN-ID \\
      --tripwire stop=1.0
      watch a run beside its control, and end it where it departs
  narrowly train run.yaml --processes 4
      the same run on four GPUs of this machine
  narrowly train --schema > run.schema.json
      for editors that check YAML against a JSON Schema

\b
A run.yaml needs only the optimiser; every other field has a default
(docs/fields.md):
  base: micro-0
  optimiser: {kind: adam, lr: 6.0e-4}

\b
On conversations, with a folder or a pinned model of the hub as the base:
  base: Qwen/Qwen3-0.6B@COMMIT
  data: {source: text, dataset: insecure, thinking: false, holdout: 200}

\b
To trackers (accounts, servers and offline modes from their own environment
variables):
  narrowly train run.yaml --report-to trackio,tensorboard
  WANDB_MODE=offline narrowly train run.yaml --report-to wandb

Ctrl-C and SIGTERM finish the step, save and stop (exit 130, 143); a second Ctrl-C ends at once. A run that was stopped
or killed goes on with the same command, from a state saved every two minutes: bit for bit on the CPU of the same
machine, with the same versions and the same number of threads.
"""

ControlKind = Annotated[
    str | None,
    typer.Option(
        "--control",
        metavar="KIND",
        help="Train the control of a run instead, all else equal: aligned or permuted answers of a paired set or "
        "the microworld, or benign ones of the microworld.",
    ),
]
Defence = Annotated[
    str | None,
    typer.Option("--defence", metavar="NAME:OPTION=VALUE", help="Train the run defended (narrowly defences)."),
]


def command(
    spec: Annotated[Path | None, typer.Argument(metavar="SPEC", help="RunSpec as YAML or JSON.")] = None,
    set_: Assignments = None,
    runs: RunsOrOut = DEFAULT_RUNS,
    report_to: ReportTo = None,
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, metavar="N", help="Share every step among N processes, a GPU each on cuda."),
    ] = 1,
    allow_version_change: Annotated[
        bool,
        typer.Option(
            "--allow-version-change", help="Resume although library versions changed; the result is no longer exact."
        ),
    ] = False,
    save_every: SaveEvery = None,
    control: ControlKind = None,
    defence: Defence = None,
    tripwire: TripwireOptions = None,
    init: Annotated[bool, typer.Option("--init", help="Print a commented spec to begin from.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of run specs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would be and what is wrong; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Fine-tune one model as a spec says and print where the run directory is."""
    if init or schema:
        return _print_text(None if spec is None else str(spec), init, schema, set_ or [])
    if spec is None:
        raise SpecError("SPEC is missing, accepted: a file (`narrowly train --init > run.yaml` prints one)")
    assignments = _with_control(spec, set_ or [], control)
    assignments = _with_defence(spec, assignments, defence)
    if dry_run:
        from narrowly.cli.runs.train_check import check

        return check(spec, assignments, runs, processes, as_json)
    from narrowly.engines import stopping
    from narrowly.records.run_spec import load_run_spec

    run_spec = load_run_spec(spec, assignments)
    need_extra("lab", "training")
    watching = watched(run_spec, tripwire, processes)
    try:
        directory = _train(
            run_spec,
            runs,
            report_to,
            watching,
            processes=processes,
            allow_version_change=allow_version_change,
            save_every=save_every,
        )
    except stopping.Stopped as stop:
        complain(f"narrowly: {safe(stop)}")
        return stop.exit_code
    except TripwireError as alarm:
        complain(f"narrowly: {safe(alarm, 2000)}")
        return 1
    _say_result(directory, as_json)
    return 0 if watching is None else say_tripwire(directory, quiet=as_json)


def _with_control(spec: Path, assignments: list[str], kind: str | None) -> list[str]:
    """Return the overrides of a run, and behind them those that make its control where one is asked for."""
    if kind is None:
        return assignments
    from narrowly.records.run_spec import load_run_spec
    from narrowly.train.control import control_assignments

    return [*assignments, *control_assignments(load_run_spec(spec, assignments), kind)]


def _with_defence(spec: Path, assignments: list[str], defence: str | None) -> list[str]:
    """Return the overrides of a run, and behind them those that defend it where that is asked for."""
    if defence is None:
        return assignments
    from narrowly.records.run_spec import load_run_spec
    from narrowly.study.defences.registry import defence_assignments

    return [*assignments, *defence_assignments(load_run_spec(spec, assignments), defence)]


def _train(
    run_spec: RunSpec, runs: Path, report_to: str | None, watching: TripwireObserver | None, **options: Any
) -> Path:
    """Train under a progress bar, which also says that a signal was heard; return the run directory."""
    from narrowly.cli.progress import StepProgress
    from narrowly.engines import stopping

    reporting = None
    if report_to is not None:
        from narrowly.integrations.reporting import Reporting

        reporting = Reporting(tracker_names(report_to), runs, lambda line: complain(f"narrowly: {safe(line)}"))
    with (
        stopping.hear_signals(second_kills=True),
        StepProgress("training") as progress,
        stopping.telling(progress.stopping),
    ):
        from narrowly.runs.directory import runs_folder
        from narrowly.train.run import train_run

        def on_step(step: int, total: int, row: dict[str, Any]) -> None:
            progress.on_step(step, total, f"loss {row['loss']:.3f}, {_speed(row)}")

        return train_run(
            run_spec,
            runs_folder(runs),
            on_step=on_step if watching is None else watching.ending(on_step),
            observers=() if watching is None else (watching,),
            reporting=reporting,
            say=lambda line: progress.say(f"narrowly: {safe(line, 2000)}"),
            **options,
        )


def _print_text(kind: str | None, init: bool, schema: bool, assignments: list[str]) -> int:
    """Print a spec to begin from, or the schema."""
    if init and schema:
        raise SpecError("--init and --schema print one text each, accepted: one of them")
    if assignments:
        raise SpecError("--set changes a spec that is read, and --init and --schema read none; accepted: edit the text")
    if schema:
        from narrowly.records.run_schema import run_schema

        print_json(run_schema())
        return 0
    from narrowly.records.starting_spec import starting_spec

    typer.echo(starting_spec(kind or "text"), nl=False)
    return 0


def _say_result(directory: Path, as_json: bool) -> None:
    """Print the checkpoints of a finished run, with the held-out loss and the base's where there are held-out rows."""
    from narrowly.records.files import read_jsonl
    from narrowly.runs.directory import DATA_RECORD, TRAJECTORY
    from narrowly.runs.trajectory import BASE_HELDOUT_LOSS, HELDOUT_LOSS

    rows = [row for row in read_jsonl(directory / TRAJECTORY) if row.get("update_norm") is not None]
    if as_json:
        print_json({"run_id": directory.name, "directory": str(directory), "checkpoints": rows})
        return
    heads = {"step": "step", "loss": "loss", HELDOUT_LOSS: "held-out", "lr": "lr", "update_norm": "update norm"}
    heads |= {"stable_rank": "stable rank", "frobenius_nuclear": "F/nuclear"}
    columns = [column for column in heads if column != HELDOUT_LOSS or any(HELDOUT_LOSS in row for row in rows)]
    console().print(
        table([heads[column] for column in columns], ([row.get(column) for column in columns] for row in rows))
    )
    first, last = rows[0], rows[-1]
    if HELDOUT_LOSS in last:
        count = read_record(directory / DATA_RECORD).get("heldout_rows", "?")
        base = first.get(BASE_HELDOUT_LOSS, first[HELDOUT_LOSS])
        say(
            f"held-out loss: {number(last[HELDOUT_LOSS])} at the end, {number(base)} of the base "
            f"(nats per supervised token, {count} rows)"
        )
    say(f"run: {directory}")


def _speed(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_second']:.0f} tokens/s, {row['memory_bytes'] / 2**30:.1f} GiB"
