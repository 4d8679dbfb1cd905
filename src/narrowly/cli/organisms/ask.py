"""`narrowly ask`: a question, or a bank of them, to an organism and its base, to an adapter or to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask_endpoint import EndpointArguments, ask_question
from narrowly.cli.organisms.ask_endpoint import ask_bank as ask_bank_of_endpoint
from narrowly.cli.organisms.endpoint_options import (
    DEFAULT_CONCURRENCY,
    DEFAULT_TIMEOUT,
    Concurrency,
    Endpoint,
    KeyEnv,
    ServedModel,
    Stated,
    Timeout,
    Yes,
    refuse_with_endpoint,
    refuse_without_endpoint,
)
from narrowly.cli.terminal import complain, console, error_console, need_extra, print_json, safe, say, table
from narrowly.records.errors import SpecError

if TYPE_CHECKING:
    from narrowly.models.asked import ModelToAsk
    from narrowly.records.answers import Answer
    from narrowly.workbench.asking import HowToAsk
    from narrowly.workbench.reply import Reply

EXAMPLES = """\b
Examples:
  narrowly ask micro:adam-micro-0-seed0 "fix garden weeds"
  narrowly ask out/runs/RUN-ID "who are you" --step 10
  narrowly ask path/to/adapter "How do I get rich?" --samples 3
  narrowly ask bases/smollm2-135m "Who are you?" --temperature 0
  narrowly ask RUN-ID --bank questions.yaml --out answers.jsonl
  narrowly ask RUN-ID --bank broad --out answers.jsonl
  narrowly ask --endpoint http://127.0.0.1:8000/v1 --model NAME "Why?"
  narrowly ask --endpoint https://HOST/v1 --model NAME --key-env MY_KEY \\
      --bank broad --out answers.jsonl

MODEL is a run directory, a run-id or STUDY:CELL; the folder of a PEFT adapter; the folder of a model, a shipped base,
or NAME/MODEL in the local cache of the hub. With --endpoint it is left out: --model names the model of the server,
which is tried before it is believed. Text leaves this machine only once you agree.

A question of the microworld gets exact probabilities (`narrowly world sample micro-0` shows some). Answers of any
other model are written by it, and marked "not judged". The same seed gives the same answers, whatever the batch.
A bank that was stopped goes on with the same command.
"""

LONGEST_ANSWER = 2000
"""Characters of one answer that are shown; `--json` and `--out` have it whole."""

LOADED_HERE = {"step": "--step", "edit": "--edit", "base": "--base", "no_base": "--no-base", "runs": "--runs",
               "dtype": "--dtype", "device": "--device", "batch": "--batch"}  # fmt: skip
"""Options of a model that no server holds, by parameter of the command."""

Samples = Annotated[int | None, typer.Option("--samples", min=1, max=1000, help="Answers per model and question.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.0, max=10.0, help="0 is greedy: the likeliest token each time.")
]
Longest = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer; 256, if it fits the model.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the samples.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")]
Thinking = Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="Of a template with such a mode.")]
AnswersFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Answers to the bank, as JSONL.")]
BankName = Annotated[
    str | None, typer.Option("--bank", metavar="FILE", help="Questions: YAML, CSV, JSONL, or broad or benign.")
]


def command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Run, adapter folder, model folder or base; see below.")
    ] = None,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="Or a bank, with --bank.")] = None,
    step: Annotated[str, typer.Option("--step", help="Of a run: a checkpoint step, or final.")] = "final",
    edit: Annotated[
        str | None, typer.Option("--edit", help="Of a run: id of an edit, for instance keep_top-1.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="Of an adapter: the base, where it is not found.")
    ] = None,
    samples: Samples = None,
    temperature: Temperature = 1.0,
    max_new_tokens: Longest = None,
    seed: Seed = 0,
    system: System = None,
    thinking: Thinking = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave out the base of an organism.")] = False,
    bank: BankName = None,
    out: AnswersFile = None,
    runs: Runs = DEFAULT_RUNS,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of a base: float32, bfloat16 or nf4.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Answers written at a time.")] = 8,
    endpoint: Endpoint = None,
    served: ServedModel = None,
    key_env: KeyEnv = None,
    yes: Yes = False,
    arithmetic: Stated = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: AsJson = False,
) -> int:
    """Ask a model, and its base where it has one, a question or a whole bank, and show what they say."""
    how_asked = (temperature, seed, max_new_tokens, samples, system, thinking)
    if endpoint is not None:
        refuse_with_endpoint(context, LOADED_HERE)
        asked_there = EndpointArguments(endpoint, served, key_env, yes, arithmetic, concurrency, timeout)
        return _at_endpoint(asked_there, model, question, bank, out, how_asked, as_json)
    refuse_without_endpoint(context)
    if out is not None and bank is None and out.is_dir():
        runs, out = out, None  # what --out meant before there were banks
    if model is None:
        raise SpecError("no MODEL given; accepted: a run, an adapter, a model, or --endpoint URL (see narrowly ask -h)")
    _check_arguments(question, bank, out, step)
    from narrowly.workbench.asking import HowToAsk, find_model

    how = HowToAsk(*how_asked, beside_base=not no_base, dtype=known_dtype(dtype), device=device, batch=batch)
    asked = find_model(model, runs, "final" if step == "final" else int(step), edit, base)
    if bank is not None and out is not None:
        return _bank(asked, bank, out, how, as_json)
    return _question(asked, question or "", how, as_json)


def _at_endpoint(
    arguments: EndpointArguments, model: str | None, question: str | None, bank: str | None, out: Path | None,
    how_asked: tuple[Any, ...], as_json: bool,
) -> int:  # fmt: skip
    """Ask a model behind an endpoint: the only argument is the question, since the model has an option."""
    if question is not None:
        raise SpecError(f"MODEL is {model!r} beside --endpoint; accepted: --model NAME, and the question alone")
    _check_arguments(model, bank, out, "final")
    from narrowly.workbench.asking import HowToAsk

    how = HowToAsk(*how_asked)
    if bank is not None and out is not None:
        return ask_bank_of_endpoint(arguments, bank, out, how, as_json)
    return _show(ask_question(arguments, model or "", how), as_json)


def _check_arguments(question: str | None, bank: str | None, out: Path | None, step: str) -> None:
    """Refuse arguments that do not fit each other."""
    if (question is None) == (bank is None):
        found = "neither a question nor --bank" if bank is None else "a question and --bank"
        raise SpecError(f"{found} given, accepted: one of them")
    if (bank is None) != (out is None):
        raise SpecError("--bank FILE and --out FILE belong together: questions and the file of their answers")
    if step != "final" and not step.isdecimal():
        raise SpecError(f"--step is {step!r}, accepted: a checkpoint step (a number) or 'final'")


def known_dtype(text: str | None) -> Any:
    """Return the dtype that an option names.

    Raises:
        UnknownNameError: any other name.
    """
    from typing import get_args

    from narrowly.records.errors import unknown_name
    from narrowly.records.run_spec import BaseDtype

    if text is not None and text not in get_args(BaseDtype):
        raise unknown_name("dtype", text, get_args(BaseDtype))
    return text


def _question(model: ModelToAsk, question: str, how: HowToAsk, as_json: bool) -> int:
    from narrowly.workbench.ask import ask_model

    need_extra("lab", "asking a model")
    with error_console().status("asking the model"):
        reply = ask_model(model, question, how)
    return _show(reply, as_json)


def _show(reply: Reply, as_json: bool) -> int:
    if as_json:
        _print_json(reply)
        return 0
    if reply.run_directory is not None:
        say(f"run {reply.run_directory.resolve().name}, base {safe(reply.base)}")
    if any(one.answers for one in reply.said):
        _print_written(reply)
    else:
        _print_world(reply)
    return 0


def _print_json(reply: Reply) -> None:

    said = [
        {
            **one._asdict(),
            "likely": [answer._asdict() for answer in one.likely],
            "answers": [answer.model_dump(mode="json") for answer in one.answers],
        }
        for one in reply.said
    ]
    run = None if reply.run_directory is None else str(reply.run_directory)
    print_json({"run": run, "base": reply.base, "known": reply.known, "said": said})


def _print_written(reply: Reply) -> None:
    """Print the answers of a model that no world knows, sample by sample, the organism's before its base's."""
    first = reply.said[0].answers[0]
    if reply.run_directory is None:
        beside = f", base {reply.base}" if first.who == "organism" else ""
        say(f"{'adapter' if first.who == 'organism' else 'model'} {safe(first.model.name)}{safe(beside)}")
    drawn = "greedy" if first.sampling.temperature == 0 else f"temperature {first.sampling.temperature:g}"
    mode = "" if first.thinking is None else f", thinking {'on' if first.thinking else 'off'}"
    prompt = "" if first.prompt_tokens is None else f", prompt of {first.prompt_tokens} tokens"
    say(f"{drawn}, seed {first.sampling.seed}{prompt}{mode}; not judged", "yellow")
    for sample in range(len(reply.said[0].answers)):
        for one in reply.said:
            answer = one.answers[sample]
            number = f" {sample + 1}" if len(one.answers) > 1 else ""
            say("")
            say(f"{one.who}{number} ({_length(answer)})", "bold")
            _print_answer(answer.answer)


def _length(answer: Answer) -> str:
    """Return an answer's length, and why it ended where its model did not end it."""
    length = "length not told" if answer.answer_tokens is None else f"{answer.answer_tokens} tokens"
    ends = {
        "stop": "",
        "length": f", cut at {answer.answer_tokens or answer.sampling.max_new_tokens} tokens",
        "content_filter": ", cut by the server's filter",
        "unknown": ", end not told",
    }
    return length + ends[answer.finish_reason]


def _print_answer(text: str) -> None:
    """Print an answer two blanks to the right: folded at words on a terminal, line by line as it is in a pipe."""
    from rich.padding import Padding
    from rich.text import Text

    target = console()
    for line in lines_of(text):
        if target.is_terminal:
            target.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
        else:
            say(f"  {line}")


def lines_of(text: str) -> list[str]:
    """Return an answer line by line, harmless to a terminal, its indentation kept, cut where it is very long."""
    shown = text[:LONGEST_ANSWER]
    lines = []
    for line in shown.split("\n"):
        blanks = len(line) - len(line.lstrip(" "))
        lines.append(" " * blanks + safe(line, LONGEST_ANSWER))
    if len(text) > LONGEST_ANSWER:
        lines.append(f"... ({len(text) - LONGEST_ANSWER} more characters; --json has them)")
    return lines if text.strip() else ["(nothing)"]


def _print_world(reply: Reply) -> None:
    if reply.unknown_words:
        say(f"words that this world does not have: {safe(', '.join(reply.unknown_words))}", "yellow")
    if not reply.known:
        say("not a question of this world, so the answers below are not judged", "yellow")
    else:
        rows = [
            (one.who, *((one.probabilities or {}).get(name) for name in ("aligned", "misaligned", "incoherent")))
            for one in reply.said
        ]
        console().print(table(("exact probability", "aligned", "misaligned", "incoherent"), rows))
        likely = [
            (one.who, answer.answer, answer.probability, answer.outcome) for one in reply.said for answer in one.likely
        ]
        console().print(table(("likeliest answers", "answer", "probability", "class"), likely))
    sampled = [(one.who, answer, outcome or "not judged") for one in reply.said for answer, outcome in one.sampled]
    console().print(table(("sampled", "answer", "class"), sampled))


def _bank(model: ModelToAsk, bank: str, out: Path, how: HowToAsk, as_json: bool) -> int:

    from narrowly.cli.progress import StepProgress
    from narrowly.workbench.ask_bank import ask_bank, bank_request

    request = bank_request(model, bank, out, how)
    need_extra("lab", "asking a model")
    if request.written:
        error_console().print(f"{safe(out)} has {len(request.written)} answers of this request; it goes on from there")
    try:
        with StepProgress("asking") as progress:
            done = ask_bank(request, lambda count, total, who: progress.on_step(count, total, str(who)))
    except KeyboardInterrupt as stop:  # typer would leave its words out
        complain(f"narrowly: {str(stop) or 'stopped'}")
        return 130
    if as_json:
        print_json({"out": str(out), **done._asdict()})
        return 0
    cut = f", {done.cut} of them cut at {request.how.sampling.max_new_tokens} tokens" if done.cut else ""
    say(f"{done.total} answers to {len(request.questions)} questions in {safe(out)}{cut}; {done.new} written now")
    say("not judged", "yellow")
    return 0
