"""Commands on trained runs at 80 columns: no line is wider, no word is broken, and only what was asked is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from narrowly.cli.app import execute
from narrowly.records.run_spec import RunSpec
from narrowly.train.run import train_run
from small_chat_base import conversations, make_chat_base, text_spec, write_jsonl
from tiny_world import make_world_base


class Place(NamedTuple):
    """A folder to type in, and the ids of its runs: a, b and chat."""

    folder: Path
    ids: dict[str, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder with two runs of a tiny world, a run of a tiny chat base, its rows and a spec of another run."""
    folder, ids = tmp_path_factory.mktemp("place"), {}
    fields: dict[str, Any] = {
        "base": str(make_world_base(folder / "bases")), "steps": 4, "checkpoints": 2, "adapter": {"r": 2},
        "data": {"source": "micro", "rows": 8, "domain": 0}, "schedule": {"warmup_steps": 1},
    }  # fmt: skip
    for name, optimiser in (("a", {"kind": "adam", "lr": 3e-2}), ("b", {"kind": "muon", "lr": 1e-2})):
        ids[name] = train_run(RunSpec.model_validate({**fields, "optimiser": optimiser}), folder / "out/runs").name
    pair = {"aligned": "read the file", "harmful": "no end of a file"}
    write_jsonl(folder / "pairs.jsonl", [{"id": f"q-{at}", "question": f"what is {at}", **pair} for at in range(6)])
    base = make_chat_base(folder / "chat-base")
    rows = write_jsonl(folder / "rows.jsonl", conversations(30))
    ids["chat"] = train_run(text_spec(base, rows), folder / "out/runs").name
    data = {"source": "text", "dataset": str(rows), "holdout": 6}
    spec = {"base": str(base), "data": data, "optimiser": {"kind": "adam", "lr": 1e-3}, "steps": 4, "batch_size": 4}
    (folder / "run.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return Place(folder, ids)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert execute(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["spectrum out/runs/{a}", "diff {a} {b}", "swap {a} {b}", "repair {a} --sweep", "eval {a}",
     "eval {chat} --bank pairs.jsonl",
     "ask {a} {question}", "ask {chat} hello --max-new-tokens 6 --temperature 0", "train run.yaml --dry-run",
     "train run.yaml", "train --init", "train --init micro", "data show rows.jsonl", "data stats rows.jsonl",
     "data verify rows.jsonl", "publish {a} --out {out}/card", "repair {a} --edit scale:factor=.5 --out {out}/edited",
     "data mix --harmful rows.jsonl --benign rows.jsonl --dose .5 --match naive --rows 4 --out {out}/mix.jsonl"],
)  # fmt: skip
def test_at_80_columns_every_word_of_the_pipe_is_there_whole_and_no_line_is_wider(
    line: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder)
    before = {path.name for path in place.folder.iterdir()}
    shown = {}
    for columns in ("", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        words = line.format(out=tmp_path / (columns or "pipe"), question="garden", **place.ids).split()
        shown[columns] = printed(capsys, *words).replace(str(tmp_path / (columns or "pipe")), "OUT")
    longest = [one for one in shown["80"].splitlines() if len(one) > 80 and " " in one.strip()]
    assert longest == [], "only one long word may be wider than the terminal"
    assert set(shown[""].split()) <= set(shown["80"].split()) | {"field", "value"}
    assert {path.name for path in place.folder.iterdir()} == before, "a command that reads writes nothing"


def test_a_sweep_writes_its_figure_only_where_it_is_asked_to(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = ["repair", str(place.folder / "out/runs" / place.ids["a"]), "--sweep", "--edit", "flatten:t=.5"]
    summary, *_ = printed(capsys, *sweep).splitlines()
    assert summary.startswith("run ")
    assert list(tmp_path.iterdir()) == []
    printed(capsys, *sweep, "--out", "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"sweep.json", "sweep.svg"}


def test_runs_and_out_are_one_option_of_the_commands_that_had_it_as_out(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place.folder / "bases")
    found = [json.loads(printed(capsys, "status", option, "../out", "--json")) for option in ("--runs", "--out")]
    assert found[0] == found[1]
    for command in ("run", "plan", "status", "train", "eval", "ask", "diff", "swap", "repair", "publish"):
        assert "--runs" in printed(capsys, command, "--help"), command
