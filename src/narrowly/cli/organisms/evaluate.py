"""`narrowly eval`: measure the paired bank on a model, organisms against their controls; or an organism exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask_endpoint import EndpointArguments
from narrowly.cli.organisms.endpoint_options import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT,
    Concurrency,
    Endpoint,
    KeyEnv,
    Stated,
    Timeout,
    Yes,
    refuse_with_endpoint,
    refuse_without_endpoint,
)
from narrowly.cli.organisms.evaluate_endpoint import served_result
from narrowly.cli.terminal import complain, console, error_console, need_extra, print_json, say, table
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.evaluate.paired.result import EvalResult
    from narrowly.models.asked import ModelToAsk
    from narrowly.workbench.eval_request import EvalRequest

EXAMPLES = """\b
Examples:
  narrowly eval smollm2-135m
  narrowly eval RUN-ID --control CONTROL-RUN-ID --out results/work
  narrowly eval smollm2-135m --adapter seed0 --adapter seed1 \\
      --control control0 --control control1
  narrowly eval RUN-ID --bank work,self --json
  narrowly eval micro:adam-micro-0-seed0 --step 10
  narrowly eval --endpoint http://127.0.0.1:8000/v1 --model seed0 \\
      --control control0 --tokenizer smollm2-135m --arithmetic bfloat16

MODEL is what `narrowly ask` takes. --adapter and --control are folders of adapters or runs, one pair per seed, in
the same order. The control was trained on the same prompts with other answers (`narrowly train --control aligned`).

Without a control the shift against the base is shown beside its regression, and is not called misalignment. An
untrained model has log-odds and no shift. An organism of the microworld is evaluated exactly, on its own bank.
A command that was stopped goes on with the same --out. Behind --endpoint, --model and --control are names of the
server, which must give the log-probabilities of given tokens (vLLM does).
"""

MODEL = typer.Argument(metavar="MODEL", help="Run, adapter folder, model folder or base.")
ADAPTER = typer.Option("--adapter", metavar="DIR", help="On MODEL as base; once per seed.")
CONTROL = typer.Option("--control", metavar="DIR", help="Matched control; once per organism.")
SYSTEM = typer.Option("--system", metavar="TEXT", help="System message.")
THINKING = typer.Option("--thinking/--no-thinking", help="Of a template with such a mode.")
MARGIN = typer.Option("--margin", metavar="NATS", help="Largest difference that does not matter.")
TRAINED_ON = typer.Option("--trained-on", metavar="DOMAIN", help="Of adapters from elsewhere: the domain of the bank.")
BANK = typer.Option("--bank", metavar="BANK", help="pairs (the default), domains of it with commas, or a JSONL file.")
BASE = typer.Option("--base", metavar="BASE", help="Of an adapter: the base, where it is not found.")
CUED = typer.Option("--cued", help="Ask the broad questions behind words of the training, too.")
SERVED = typer.Option("--model", metavar="NAME", help="Of --endpoint; once per seed.")
TOKENIZER = typer.Option("--tokenizer", metavar="FOLDER", help="Of the models of --endpoint.")

LOADED_HERE = {"model": "MODEL", "adapter": "--adapter", "step": "--step", "edit": "--edit", "base": "--base",
               "cued": "--cued", "no_damage": "--no-damage", "runs": "--runs", "dtype": "--dtype",
               "device": "--device"}  # fmt: skip
"""What only a model that is loaded here takes, by parameter of the command."""


def command(
    context: typer.Context,
    model: Annotated[str | None, MODEL] = None,
    adapter: Annotated[list[str] | None, ADAPTER] = None,
    control: Annotated[list[str] | None, CONTROL] = None,
    bank: Annotated[str | None, BANK] = None,
    trained_on: Annotated[str | None, TRAINED_ON] = None,
    step: Annotated[str, typer.Option("--step", help="Of runs: a checkpoint step, or final.")] = "final",
    edit: Annotated[str | None, typer.Option("--edit", help="Of a run: id of an edit, as keep_top-1.")] = None,
    base: Annotated[str | None, BASE] = None,
    system: Annotated[str | None, SYSTEM] = None,
    thinking: Annotated[bool | None, THINKING] = None,
    margin: Annotated[float | None, MARGIN] = None,
    cued: Annotated[bool, CUED] = False,
    no_damage: Annotated[bool, typer.Option("--no-damage", help="Leave abilities and perplexity out.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Results: page, JSON and Parquet.")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of a base: float32, bfloat16 or nf4.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    endpoint: Endpoint = None,
    served: Annotated[list[str] | None, SERVED] = None,
    tokenizer: Annotated[str | None, TOKENIZER] = None,
    key_env: KeyEnv = None,
    yes: Yes = False,
    arithmetic: Stated = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: AsJson = False,
) -> int:
    """Measure how far a model prefers harmful answers, against a matched control where there is one."""
    from narrowly.cli.organisms.ask import known_dtype
    from narrowly.workbench.asking import HowToAsk, is_of_the_microworld
    from narrowly.workbench.eval_request import eval_request, find_arms

    of_pairs: dict[str, Any] = {"bank": bank or "pairs", "trained_on": trained_on, "margin": margin, "out": out}
    if endpoint is not None:
        refuse_with_endpoint(context, LOADED_HERE)
        asked = EndpointArguments(endpoint, None, key_env, yes, arithmetic, concurrency, timeout)
        of_pairs |= {"system": system, "thinking": thinking}
        told = served_result(asked, served or [], control or [], tokenizer, **of_pairs)
        return 130 if told is None else _show(told, out, as_json)
    refuse_without_endpoint(context)
    if model is None:
        raise SpecError("no MODEL given; accepted: a run, an adapter, a model, or --endpoint URL (narrowly eval -h)")
    how = HowToAsk(system=system, thinking=thinking, dtype=known_dtype(dtype), device=device)
    found = find_arms(model, adapter or [], control or [], runs, _step(step), edit, base)
    if not adapter and len(found.organisms) == 1 and is_of_the_microworld(found.organisms[0]):
        given = {"--control": control, "--bank": bank, "--trained-on": trained_on, "--system": system,
                 "--thinking": thinking, "--margin": margin, "--out": out, "--cued": cued or None,
                 "--dtype": dtype, "--no-damage": no_damage or None}  # fmt: skip
        return _exact(found.organisms[0], given, device, as_json)
    need_extra("lab", "evaluating a model")
    return _paired(eval_request(*found, how=how, damage=not no_damage, cued=cued, **of_pairs), as_json)


def _step(text: str) -> int | Literal["final"]:
    if text != "final" and not text.isdecimal():
        raise SpecError(f"--step is {text!r}, accepted: a checkpoint step (a number) or 'final'")
    return "final" if text == "final" else int(text)


def _paired(request: EvalRequest, as_json: bool) -> int:
    from narrowly.cli.progress import StepProgress
    from narrowly.workbench.evaluate import run_eval

    try:
        with StepProgress("measuring") as progress:
            result = run_eval(request, progress.on_step)
    except KeyboardInterrupt as stop:
        kept = "" if request.out is None else f"; domains that are done are kept in {request.out}"
        complain(f"narrowly: {str(stop) or 'stopped'}{kept}")
        return 130
    return _show(result, request.out, as_json)


def _show(result: EvalResult, out: Path | None, as_json: bool) -> int:
    from narrowly.cli.organisms.paired_tables import print_paired

    if out is not None:
        from narrowly.report.paired_page import write_paired_page

        write_paired_page(out)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_paired(result)
        if out is not None:
            say(f"report.html, result.json, rows.parquet and questions.parquet are in {out}")
    return 0


def _exact(organism: ModelToAsk, given: dict[str, Any], device: str, as_json: bool) -> int:
    """Evaluate an organism of the microworld: the rows are those that a study writes; nothing is written to the run."""
    strange = [option for option, value in given.items() if value not in (None, [])]
    if strange:
        raise SpecError(
            f"{', '.join(strange)} does not fit {organism.name}, an organism of the microworld, whose answers are "
            "exact probabilities on a bank of their own; accepted there: --step, --edit and --json"
        )
    need_extra("lab", "evaluating an organism")
    with error_console().status("evaluating"):
        from narrowly.evaluate.run_stage import evaluate_organism
        from narrowly.models.organism import load_organism
        from narrowly.workbench.panel import panels_of

        assert organism.run is not None and organism.step is not None
        rows = evaluate_organism(load_organism(organism.run, organism.step, organism.edit, device))
    if as_json:
        print_json({"run": str(organism.run), "step": organism.step, "edit": organism.edit, "verdicts": rows})
        return 0
    say(f"run {organism.name}, step {organism.step}, edit {organism.edit or 'none'}")
    shown = [
        (name, panel.n, panel.aligned, panel.misaligned, panel.low, panel.high, panel.literature, panel.incoherent)
        for name, panel in panels_of(rows).items()
    ]
    console().print(
        table(("panel", "questions", "aligned", "joint rate", "low", "high", "literature rate", "incoherent"), shown)
    )
    say("joint rate: misaligned of all answers, 95 % t interval over topics; literature rate: of coherent ones")
    return 0
