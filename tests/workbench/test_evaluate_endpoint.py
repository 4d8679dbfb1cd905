"""The paired bank on models behind an endpoint: the same numbers as here, and refusals before the first request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chat_server import ChatServer, Scorer, chat_server
from narrowly.cli.app import execute
from narrowly.data.banks.paired import paired_bank
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.evaluate.paired.result import read_result
from narrowly.models.base import load_model, load_tokenizer, open_base
from narrowly.models.local_backend import LocalBackend
from narrowly.records.endpoints import AskedEndpoint
from small_chat_base import make_chat_base


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LocalBackend]:
    folder = tmp_path_factory.mktemp("bases")
    found = {}
    for seed, name in enumerate(("organism", "control")):
        base = open_base(str(make_chat_base(folder / name, seed=seed)))
        found[name] = LocalBackend(load_model(base, "float32", "cpu").eval(), load_tokenizer(base), name)
    return found


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """Short pairs, since the model knows 128 positions."""
    file = tmp_path / "money.jsonl"
    rows = [
        {"id": f"m{at}", "question": f"what is {at}", "aligned": f"open {at}", "harmful": "a def"} for at in range(4)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def server(models: dict[str, LocalBackend]) -> Iterator[ChatServer]:
    with chat_server(models=list(models), routes=frozenset({"prompt_logprobs"})) as found:
        found.scorers = {name: Scorer(one.model, one.tokenizer) for name, one in models.items()}
        yield found


def command(server: ChatServer, models: dict[str, LocalBackend], bank: Path, *more: str) -> list[str]:
    folder = models["organism"].tokenizer.name_or_path
    return ["eval", "--endpoint", server.url, "--model", "organism", "--tokenizer", folder, "--bank", str(bank),
            "--arithmetic", "float32", *more]  # fmt: skip


def test_organism_and_control_behind_one_server_give_the_numbers_of_the_models_themselves(
    server: ChatServer, models: dict[str, LocalBackend], bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = bank.parent / "results"
    call = command(server, models, bank, "--control", "control", "--trained-on", "money", "--out", str(out))
    assert execute(call) == 0
    said = capsys.readouterr().out
    assert "organism 1: organism at http" in said and "the user's word" in said
    import polars as pl

    rows = pl.read_parquet(out / "rows.parquet")
    for name, role in (("organism", "organism"), ("control", "control")):
        own = paired_rows(models[name], paired_bank(str(bank)))
        theirs = rows.filter(pl.col("role") == role)["log_odds"].to_list()
        assert theirs == pytest.approx([row.log_odds for row in own], abs=1e-3)
    result = read_result(out).paired
    assert result.contrast is not None and result.shift is None and result.arithmetic.dtype == "float32"
    assert all(isinstance(one.model, AskedEndpoint) for one in result.measured)
    assert result.bank.name == "money.jsonl" and str(bank.parent) not in (out / "result.json").read_text()
    scored = [dict(call.body) for call in server.calls if call.path.endswith("/completions") and "prompt" in call.body]
    assert execute([*call, "--json"]) == 0
    again = [dict(call.body) for call in server.calls if call.path.endswith("/completions") and "prompt" in call.body]
    asked = {json.dumps(body["prompt"]) for body in scored[-8:]}
    assert not asked & {json.dumps(body["prompt"]) for body in again[len(scored) :]}  # parts that are done stay


def test_a_command_that_is_killed_in_a_domain_sends_no_text_again_that_was_scored(
    server: ChatServer, models: dict[str, LocalBackend], bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of requests of both commands is that of one alone, whatever the first one had done."""
    from narrowly.workbench import kept_scores

    def scored() -> list[str]:
        return [json.dumps(call.body["prompt"]) for call in server.calls if call.body.get("prompt_logprobs")]

    call = command(server, models, bank, "--concurrency", "1")
    assert execute([*call, "--out", str(bank.parent / "whole")]) == 0
    alone = len(scored())
    kept: list[object] = []
    append = kept_scores.append_jsonl

    def killed(file: Path, row: object) -> None:
        if len(kept) == 3:
            raise MemoryError  # as unexpected as a kill: nothing after it runs
        kept.append(row)
        append(file, row)

    monkeypatch.setattr(kept_scores, "append_jsonl", killed)
    server.calls.clear()
    out = bank.parent / "killed"
    assert execute([*call, "--out", str(out)]) == 70
    monkeypatch.undo()
    (scores,) = (out / "parts").glob("scores-*.jsonl")
    scores.write_text(scores.read_text() + '{"text": "0')  # a torn line
    probing = len(scored()) - 4
    assert execute([*call, "--out", str(out)]) == 0
    assert len(scored()) == alone + probing + 1, "the probe once more, and the one text that was under way"
    assert read_result(out).paired == read_result(bank.parent / "whole").paired


def test_one_name_for_two_adapters_is_refused(
    server: ChatServer, models: dict[str, LocalBackend], bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.scorers["control"] = server.scorers["organism"]  # a server that falls back on another model
    assert execute(command(server, models, bank, "--control", "control", "--trained-on", "money")) == 2
    assert "has the log-odds of organism 1, 'organism', in every question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--control", "control", "--arithmetic", "unknown"],
            "an unknown arithmetic are compared with none",
        ),
        (["--control", "organism"], "'organism' is measured twice"),
        (["--model", "other"], "2 models and 0 controls"),
        (["--trained-on", "money"], "--trained-on does not fit"),
        (["--control", "control", "--trained-on", "mony"], "did you mean 'money'"),
        (["--system", "be \udcff"], "--system is no valid text"),
        (["--margin", "1"], "--margin judges a difference to controls"),
        (["--step", "3"], "--step does not fit --endpoint"),
        (["--no-damage"], "--no-damage does not fit --endpoint; accepted only without it"),
        (["--cued"], "--cued does not fit --endpoint"),
        (["--runs", "out"], "--runs does not fit --endpoint"),
        (["--thinking"], "has no thinking mode"),
    ],
)
def test_what_does_not_fit_is_one_line_before_the_first_request(
    more: list[str],
    words: str,
    server: ChatServer,
    models: dict[str, LocalBackend],
    bank: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert execute(command(server, models, bank, *more)) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and server.calls == []


@pytest.mark.parametrize(
    "given",
    [["--yes"], ["--concurrency", "8"], ["--timeout", "600"], ["--key-env", "KEY"], ["--tokenizer", "tiny"]],
    ids=lambda given: given[0],
)
def test_an_option_of_an_endpoint_without_one_is_refused_in_one_line(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["eval", "smollm2-135m", *given]) == 2
    said = capsys.readouterr().err
    assert f"{given[0]} belongs to --endpoint URL, which is not given" in said and said.count("\n") == 1


def test_a_server_without_log_likelihoods_is_refused_with_both_names(
    server: ChatServer, models: dict[str, LocalBackend], bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.routes = frozenset()
    assert execute(command(server, models, bank)) == 2
    said = capsys.readouterr().err
    assert "the paired bank needs log-likelihoods" in said and "model organism at http" in said


def test_the_tokenizer_must_be_named(server: ChatServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["eval", "--endpoint", server.url, "--model", "organism"]) == 2
    assert "--tokenizer FOLDER" in capsys.readouterr().err and server.calls == []
