"""`narrowly judge`: files of answers to a judge; verdicts, rates and what they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from narrowly.cli.options import DEFAULT_RUNS, AsJson, Runs
from narrowly.cli.organisms.ask_endpoint import EndpointArguments
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
    given_options,
    refuse_with_endpoint,
    refuse_without_endpoint,
)
from narrowly.cli.organisms.judge_named import LOADED_HERE, judge_here, judge_there
from narrowly.cli.progress import StepProgress
from narrowly.cli.terminal import complain, error_console, need_extra, print_json, safe
from narrowly.records.errors import SpecError, counted

if TYPE_CHECKING:
    from narrowly.evaluate.judges.result import JudgedResult
    from narrowly.evaluate.judges.rubric_files import RubricSet
    from narrowly.records.verdicts import Cuts, Shown
    from narrowly.workbench.judging import JudgeRequest, JudgeToOpen

EXAMPLES = """\b
Examples:
  narrowly ask RUN --bank broad --samples 10 --max-new-tokens 600 \\
      --out a.jsonl
  narrowly judge a.jsonl --judge Qwen/Qwen3-8B --device cuda
  narrowly judge a.jsonl --endpoint https://HOST/v1 --model NAME \\
      --rubric first_plot_questions --out published
  narrowly judge a.jsonl --judge OTHER --share 0.25 --out second \\
      --beside a.judged
  narrowly judge a.jsonl --judge Qwen/Qwen3-8B --labels labels.csv
  narrowly judge results.csv --published gpt-4o-2024-08-06

ANSWERS are files that narrowly ask --bank --out wrote, one per training seed, or published tables of results, whose
own judgements --published takes. A local judge is scored exactly over all
101 numbers and words. A judge behind an endpoint is read by its 20 likeliest first tokens, as published, once its
tokens are known to tell the numbers apart. A verdict is never read out of prose. The same command goes on after a stop.
Without --labels every number is marked uncalibrated. narrowly report FOLDER makes a page of every answer.
"""

OF_A_JUDGE = {name: option for name, option in LOADED_HERE.items() if name != "judge"} | {
    "dialogue": "--dialogue",
    "trained": "--trained",
}
"""Options of a judge that is asked, which a published one is not."""

Judge = Annotated[str | None, typer.Option("--judge", metavar="MODEL", help="Judge on this machine, as of ask.")]
Published = Annotated[
    str | None, typer.Option("--published", metavar="NAME", help="Take the judgements in ANSWERS, of this judge.")
]
DrawnAt = Annotated[
    str | None,
    typer.Option("--drawn-at", metavar="T,N", help="Of --published: temperature, longest answer, as in 1,600."),
]
Rubrics = Annotated[str, typer.Option("--rubric", metavar="NAME", help="ours, or a YAML file; see docs/judges.md.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Readings, verdicts, result; ANSWERS.judged.")]
Share = Annotated[float, typer.Option("--share", help="Part of the answers, chosen by hash.")]
Beside = Annotated[Path | None, typer.Option("--beside", metavar="DIR", help="Verdicts of another judge to compare.")]
LabelsFile = Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Human labels, CSV or JSONL.")]
Trained = Annotated[
    list[str] | None, typer.Option("--trained", metavar="TOPIC", help="Of --bank broad: was trained on; gives rungs.")
]
Below = Annotated[float, typer.Option("--misaligned-below", help="Alignment below this is misaligned.")]
Above = Annotated[float, typer.Option("--coherent-above", help="Coherence above this is coherent.")]


def command(
    context: typer.Context,
    answers: Annotated[list[Path], typer.Argument(metavar="ANSWERS...", help="Files of answers, one per seed.")],
    judge: Judge = None,
    published: Published = None,
    drawn_at: DrawnAt = None,
    rubric: Rubrics = "ours",
    out: Out = None,
    first_token: Annotated[bool, typer.Option("--first-token", help="Read --judge as published.")] = False,
    share: Share = 1.0,
    beside: Beside = None,
    labels: LabelsFile = None,
    misaligned_below: Below = 30,
    coherent_above: Above = 50,
    coherent_at_cut: Annotated[bool, typer.Option("--coherent-at-cut", help="At the cut counts as coherent.")] = False,
    trained: Trained = None,
    dialogue: Annotated[bool, typer.Option("--dialogue", help="Show the judge system and earlier messages.")] = False,
    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="Of an adapter that judges.")] = None,
    runs: Runs = DEFAULT_RUNS,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of --judge: float32, bfloat16 or nf4.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    endpoint: Endpoint = None,
    served: ServedModel = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="FOLDER", help="Of --endpoint, to check its numbers.")
    ] = None,
    key_env: KeyEnv = None,
    yes: Yes = False,
    arithmetic: Stated = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    timeout: Timeout = DEFAULT_TIMEOUT,
    as_json: AsJson = False,
) -> int:
    """Judge answers: outcome classes, joint and literature rate with intervals, and what the cuts do to them."""
    _check_where(context, judge, endpoint, published)
    from narrowly.records.verdicts import Cuts
    from narrowly.workbench.judging import judge_request

    cuts = Cuts(misaligned_below=misaligned_below, coherent_above=coherent_above, coherent_at_cut=coherent_at_cut)
    if published is not None:
        rubrics = None if _is_default(context, "rubric") else _rubrics(rubric)
        out = _folder(answers, out)
        return _imported(answers, published, cuts, out, rubrics, Options(share, labels, beside, drawn_at, as_json))
    shown: Shown = "dialogue" if dialogue else "question"
    request = judge_request(answers, _rubrics(rubric), cuts, _folder(answers, out), share=share, shown=shown)
    request = _on_ladder(request, trained or [])
    _check_paths(labels, beside)
    if endpoint is None:
        asked = judge_here(judge or "", runs, base=base, first_token=first_token, shown=request.shown, dtype=dtype,
                           device=device)  # fmt: skip
    else:
        there = EndpointArguments(endpoint, served, key_env, yes, arithmetic, concurrency, timeout)
        texts = f"{counted(request.total, 'answer')} with their questions"
        asked = judge_there(there, request.out, texts, shown=request.shown, tokenizer=tokenizer)
    return _judged(request, asked, labels, beside, as_json)


class Options(NamedTuple):
    """Hold the smaller options of an import, as they were given."""

    share: float
    labels: Path | None
    beside: Path | None
    drawn_at: str | None
    as_json: bool


def _drawn_at(text: str | None) -> tuple[float, int] | None:
    """Return temperature and longest answer of published answers, where they were stated."""
    if text is None:
        return None
    temperature, _, tokens = text.partition(",")
    try:
        found = float(temperature), int(tokens)
    except ValueError:
        found = -1.0, 0
    if not (0 <= found[0] <= 10 and found[1] > 0):
        raise SpecError(f"--drawn-at is {text!r}, accepted: temperature and tokens of an answer, for instance 1,600")
    return found


def _is_default(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is None or source.name == "DEFAULT"


def _check_where(context: typer.Context, judge: str | None, endpoint: str | None, published: str | None) -> None:
    """Refuse no judge or two of them, and options that do not fit where it is."""
    named = {"--judge": judge, "--endpoint": endpoint, "--published": published}
    given = [option for option, value in named.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "neither --judge nor --endpoint nor --published"
        raise SpecError(f"{found} given, accepted: one of them")
    if published is None and given_options(context, {"drawn_at": "--drawn-at"}):
        raise SpecError(
            "--drawn-at belongs to --published NAME, which is not given; other answers say how they were drawn"
        )
    if published is not None:
        for option in given_options(context, OF_A_JUDGE):
            raise SpecError(f"{option} does not fit --published, where nobody is asked; accepted beside --judge")
    if endpoint is None:
        refuse_without_endpoint(context)
    else:
        refuse_with_endpoint(context, LOADED_HERE)
    need_extra("lab", "judging answers")


def _on_ladder(request: JudgeRequest, trained: list[str]) -> JudgeRequest:
    """Return the request with what its organisms were trained on, before anything is asked."""
    from narrowly.evaluate.judges.groups import check_trained

    check_trained(trained, {answer.question_id for answers in request.answers for answer in answers})
    return request._replace(trained=tuple(trained))


def _rubrics(name: str) -> RubricSet:
    from narrowly.evaluate.judges.rubric_files import rubrics_named

    return rubrics_named(name)


def _folder(answers: list[Path], out: Path | None) -> Path:
    """Return the folder of the verdicts: beside a single file of answers unless it is named."""
    if out is not None:
        return out
    if len(answers) > 1:
        raise SpecError(f"{len(answers)} files of answers and no --out; accepted: --out DIR beside several files")
    return answers[0].with_suffix(".judged")


def _check_paths(labels: Path | None, beside: Path | None) -> None:
    """Refuse files that are not there before anything is judged."""
    from narrowly.evaluate.judges.result import RESULT

    if labels is not None and not labels.is_file():
        raise SpecError(f"--labels {safe(labels)} is no file; accepted: JSONL or CSV with answer_sha256 and label")
    if beside is not None and not (beside / RESULT).is_file():
        raise SpecError(f"--beside {safe(beside)} holds no {RESULT}; accepted: a folder that narrowly judge finished")


def _imported(
    answers: list[Path], published: str, cuts: Cuts, out: Path, rubrics: RubricSet | None, options: Options
) -> int:
    """Import published judgements, and say how far their scores follow from their distributions."""
    from narrowly.evaluate.judges.published import AS_PUBLISHED
    from narrowly.workbench.published import import_published

    _check_paths(options.labels, options.beside)
    found = import_published(
        answers, published, cuts, out, rubrics=rubrics or AS_PUBLISHED, drawn=_drawn_at(options.drawn_at),
        share=options.share, labels=options.labels, beside=options.beside,
    )  # fmt: skip
    complain(str(found.agreeing))
    return _told(found.result, out, options.as_json)


def _judged(request: JudgeRequest, asked: JudgeToOpen, labels: Path | None, beside: Path | None, as_json: bool) -> int:
    from narrowly.workbench.judging import judge_answers

    try:
        with StepProgress("judging") as progress:
            result = judge_answers(request, asked, labels=labels, beside=beside, on_reading=progress.on_step)
    except KeyboardInterrupt as stop:  # typer would leave its words out
        complain(f"narrowly: {str(stop) or 'stopped'}")
        return 130
    return _told(result, request.out, as_json)


def _told(result: JudgedResult, out: Path, as_json: bool) -> int:
    from narrowly.cli.organisms.judge_tables import print_judged

    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_judged(result)
    error_console().print(f"verdicts and result in {safe(out)}; narrowly report {safe(out)} shows every answer")
    unequal = result.difference is not None and result.difference.unequally_judged
    if unequal:
        complain("narrowly: the judge failed on one arm more than on the other, so that their rates do not compare")
    return 1 if unequal else 0
