"""A finished study answers at once: no worker is started and no current report is made again; any change is seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import fake_cells
from fake_cells import TASKS, executions, study
from narrowly.cli.app import execute
from narrowly.cli.runs.report import made_report, say_made
from narrowly.records import made
from narrowly.records.made import is_current, write_made
from narrowly.records.study_spec import StudySpec
from narrowly.study import current
from narrowly.study import run as study_run
from narrowly.study.current import current_report, record_report, report_origin
from narrowly.study.layout import PLAN_FILE, read_plan, write_plan
from narrowly.study.plan import expand
from narrowly.study.run import run_study, study_text


class StartedError(Exception):
    """A worker would have been started."""


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call no pool of workers can be made."""

    def refuse(*_: object) -> None:
        raise StartedError

    return lambda: monkeypatch.setattr(study_run, "LocalExecutor", refuse)


def of_own_base(base: Path, rows: Path | None = None) -> StudySpec:
    data = {} if rows is None else {"data": {"source": "rows", "path": str(rows)}}
    return study(2).model_copy(update={"run": {"base": str(base), **data}})


def test_a_second_run_starts_no_worker_and_finds_the_same(tmp_path: Path, no_worker: Callable[[], None]) -> None:
    first = run_study(study(3), tmp_path, workers=1, tasks=TASKS)
    no_worker()
    second = run_study(study(3), tmp_path, workers=1, tasks=TASKS)
    assert second._replace(executed=3, seconds=0.0) == first._replace(seconds=0.0)
    renamed = study(3).model_copy(update={"title": "The same cells under another title"})
    run_study(renamed, tmp_path, workers=1, tasks=TASKS)
    assert (tmp_path / "fake" / "study.yaml").read_text() == study_text(renamed)


def test_a_cell_that_lost_a_file_and_a_cell_that_failed_are_done_again(tmp_path: Path) -> None:
    cells = study(2, bad=fake_cells.FAILS)
    assert len(run_study(cells, tmp_path, workers=1, tasks=TASKS).failed) == 2
    (tmp_path / "runs" / ".healed").touch()
    assert run_study(cells, tmp_path, workers=1, tasks=TASKS).executed == 2
    cell = read_plan(tmp_path / "fake")[0]
    cell.stages[-1].file(tmp_path / "runs" / cell.run_id).unlink()
    assert run_study(cells, tmp_path, workers=1, tasks=TASKS).executed == 1
    assert executions(tmp_path)[cell.cell_id] == 2


@pytest.mark.parametrize(
    "changed", ["weights", "a new file", "a file below", "the rows", "a cell", "the code", "the plan", "record"]
)
def test_anything_that_a_run_id_follows_from_is_looked_at_by_a_worker_again(
    changed: str,
    tiny: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_worker: Callable[[], None],
) -> None:
    base, rows = tmp_path / "base", tmp_path / "rows.jsonl"
    shutil.copytree(tiny[0], base)
    (base / "additional_chat_templates").mkdir()
    shutil.copy(tiny[1], rows)
    cells, out = of_own_base(base, rows), tmp_path / "out"
    run_study(cells, out, workers=1, tasks=TASKS)
    no_worker()
    run_study(cells, out, workers=1, tasks=TASKS)
    match changed:
        case "weights":
            file = base / "model.safetensors"
            whole = file.read_bytes()
            file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        case "a new file":
            (base / "chat_template.jinja").write_text("{{ messages }}")
        case "a file below":
            (base / "additional_chat_templates" / "default.jinja").write_text("{{ messages }}")
        case "the rows":
            rows.write_text(rows.read_text() + rows.read_text().splitlines()[0] + "\n")
        case "a cell":
            cells = cells.model_copy(update={"samples": 1})
        case "the code":
            monkeypatch.setattr(current, "code_version", lambda: "another")
        case "the plan":
            plan = out / "fake" / PLAN_FILE
            plan.write_text(plan.read_text().replace('"samples":0', '"samples":7', 1))
        case "record":
            (out / "fake" / current.PLAN_MADE).write_text("{")
    with pytest.raises(StartedError):
        run_study(cells, out, workers=1, tasks=TASKS)


def report_of(out: Path) -> Path:
    """Lay out a study with one finished run and files that stand for its report."""
    planned = [fake_cells.planned_cell(cell) for cell in expand(study(1))]
    folder = out / "fake"
    for place in ("tables/cells.parquet", "figures/loss.svg", "summary.json", "report.html", "study.yaml"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(place)
    write_plan(folder, planned)
    fake_cells.work(planned[0], out / "runs")
    record_report(folder, report_origin(folder, out / "runs"))
    return folder


@pytest.mark.parametrize(
    "file",
    [
        "fake/tables/cells.parquet",
        "fake/figures/loss.svg",
        "fake/report.html",
        "fake/summary.json",
        "fake/study.yaml",
        "runs/RUN/spec.json",
        "runs/RUN/done",
    ],
)
@pytest.mark.parametrize("deleted", [True, False])
def test_a_report_is_stale_once_a_file_of_it_or_of_its_runs_is_edited_or_gone(
    file: str, deleted: bool, tmp_path: Path
) -> None:
    folder, runs = report_of(tmp_path), tmp_path / "runs"
    assert current_report(folder, runs) == folder / "report.html"
    path = tmp_path / file.replace("RUN", read_plan(folder)[0].run_id)
    if deleted:
        path.unlink()
    else:
        path.write_bytes(bytes(reversed(path.read_bytes())))
    assert current_report(folder, runs) is None


def test_a_report_is_stale_once_a_file_comes_to_a_run_a_failure_to_the_study_or_the_code_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = report_of(tmp_path), tmp_path / "runs"
    (folder / "failed").mkdir()
    for more in (runs / read_plan(folder)[0].run_id / "evals" / "more.parquet", folder / "failed" / "cell.json"):
        more.write_text("{}")
        assert current_report(folder, runs) is None
        more.unlink()
    assert current_report(folder, runs) is not None
    monkeypatch.setattr(current, "code_version", lambda: "another")
    assert current_report(folder, runs) is None


def test_a_report_that_is_current_is_said_to_be_and_imports_nothing_that_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = report_of(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "narrowly.report.write", None)  # importing it now fails
    say_made(made_report(folder))
    assert "nothing has changed since it was made" in capsys.readouterr().out
    (folder / "report.html").unlink()
    with pytest.raises(ImportError):
        say_made(made_report(folder))


def test_report_as_json_says_whether_it_was_current_and_names_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = report_of(tmp_path), []
    monkeypatch.setattr("narrowly.report.write.report_study", lambda study_dir, on_part: study_dir / "report.html")
    for _ in range(2):
        assert execute(["report", str(folder), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
        (folder / "summary.json").write_text("another")
    names = ("figures/loss.svg", "report.html", "summary.json", "tables/cells.parquet", "report.made.json")
    for found, current_ in zip(said, (True, False), strict=True):
        assert found == {
            "report": str(folder / "report.html"), "current": current_, "files": [str(folder / name) for name in names]
        }  # fmt: skip


def test_the_code_version_sees_templates_and_libraries_and_no_compiled_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "PACKAGE_FOLDER", tmp_path)
    fresh = made.code_version.__wrapped__
    (tmp_path / "page.html.j2").write_text("old")
    before = fresh()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "page.pyc").write_text("compiled")
    assert fresh() == before
    monkeypatch.setattr(made, "installed_version", lambda name: "0")
    assert fresh() != before
    monkeypatch.undo()
    monkeypatch.setattr(made, "PACKAGE_FOLDER", tmp_path)
    (tmp_path / "page.html.j2").write_text("new")
    assert fresh() != before


def test_a_record_of_nothing_or_of_something_else_makes_nothing_current(tmp_path: Path) -> None:
    record, file = tmp_path / "x.made.json", tmp_path / "x"
    file.write_text("x")
    assert not is_current(record, "a")
    write_made(record, "a", [file])
    assert is_current(record, "a")
    assert not is_current(record, "b")
    for broken in ("[]", '{"made_from": "a"}', '{"made_from": "a", "sha256": {}}', "\xff"):
        record.write_text(broken, encoding="latin-1")
        assert not is_current(record, "a")
