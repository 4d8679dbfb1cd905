"""`narrowly plan`: what a study would do and take: time; of real models also tokens, GPU-hours and disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Assignments, Engine, RunsOrOut, StudyName, Workers, with_engine
from narrowly.cli.plain import without_controls
from narrowly.cli.terminal import console, duration, print_json, safe, say, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from narrowly.cli.sheet import Sheet
    from narrowly.records.study_spec import StudySpec
    from narrowly.study.plan import Cell
    from narrowly.study.preregistered import PreregRecord
    from narrowly.study.preview import Preview, TrainingCost

EXAMPLES = """\b
Examples:
  narrowly plan micro
  narrowly plan micro --set grid.seed=[0,1,2] --workers 8
  narrowly plan my-study.yaml --cells
  narrowly plan my-study.yaml --json
  narrowly plan one-gpu-evening --gpu rtx-4090 --utilisation 0.25
  narrowly plan my-study.yaml --engine slurm --set engine.partition=gpu
      what would be submitted; nothing is
  narrowly plan one-gpu-evening --cell adam-Qwen3-0.6B-seed0 > run.yaml

What training real models takes is arithmetic on published shapes and on file sizes, not a measurement; no model and no
data has to be on this machine.
"""


def command(
    study: StudyName,
    set_: Assignments = None,
    runs: RunsOrOut = DEFAULT_RUNS,
    engine: Engine = None,
    workers: Workers = 0,
    cells: Annotated[bool, typer.Option("--cells", help="List every cell in the order of execution.")] = False,
    cell: Annotated[
        str | None, typer.Option("--cell", metavar="CELL", help="Print the run spec of one cell as YAML.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="GPU that hours are counted for; h100 unless given.")
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            "--utilisation", min=0.01, max=1, help="Share of its peak that training reaches; 0.3 unless given."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show a study's cells by arm, what is done already, and an estimate of what is left; nothing is run."""
    from narrowly.engines.local import usable_cores
    from narrowly.study.cluster_plan import cluster_plan
    from narrowly.study.cost import DEFAULT_GPU, UTILISATION, gpu_named
    from narrowly.study.layout import study_folder
    from narrowly.study.plan import cell_named, expand, find_study
    from narrowly.study.preregistered import check_prereg, file_of, record_of
    from narrowly.study.preview import plan_record, preview, training_cost

    named = gpu_named(gpu or DEFAULT_GPU)
    spec = find_study(study, with_engine(engine, set_))
    planned = expand(spec)
    if cell is not None:
        _print_spec(cell_named(planned, cell))
        return 0
    count = workers or usable_cores()
    seen = preview(spec, planned, runs, count)
    left = [one for one in planned if seen.status[one.cell_id] != "done"]
    on_cpu = gpu is None and seen.seconds is not None and all(one.spec.device == "cpu" for one in planned)
    cost = None if on_cpu else training_cost(left, named, utilisation or UTILISATION)
    prereg = check_prereg(spec, study_folder(runs, spec.name)) or record_of(spec, file_of(study))
    on_cluster = cluster_plan(spec, study_folder(runs, spec.name), len(left), workers)
    if as_json:
        record = plan_record(spec, planned, seen, cost)
        print_json({**record, "prereg": _prereg_facts(prereg), "engine": on_cluster})
        return 0
    console().print(_cells_table(planned, seen) if cells else _arms_table(spec, planned, seen, cost))
    summary = f"{len(planned)} cells, {len(planned) - len(left)} done"
    if cost is not None:
        say(summary)
        _say_cost(cost)
    else:
        real = any(one.spec.data.paced_by_base for one in planned)
        default = "by arithmetic, evaluation included" if real else "from default times"
        basis = "from finished cells" if seen.measured else f"{default}, none measured yet"
        time_left = f"about {duration(seen.seconds or 0)} on {count} workers ({basis})"
        say(summary + (f"; {time_left}" if left else ""))
    _say_rest(spec, planned, prereg, on_cluster)
    return 0


def _say_rest(
    spec: StudySpec, planned: Sequence[Cell], prereg: PreregRecord | None, on_cluster: Mapping[str, Any] | None
) -> None:
    """Print what is not evaluated, the preregistration, and what a cluster would get."""
    _say_unjudged(planned)
    if prereg is not None:
        _say_prereg(spec, prereg)
    if on_cluster is not None:
        _say_cluster(on_cluster)


def _say_cluster(found: Mapping[str, Any]) -> None:
    """Print how many tasks an engine would get, and of Slurm the scripts of its arrays."""
    say(f"engine {found['engine']}: {found['tasks']} tasks of at most {found['cells']} cells; nothing is submitted")
    for array in found.get("arrays", ()):
        say(f"sbatch, array of {array['tasks']}:")
        typer.echo("\n".join(without_controls(line) for line in array["script"].splitlines()))


def _prereg_facts(prereg: PreregRecord | None) -> dict[str, str] | None:
    return None if prereg is None else {"hash": prereg.hash, "commit": prereg.commit}


def _say_prereg(spec: StudySpec, prereg: PreregRecord) -> None:
    """Print the hash of a preregistration, the commit that first held it, and its primary contrasts."""
    say(f"preregistration: {prereg.hash}")
    say(f"first held by commit: {prereg.commit}")
    for finding in spec.prereg.findings if spec.prereg is not None else ():
        say(f"  {finding.id}: {safe(finding.question, 400)}")


def _print_spec(cell: Cell) -> None:
    import yaml

    typer.echo(f"# cell {cell.cell_id} of study {cell.study}: training alone")
    typer.echo(yaml.safe_dump(cell.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


def _cells_table(planned: Sequence[Cell], seen: Preview) -> Sheet:
    rows = ((one.cell_id, seen.status[one.cell_id], one.spec.optimiser.lr, len(one.edits)) for one in planned)
    return table(("cell", "status", "lr", "edits"), rows)


def _arms_table(spec: StudySpec, planned: Sequence[Cell], seen: Preview, cost: TrainingCost | None) -> Sheet:
    from narrowly.study.preview import planned_arms

    columns = ("arm", "role", "optimiser", "cells", "done", "edits")
    if cost is None:
        return table(columns, planned_arms(spec, planned, seen))
    rows = (
        (*arm, *(_of_arm(cost, arm.name) if arm.done < arm.cells else ("-", "-", "-")))
        for arm in planned_arms(spec, planned, seen)
    )
    return table((*columns, "tokens", "GPU-hours", "disk"), rows)


def _of_arm(cost: TrainingCost, arm: str) -> tuple[str, ...]:
    one = cost.by_arm.get(arm)
    if one is None:
        return ("unknown", "unknown", "unknown")
    return _amount(one.tokens), _hours(one.seconds), f"{_amount(one.disk_bytes)}B"


def _say_unjudged(planned: Sequence[Cell]) -> None:
    from narrowly.records.outcome import NO_JUDGE
    from narrowly.study.plan import not_evaluated

    unjudged = sum(not_evaluated(cell) is not None for cell in planned)
    if unjudged:
        say(
            f"broad alignment: {NO_JUDGE} in {unjudged} of {len(planned)} cells; `narrowly run` trains them, and "
            "where the study has `judged`, a judge reads what they write",
            "yellow",
        )


def _say_cost(cost: TrainingCost) -> None:
    from narrowly.study.cost import UNKNOWN_ROW

    total, gpu = cost.total, cost.gpu
    if cost.by_arm:
        say(
            f"training: {_amount(total.tokens)} tokens ({_amount(total.most_tokens)} if every row filled the context), "
            f"about {_hours(total.seconds)} GPU-hours on {gpu.name} at {cost.utilisation:.0%} of its {gpu.tflops:g} "
            "TFLOP/s"
        )
        say(f"disk: {_amount(total.disk_bytes)}B of checkpoints, beside {_amount(cost.base_bytes)}B of models")
        say(
            "how sure: arithmetic from published shapes and file sizes, not measured; our guess is from half to twice "
            "as much, and more for models below 1B parameters"
        )
    if cost.assumed:
        say(
            f"assumed: {UNKNOWN_ROW} tokens a row, as in insecure, for {_listed(cost.assumed)}, whose sizes are unknown"
        )
    if cost.too_large:
        say(f"too large for one {gpu.name} ({gpu.memory_gb} GB) by their weights alone: {_listed(cost.too_large)}")
    if cost.not_counted:
        say(f"not counted, for want of a published shape or of text data: {_listed(cost.not_counted)}", "yellow")
    say("not counted: evaluation")
    say(
        "done: runs under --runs with the cell's own spec, also those of `narrowly train`; whether model and data "
        "are still the same files is seen by `narrowly run`"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(safe(name.partition("@")[0]) for name in names)


def _amount(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} k"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g}" if seconds < 360_000 else f"{seconds / 3600:.0f}"
