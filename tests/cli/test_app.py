"""The command line: exit codes, one-line errors, no torch where none is needed, harmless output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from pydantic import TypeAdapter

from narrowly.cli import terminal
from narrowly.cli.app import BUG, app, execute
from narrowly.cli.terminal import duration, need_extra, safe, table
from narrowly.engines.stopping import StoppedByCtrlC
from narrowly.records.errors import MissingExtraError, SpecError
from narrowly.records.install import install_hint

COMMANDS = [command.name or "" for command in app.registered_commands]


def narrowly(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "narrowly.cli.app", *arguments], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], ["'rum'", "did you mean 'run'"]),
        (["plan", "mirco"], ["unknown study 'mirco'", "did you mean 'micro'"]),
        (["plan", "nowhere.yaml"], ["nowhere.yaml", "does not exist"]),
        (["plan", "micro", "--set", "run.step=3"], ["'run.steps'"]),
        (["plan", "micro", "--set", "arms.adm.set.optimiser.lr=3"], ["unknown arm 'adm'", "'adam'"]),
        (
            ["plan", "micro", "--set", "arms.adam.set.optimiser.lr=fast"],
            ["arms.adam.set.optimiser.lr", "'fast'", "a number"],
        ),
        (
            ["plan", "micro", "--set", "arms.adam.set.optimiser={kind: moun, lr: 1}"],
            ["unknown optimiser 'moun'", "'muon'"],
        ),
        (["plan", "micro", "--set", "grid.seed=[]"], ["zero cells"]),
        (["plan", "micro", "--set", "exclude=[{arm: lyon}]"], ["unknown arm 'lyon'", "'lion'"]),
        (["plan", "micro", "--set", "nonsense"], ["a.b=value"]),
        (["plan"], ["Missing argument"]),
        (["plan", "micro", "--wurkers", "3"], ["--wurkers"]),
        (["studies", "smok"], ["'smoke'"]),
        (["status", "micro"], ["unknown study"]),
        (["report", "nowhere"], ["nowhere"]),
        (["train", "nowhere.yaml"], ["nowhere.yaml"]),
        (["ask", "nowhere", "who are you"], ["nothing to ask is called 'nowhere'"]),
        (["ask", "micro:cell", "who are you"], ["no study folder"]),
        (["ask", "x", "y", "--step", "last"], ["--step", "'last'", "'final'"]),
        (["spectrum", "nowhere"], ["nowhere", "adapter_model.safetensors"]),
        (["spectrum", ".", "--figure", "x.gif"], [".svg, .png, .pdf"]),
        (["world", "show", "micro-99"], ["base micro-99 is not on this machine yet", "narrowly world build --seed 99"]),
        (["world", "build", "--seed", "0", "--set", "trainin.steps=1"], ["'training.steps'"]),
        (["world", "build", "--seed", "0", "--set", "topics=x"], ["topics", "'x'", "an integer"]),
        (["plan", "smoke", "--cell", "adam-micro-0-sed0"], ["did you mean 'adam-micro-0-seed0'"]),
        (["plan", "smoke", "--cell", "nope"], ["unknown cell 'nope'", "the first is 'adam-micro-0-seed0'", "--cells"]),
        (["plan", "."], [". is a folder without study.yaml or study.json"]),
        (["train", "."], [". is a folder without spec.yaml or spec.json"]),
        (["status", "--runs", "a", "--out", "b"], ["--runs a and --out b", "give one"]),
        (["run", "smoke", "--out=b", "--runs", "a"], ["--runs a and --out b"]),
        (["plan", "smoke", "--runs=a", "--out=b"], ["--runs a and --out b"]),
        (["train", "x.yaml", "--runs", "a", "--out", "b"], ["--runs a and --out b"]),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("narrowly: ")
    for word in words:
        assert word in printed.err
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(("name", "file"), [("plan", "study.yaml"), ("run", "study.yaml"), ("train", "spec.json")])
def test_the_folder_of_a_study_or_run_in_place_of_its_file_names_the_file(
    name: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).write_text("{}")
    assert execute([name, str(tmp_path), "--runs", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"did you mean its {'run spec' if name == 'train' else 'study'} file {tmp_path / file}?")
    assert not (tmp_path / "out").exists()


def test_both_words_for_the_folder_of_runs_may_name_the_same_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["status", "--runs", str(tmp_path), f"--out={tmp_path}/"]) == 0
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: x\narms: {a: {set: {optimiser: {kind: adam, lr: 1}}}}\nrun: {steps: many}\n",
            ["run.steps", "'many'", "an integer"],
        ),
        ("name: x\nname: y\n", ["line 2", "given twice"]),
        ("name: x\narms: [\n", ["not valid YAML"]),
        ("- 1\n", ["a list"]),
        ("name: x\narms: {a: {role: penalty, of: b, set: {}}}\n", ["unknown arm 'b'"]),
    ],
)
def test_a_bad_study_file_is_one_line_and_exit_code_2(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    for name in ("plan", "run"):
        assert execute([name, str(file), "--out", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1, printed.err
        for word in words:
            assert word in printed.err
    assert not (tmp_path / "out").exists()


def test_a_run_spec_file_is_checked_like_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    for text, word in (
        ("optimiser: {kind: adam, lr: fast}\n", "optimiser.lr: found 'fast'"),
        ("optimiser: {kind: adam, lr: 1, momentum: 1}\n", "optimiser.momentum: unknown field"),
        (
            "optimiser: {kind: adam, lr: 1}\ndata: {source: rows, path: a, bad_rows: drop}\n",
            "data.bad_rows: unknown field of this kind, another has it (accepted: path, sha256, source)",
        ),
        ("optimiser: {kind: adam, lr: 1}\nstep: 3\n", "did you mean 'steps'"),
        ("{}\n", "optimiser: missing"),
    ):
        file.write_text(text)
        assert execute(["train", str(file)]) == 2
        assert word in capsys.readouterr().err
    file.write_text("optimiser: {kind: adam, lr: 1}\n")
    assert execute(["train", str(file), "--set", "optimiser.rl=3"]) == 2
    assert "did you mean 'optimiser.lr'" in capsys.readouterr().err


def test_the_traceback_is_shown_only_with_debug() -> None:
    plain = narrowly("plan", "mirco")
    assert (plain.returncode, "Traceback" in plain.stderr) == (2, False)
    debug = narrowly("plan", "mirco", "--debug")
    assert (debug.returncode, "Traceback" in debug.stderr) == (2, True)


@pytest.mark.parametrize("name", [*COMMANDS, "world build", "world show", "world sample"])
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*name.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Examples:" in printed
    assert f"narrowly {name}" in printed


@pytest.mark.parametrize("command", app.registered_commands, ids=COMMANDS)
def test_commands_in_a_help_stand_on_lines_of_their_own(
    command: typer.models.CommandInfo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert execute([command.name or "", "--help"]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    written = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]
    assert written and [line for line in written if line not in printed] == []


def test_help_plan_status_and_schema_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from narrowly.cli.app import execute\n"
        f"out = ['--out', {str(tmp_path)!r}]\n"
        "lines = [['--help'], ['plan', 'micro', *out], ['status', *out], ['studies', '--schema'], ['--version']]\n"
        "codes = [execute(line) for line in lines]\n"
        "heavy = {'torch', 'transformers', 'polars', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert codes == [0] * 5, codes\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_the_package_costs_nothing_and_offers_load_study() -> None:
    code = (
        "import sys, narrowly\n"
        "assert not {'torch', 'pydantic', 'polars', 'rich'} & set(sys.modules)\n"
        "assert narrowly.load_study.__name__ == 'load_study'\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_extra_names_the_command_that_adds_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_extra("lab", "running a study")
    listed = [(None, "pydantic"), ("lab", "pydantic"), ("lab", "not-here-at-all")]
    monkeypatch.setattr("narrowly.records.install._listed", lambda: listed)
    with pytest.raises(MissingExtraError) as refused:
        need_extra("lab", "running a study")
    assert str(refused.value) == f"running a study needs not-here-at-all; add them with: {install_hint('lab')}"
    monkeypatch.setattr("narrowly.cli.runs.run.need_extra", lambda *_: __import__("not_here_at_all"))
    assert execute(["run", "micro"]) == 2
    printed = capsys.readouterr().err
    assert printed == f"narrowly: this command needs not_here_at_all; add it with: {install_hint('lab')}\n"


def raising(error: BaseException) -> None:
    raise error


def planted(*_: object, **__: object) -> None:
    raise KeyError("a column \x1b[31mthat nobody wrote")


def test_a_bug_of_ours_shows_its_traceback_and_says_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("narrowly.study.preview.preview", planted)
    assert execute(["plan", "micro", "--out", str(tmp_path)]) == BUG
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert BUG == 70 and lines[0] == "Traceback (most recent call last):"
    assert any(line.endswith("in planted") for line in lines)
    assert lines[-2].startswith("KeyError: ")
    assert "this is a bug in narrowly, not a mistake of yours; please report it" in lines[-1]
    assert "\x1b" not in printed.err
    assert printed.out == ""


def test_a_fault_that_only_pydantic_has_put_into_words_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("narrowly.cli.runs.run.need_extra", lambda *_: TypeAdapter(int).validate_python("x"))
    assert execute(["run", "micro"]) == BUG
    assert "this is a bug" in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_is_a_bug_and_no_missing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("narrowly.study.no_such_room", "torch.no_such_part", "no_requirement_of_ours"):
        monkeypatch.setattr("narrowly.cli.runs.run.need_extra", lambda *_, name=module: import_module(name))
        assert execute(["run", "micro"]) == BUG
        assert "this is a bug" in capsys.readouterr().err


def test_a_mistake_of_a_user_is_never_called_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for mistake, code in (
        (SpecError("a wrong value"), 2),
        (FileNotFoundError(2, "No such file or directory", "a.json"), 2),
        (KeyboardInterrupt(), 130),
        (typer.BadParameter("a wrong option"), 2),
        (typer.Abort(), 130),
    ):
        monkeypatch.setattr("narrowly.cli.runs.run.need_extra", lambda *_, mistake=mistake: raising(mistake))
        assert execute(["run", "micro"]) == code
        printed = capsys.readouterr().err
        assert len(printed.splitlines()) <= 1, printed
        assert "bug" not in printed


def test_plan_prints_json_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["plan", "smoke", "--json", "--out", str(tmp_path / "out")]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["cells"]) == 4
    assert plan["measured"] is False
    assert {cell["status"] for cell in plan["cells"]} == {"pending"}
    assert not (tmp_path / "out").exists()


def test_the_printed_study_file_is_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["studies", "smoke"]) == 0
    file = tmp_path / "copy.yaml"
    file.write_text(capsys.readouterr().out)
    assert execute(["plan", str(file)]) == 0


def test_text_from_models_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31mred\x1b[0m\x07 \u202eevil\u200b \x9b2J [bold]markup[/bold]\nnext line"
    shown = safe(hostile)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\u200b]", shown)
    assert "[bold]markup[/bold]" in shown
    assert "more characters" in safe("x" * 10_000)
    terminal.console().print(table(("answer",), [(hostile,)]))
    terminal.say(hostile)  # a base's name in `ask`, for instance, comes from a file
    terminal.complain(hostile)
    captured = capsys.readouterr()
    printed = captured.out
    assert "\x1b" not in printed + captured.err
    assert "[bold]markup[/bold]" in printed


def test_durations_read_like_a_clock() -> None:
    assert [duration(value) for value in (0.4, 59.6, 200, 7500)] == ["0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m narrowly.cli.app studies --schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("words", "said"), [("", "stopped"), ("stopped with 3 of 4", "stopped with 3 of 4")])
def test_ctrl_c_in_any_command_is_one_line(
    words: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt(*([words] if words else []))

    monkeypatch.setattr("narrowly.models.fetched.get_base", stopped)
    assert execute(["base", "get", "smollm2-135m"]) == 130
    assert capsys.readouterr() == ("", f"narrowly: {said}\n")


def test_ctrl_c_says_how_far_the_study_is_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrowly.study.run import StudyObserver

    def interrupted(*_: object, observer: StudyObserver, **__: object) -> None:
        observer.planned(72, 12, 100.0, 2)
        observer.finished("adam-micro-0-seed0", None, 3.0)
        raise StoppedByCtrlC(signal.SIGINT)

    monkeypatch.setattr("narrowly.study.run.run_study", interrupted)
    assert execute(["run", "micro", "--out", str(tmp_path)]) == 130
    printed = capsys.readouterr().err
    assert "stopped; 13 of 72 cells are done; the same command goes on from there" in printed
    assert "Traceback" not in printed


def test_failed_cells_are_listed_and_give_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrowly.cli.runs.report import MadeReport
    from narrowly.study.run import Failure, StudyRun

    result = StudyRun(tmp_path, 3, 2, 2, (Failure("adam-micro-0-seed0", "the loss \x1b[31mis [b]nan[/b]"),), 1.0)
    monkeypatch.setattr("narrowly.study.run.run_study", lambda *_, **__: result)
    monkeypatch.setattr("narrowly.cli.runs.report.made_report", lambda folder: MadeReport(folder / "report.html", True))
    assert execute(["run", "micro", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 cells done" in printed
    assert "FAILED adam-micro-0-seed0" in printed
    assert "[b]nan[/b]" in printed
    assert "\x1b" not in printed
    assert execute(["run", "micro", "--out", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["planned"], found["done"], found["report_current"]) == (3, 2, True)
    assert found["failed"][0]["cell_id"] == "adam-micro-0-seed0"
