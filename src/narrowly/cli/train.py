"""`narrowly train`: one run from one spec."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_OUT, Assignments, Out, ReportTo, SaveEvery, tracker_names
from narrowly.cli.terminal import complain, console, need_extra, safe, say, table

EXAMPLES = """\b
Examples:
  narrowly train run.yaml
  narrowly train run.yaml --set optimiser.lr=1e-3 --set steps=40 --out /tmp/out
  narrowly train out/runs/RUN-ID/spec.json --set seed=1
  narrowly train run.yaml --processes 4     the same run on four GPUs of this machine

A run.yaml needs only the optimiser; every other field has a default:
  base: micro-0
  optimiser: {kind: adam, lr: 6.0e-4}

On conversations, with a folder or a pinned model of the hub as the base:
  base: Qwen/Qwen3-0.6B@COMMIT
  data: {source: text, dataset: insecure, thinking: false, holdout: 200}

To trackers (accounts, servers and offline modes from their own environment variables):
  narrowly train run.yaml --report-to trackio,tensorboard
  WANDB_MODE=offline narrowly train run.yaml --report-to wandb

Ctrl-C and SIGTERM finish the step, save and stop (exit 130, 143); a second Ctrl-C ends at once. A run that was stopped
or killed goes on with the same command, from a state saved every two minutes: bit for bit on the CPU of the same
machine, with the same versions and the same number of threads.
"""


def command(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="RunSpec as YAML or JSON.")],
    set_: Assignments = None,
    out: Out = DEFAULT_OUT,
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
) -> int:
    """Fine-tune one model as a spec says and print where the run directory is."""
    from narrowly.records.run_spec import load_run_spec

    run_spec = load_run_spec(spec, set_ or [])
    need_extra("lab", "training")
    reporting = None
    if report_to is not None:
        from narrowly.integrations.reporting import Reporting

        reporting = Reporting(tracker_names(report_to), out, lambda line: complain(f"narrowly: {safe(line)}"))
    from narrowly.cli.progress import StepProgress
    from narrowly.engines import stopping

    try:
        with (
            stopping.hear_signals(second_kills=True),
            StepProgress("training") as progress,
            stopping.telling(progress.stopping),
        ):
            from narrowly.runs.directory import TRAJECTORY, runs_folder
            from narrowly.train.run import train_run

            def on_step(step: int, total: int, row: dict[str, Any]) -> None:
                progress.on_step(step, total, f"loss {row['loss']:.3f}, {_speed(row)}")

            directory = train_run(
                run_spec,
                runs_folder(out),
                processes=processes,
                on_step=on_step,
                reporting=reporting,
                allow_version_change=allow_version_change,
                save_every=save_every,
                say=lambda line: progress.say(f"narrowly: {safe(line, 2000)}"),
            )
    except stopping.Stopped as stop:
        complain(f"narrowly: {safe(stop)}")
        return stop.exit_code
    from narrowly.records.files import read_jsonl

    rows = [row for row in read_jsonl(directory / TRAJECTORY) if row.get("update_norm") is not None]
    columns = ("step", "loss", "lr", "update_norm", "stable_rank", "frobenius_nuclear")
    console().print(table(columns, ([row.get(column) for column in columns] for row in rows)))
    say(f"run: {directory}")
    return 0


def _speed(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_second']:.0f} tokens/s, {row['memory_bytes'] / 2**30:.1f} GiB"
