"""`narrowly run`: do a study and write its report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from narrowly.cli.options import (
    DEFAULT_RUNS,
    AsJson,
    Assignments,
    Engine,
    ReportTo,
    RunsOrOut,
    SaveEvery,
    StudyName,
    Workers,
    tracker_names,
    with_engine,
)
from narrowly.cli.organisms.endpoint_options import Yes
from narrowly.cli.terminal import complain, duration, need_extra, print_json, safe, say
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from narrowly.cli.runs.run_judged import JudgeFor
    from narrowly.records.study_spec import StudySpec
    from narrowly.study.run import StudyRun

EXAMPLES = """\b
Examples:
  narrowly run micro
  narrowly run small
      a real small model, two hours on two cores
  narrowly run smoke --runs /tmp/try --workers 2
  narrowly run micro --set run.steps=40 --set grid.seed=[0,1]
  narrowly run micro --json > run.json
  narrowly run my-study.yaml --set arms.adam.set.optimiser.lr=1e-3
  narrowly run my-study.yaml --engine slurm --set engine.partition=gpu
      and engine.gres=gpu:1, engine.cells=4 ...; see docs/clusters.md
  narrowly run smoke --report-to trackio
      a run of the tracker per cell that is trained now, grouped by study

Ctrl-C and SIGTERM let each worker finish and save its step (exit 130, 143); a second Ctrl-C ends at once. A study that
was stopped, or killed, goes on with the same command: finished cells are never repeated, failed ones are tried again,
and a cell that was stopped half way goes on from there. Several commands may work on the same study at once, also on
several engines: no run depends on its engine. Slurm's jobs go on when their command is stopped (engine.on_stop: detach)
or end with it (cancel), and the command says which.

Real models (data.source text or rows) are trained like any other. Those on text are asked the paired bank, against the
controls of the study (arms with `control: aligned`). Where the study has `judged`, their last checkpoints and bases are
asked open questions too, and a judge reads what they write; docs/studies.md. Then exit code 1 also says that the judge
failed on an arm more than on its base.
"""


def command(
    study: StudyName,
    set_: Assignments = None,
    runs: RunsOrOut = DEFAULT_RUNS,
    engine: Engine = None,
    workers: Workers = 0,
    report_to: ReportTo = None,
    save_every: SaveEvery = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Do a study: train and evaluate all its cells, then write tables, summary and report."""
    from narrowly.study.plan import find_study

    spec = find_study(study, with_engine(engine, set_))
    need_extra("lab", "running a study")
    names = tracker_names(report_to)
    if report_to is not None:
        from narrowly.integrations.trackers import check_trackers

        check_trackers(names)
    judge_for = _judge_for(spec, runs, yes)
    from narrowly.cli.progress import StudyProgress
    from narrowly.cli.runs.report import made_report, say_made
    from narrowly.engines import stopping
    from narrowly.study.preregistered import file_of
    from narrowly.study.run import run_study

    if spec.demonstration and not as_json:
        say(f"{spec.name} is a demonstration: it shows a mechanism in a made-up world, no evidence about large models")
    _warn_of_no_commit(spec, runs, file_of(study))
    try:
        with (
            stopping.hear_signals(second_kills=True),
            StudyProgress() as progress,
            stopping.telling(progress.stopping),
        ):
            result = run_study(
                spec,
                runs,
                workers=workers,
                observer=progress,
                report_to=names,
                save_every=save_every,
                file=file_of(study),
            )
    except stopping.Stopped as stop:
        complain(f"narrowly: stopped; {progress.state}; the same command goes on from there")
        return stop.exit_code
    if not as_json:
        _say(result, judged=judge_for is not None)
    made = made_report(result.study_dir)
    if not as_json:
        say_made(made)
    code, rates = (0, None) if judge_for is None else _judged(spec, result, runs, judge_for, as_json)
    if as_json:
        failed = [one._asdict() for one in result.failed]
        shown = {**result._asdict(), "study_dir": str(result.study_dir), "failed": failed}
        print_json({**shown, "report": str(made.path), "report_current": made.was_current, "judged": rates})
    return 1 if result.failed else code


def _judge_for(spec: StudySpec, runs: Path, yes: bool) -> JudgeFor | None:
    """Return what reads the answers of a study, checked before anything is trained; None where nobody is to."""
    if spec.judged is None:
        if yes:
            raise SpecError("--yes given, but the study has no `judged` and sends no text; leave it out")
        return None
    from narrowly.cli.runs.run_judged import judge_of_study
    from narrowly.study.inputs import check_inputs
    from narrowly.study.plan import expand

    check_inputs(expand(spec))  # data that were never pulled are said before a judge that is missing
    return judge_of_study(spec, runs, yes=yes)


def _judged(
    spec: StudySpec, result: StudyRun, runs: Path, judge_for: JudgeFor, as_json: bool
) -> tuple[int, dict[str, Any] | None]:
    """Ask and judge the finished cells; a stop keeps what there is."""
    from narrowly.cli.runs.run_judged import judge_study

    assert spec.judged is not None, "there is a judge"
    try:
        return judge_study(spec.judged, result.study_dir, runs, judge_for, as_json=as_json)
    except KeyboardInterrupt as stop:  # typer would leave its words out
        complain(f"narrowly: {str(stop) or 'stopped'}")
        return 130, None


def _warn_of_no_commit(spec: StudySpec, runs: Path, file: Path | None) -> None:
    """Say where no commit holds a preregistration: its results will not count as preregistered."""
    from narrowly.study.layout import study_folder
    from narrowly.study.preregistered import UNKNOWN, check_prereg, record_of

    record = check_prereg(spec, study_folder(runs, spec.name)) or record_of(spec, file)
    if record is not None and record.commit == UNKNOWN:
        complain(
            f"narrowly: no commit is known that holds the preregistration {record.hash[:12]}, so nothing will show "
            "that it is older than the runs; commit the study file before its first run, without --set"
        )


def _say(result: StudyRun, *, judged: bool) -> None:
    """Print how many cells are done, and which failed."""
    from narrowly.records.outcome import NO_JUDGE

    if result.executed or result.failed:
        took = f"{duration(result.seconds)} ({result.executed} by this command)"
        say(f"{result.done} of {result.planned} cells done in {took}")
    else:
        say(f"nothing to do: all {result.planned} cells are done")
    if result.not_evaluated and not judged:
        say(
            f"broad alignment: {NO_JUDGE} in {result.not_evaluated} of {result.done} cells; what paired answers say "
            "of them is in the report",
            "yellow",
        )
    for failure in result.failed:
        say(f"FAILED {failure.cell_id}: {safe(failure.error)}", "red")
    if result.failed:
        say(f"tracebacks: {result.study_dir / 'failed'}; the same command tries the failed cells again")
