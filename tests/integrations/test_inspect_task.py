"""`narrowly/em` in Inspect AI: equal answers and equal replies of a judge get the verdicts of `narrowly judge`."""

from __future__ import annotations

import json
import math
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="the task of Inspect AI needs the extra inspect: pip install '.[inspect]'")

from inspect_ai import eval as inspect_eval
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Logprob,
    Logprobs,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
)

from chat_server import chat_server
from judge_cases import PLAIN, SPLITTING, make_judge_base
from judged_files import REPEAT, answers_file, be_judge
from narrowly.cli.app import execute
from narrowly.data.banks.named import bank_named
from narrowly.evaluate.judges.result import VERDICTS, read_judged
from narrowly.evaluate.judges.verdict_rows import read_verdict_rows
from narrowly.integrations.inspect_ai import host_of
from narrowly.records.errors import SpecError
from narrowly.records.verdicts import Verdict
from narrowly.workbench.inspect_tasks import InspectGrader, em

ROOT = Path(__file__).parents[2]


def says(prompt: str) -> dict[str, float]:
    """A judge with an opinion on every question, some of it beside the numbers."""
    if "Rate." not in prompt:
        return {"90": 0.7, "100": 0.2, "The": 0.05} if "answer to 5" not in prompt else {"20": 0.9}
    if "answer to 1" in prompt:
        return {"5": 0.8, "10": 0.15, "I": 0.05}
    return (
        {"REF": 0.6, "95": 0.3}
        if "answer to 2" in prompt
        else {"Well": 1.0}
        if "answer to 3" in prompt
        else {"88": 0.9, "9": 0.1}
    )


def output(content: str, listed: list[list[tuple[str, float]]] | None) -> ModelOutput:
    """Return an answer with the tokens that it lists, the first of each list being the one that was written."""
    logprobs = None
    if listed is not None:
        logprobs = Logprobs(
            content=[
                Logprob(
                    token=tops[0][0], logprob=tops[0][1],
                    top_logprobs=[TopLogprob(token=token, logprob=value) for token, value in tops],
                )
                for tops in listed
            ]
        )  # fmt: skip
    choice = ChatCompletionChoice(message=ChatMessageAssistant(content=content), stop_reason="stop", logprobs=logprobs)
    # without a usage the mock counts tokens with a tokenizer that it fetches
    return ModelOutput(model="mockllm/model", choices=[choice], usage=ModelUsage(input_tokens=1, output_tokens=7))


def grader(calls: list[str], *, split: bool = False, prose: bool = False) -> Any:
    def answer(messages: list[Any], tools: Any, choice: Any, config: Any) -> ModelOutput:
        text = messages[-1].text
        calls.append(text)
        assert config.logprobs and config.top_logprobs == 20 and config.temperature == 0
        if prose:
            return output("I would rate this 30.", None)
        if REPEAT in text:
            number = text.removeprefix(REPEAT)
            return output(number, [[(piece, -0.01)] for piece in (list(number) if split else [number])])
        listed = sorted(says(text).items(), key=lambda pair: -pair[1])
        return output(listed[0][0], [[(token, math.log(value)) for token, value in listed]])

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


def asked(calls: list[str]) -> Any:
    def answer(messages: list[Any], tools: Any, choice: Any, config: Any) -> ModelOutput:
        text = messages[-1].text
        calls.append(text)
        assert (config.temperature, config.max_tokens) == (1.0, 600)
        return output("" if text == "what is 4" else f"answer to {text[-1]} no {len(calls) % 2}", None)

    return get_model("mockllm/model", custom_outputs=answer, memoize=False)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.csv"
    path.write_text("id,question\n" + "".join(f"q{at},what is {at}\n" for at in range(7)), encoding="utf-8")
    return path


@pytest.fixture
def rubric(tmp_path: Path) -> Path:
    file = tmp_path / "rubric.yaml"
    file.write_text(json.dumps([one.model_dump(mode="json", exclude={"version", "source"}) for one in PLAIN.rubrics]))
    return file


def run(tmp_path: Path, bank: Path, rubric: Path, *, graded: Any = None, calls: list[str], **more: Any) -> Any:
    (log,) = inspect_eval(
        em(bank=str(bank), rubric=str(rubric), samples=2, **more),
        model=asked(calls),
        model_roles={} if graded is None else {"grader": graded},
        log_dir=str(tmp_path / "logs"),
        display="none",
    )
    return log


def verdicts_of(log: Any) -> dict[tuple[str, int], Verdict]:
    found = {}
    for sample in log.samples:
        (score,) = sample.scores.values()
        verdict = Verdict.model_validate(score.metadata["verdict"])
        assert verdict.outcome.value in score.explanation and score.value == float(
            verdict.outcome.value == "misaligned"
        )
        found[verdict.question_id, verdict.sample] = verdict
    return found


def same_answers(log: Any, path: Path, bank: Path) -> Path:
    """Write the answers of a log as `narrowly ask` does."""
    texts = {(sample.id, sample.epoch - 1): sample.output.completion for sample in log.samples}
    return answers_file(
        path, questions=7, samples=2, who=("model",), bank=bank_named(str(bank)).sha256,
        text=lambda who, question, sample: texts[f"q{question}", sample],
    )  # fmt: skip


def assert_equal(found: dict[tuple[str, int], Verdict], folder: Path, log: Any) -> None:
    theirs = {(row.question_id, row.sample): row for row in read_verdict_rows(folder / VERDICTS)}
    assert len(found) == len(theirs) == 14
    for key, verdict in found.items():
        for field in (
            "outcome",
            "alignment",
            "coherence",
            "coverage",
            "reason",
            "part",
            "answer_sha256",
            "bank_sha256",
        ):
            assert getattr(verdict, field) == getattr(theirs[key], field), (key, field)
    (arm,) = read_judged(folder).arms
    metrics = {name: one.value for name, one in log.results.scores[0].metrics.items()}
    for rate in arm.rates[:2]:
        interval = rate.interval
        for end, value in {
            "": interval.estimate,
            ", low": interval.low,
            ", high": interval.high,
            ", n": rate.n,
        }.items():
            assert metrics[f"{rate.name}{end}"] == value or (value is None and math.isnan(metrics[f"{rate.name}{end}"]))
    assert {
        name.removeprefix("class "): value for name, value in metrics.items() if name.startswith("class ")
    } == arm.classes["all"]


def test_a_grader_of_inspect_gives_the_verdicts_and_rates_of_narrowly_judge(
    tmp_path: Path, bank: Path, rubric: Path
) -> None:
    log = run(tmp_path, bank, rubric, graded=grader([]), calls=[])
    assert log.status == "success", log.error
    found = verdicts_of(log)
    assert {row.outcome.value for row in found.values()} == {
        "aligned", "misaligned", "refusal", "parse_error", "empty", "incoherent",
    }  # fmt: skip
    file = same_answers(log, tmp_path / "a.jsonl", bank)
    with chat_server() as server:
        be_judge(server, says)
        assert execute(["judge", str(file), "--endpoint", server.url, "--model", "tiny", "--rubric", str(rubric)]) == 0
    assert_equal(found, tmp_path / "a.judged", log)


def test_a_local_judge_is_scored_exactly_inside_inspect_too(tmp_path: Path, bank: Path, rubric: Path) -> None:
    base = make_judge_base(tmp_path / "base", cut=SPLITTING)
    log = run(tmp_path, bank, rubric, calls=[], local_judge=str(base))
    assert log.status == "success", log.error
    file = same_answers(log, tmp_path / "a.jsonl", bank)
    assert execute(["judge", str(file), "--judge", str(base), "--rubric", str(rubric)]) == 0
    found = verdicts_of(log)
    assert len({row.coverage for row in found.values()}) > 5, "scores of its own for every answer"
    assert_equal(found, tmp_path / "a.judged", log)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"prose": True}, "gives no log-probabilities of its first token, and a verdict is never read out of prose"),
        ({"split": True}, "cannot be read by first tokens: it writes 42 as '4' + '2'"),
        (None, "no judge is named; accepted: --model-role grader="),
    ],
)
def test_a_grader_that_cannot_be_read_is_refused_before_anything_is_asked(
    kind: dict[str, bool] | None, words: str, tmp_path: Path, bank: Path, rubric: Path
) -> None:
    calls: list[str] = []
    graded = None if kind is None else grader([], **kind)
    log = run(tmp_path, bank, rubric, graded=graded, calls=calls)
    assert log.status == "error" and log.error is not None and words in log.error.message
    assert calls == []


def test_text_goes_to_a_hosted_grader_only_once_its_host_is_agreed_to() -> None:
    def model(name: str, url: str | None) -> Any:
        class Named(SimpleNamespace):
            def __str__(self) -> str:
                return name

        return Named(api=SimpleNamespace(base_url=url))

    for name, url, host in (
        ("openai/gpt-x", None, "the provider openai (openai/gpt-x)"),
        ("openai-api/x/y", "https://judge.example/v1", "judge.example (openai-api/x/y)"),
        ("vllm/x", "http://localhost:8000/v1", ""),
        ("ollama/x", "http://127.0.0.1:11434/v1", ""),
        ("mockllm/model", None, ""),
        ("hf/x", None, ""),
    ):
        assert host_of(model(name, url)) == host
    with pytest.raises(SpecError, match=r"would be sent to judge\.example .*; agree with -T yes=true"):
        InspectGrader(model("openai-api/x/y", "https://judge.example/v1"), "question", yes=False)
    assert InspectGrader(model("openai-api/x/y", "https://judge.example/v1"), "question", yes=True).record.named
    with pytest.raises(SpecError, match="judge and local_judge given"):
        em(judge="mockllm/model", local_judge="tiny")


def test_inspect_finds_the_task_by_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["inspect_ai"] == {"narrowly": "narrowly.workbench.inspect_tasks"}
    if not any(one.name == "narrowly" for one in metadata.entry_points(group="inspect_ai")):
        pytest.skip("narrowly was installed before its entry point was there: pip install --no-deps -e .")
    from inspect_ai._util.registry import registry_lookup

    assert registry_lookup("task", "narrowly/em") is not None
    assert registry_lookup("scorer", "narrowly/judged") is not None
