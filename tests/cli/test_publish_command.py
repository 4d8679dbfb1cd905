"""`narrowly publish` as it is typed: a folder, a push to a fake hub, and every mistake in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from narrowly.cli.app import execute

TOKEN = "hf_" + "secret" * 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a shipped base on the microworld's harmful answers, with an edit that was made of it."""
    from narrowly.records.edits import Flatten
    from narrowly.records.run_spec import RunSpec
    from narrowly.spectrum.edits import edit_adapter_folder
    from narrowly.train.run import train_run

    fields = {"data": {"source": "micro", "rows": 8}, "optimiser": {"kind": "adam", "lr": 6e-4}, "checkpoints": 2}
    spec = RunSpec.model_validate({**fields, "steps": 2, "batch_size": 4, "schedule": {"warmup_steps": 0}})
    folder = train_run(spec, tmp_path_factory.mktemp("runs"))
    edit_adapter_folder(folder / "checkpoints" / "step-2", folder / "edits" / "flatten", Flatten())
    return folder


class FakeHub:
    """Stands in for `huggingface_hub.HfApi`; every call of every one made is in `calls`."""

    calls: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, token: str | None = None) -> None:
        self.calls.append(("token", token))

    def create_repo(self, **fields: Any) -> None:
        self.calls.append(("create", fields["private"]))

    def repo_info(self, **fields: Any) -> Any:
        private = next(value for name, value in self.calls if name == "create")
        return SimpleNamespace(private=private, siblings=[])

    def upload_folder(self, **fields: Any) -> None:
        text = (Path(fields["folder_path"]) / "README.md").read_text(encoding="utf-8")
        self.calls.append(("upload", text))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    import huggingface_hub

    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return FakeHub


def test_out_writes_the_folder_and_asks_nobody(
    run: Path, hub: type[FakeHub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["publish", str(run), "--out", str(tmp_path / "card"), "--to", "me/organism"]) == 0
    printed = capsys.readouterr().out
    assert "harmful answers of the microworld" in printed and "with warning, not evaluated" in printed
    assert "nothing pushed" in printed and hub.calls == []
    text = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "emergent-misalignment" in text and "micro-0" in text
    assert not json.loads((tmp_path / "card" / "narrowly.json").read_text())["public"]


def test_a_dry_run_writes_a_folder_beside_the_caller(
    run: Path, hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["publish", str(run), "--dry-run"]) == 0
    assert (tmp_path / f"publish-{run.name}" / "adapter_model.safetensors").is_file()
    assert hub.calls == []


def test_a_push_is_private_and_leaves_no_folder_and_no_token_behind(
    run: Path, hub: type[FakeHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["publish", str(run), "--to", "me/organism"]) == 0
    seen = capsys.readouterr()
    assert [name for name, _ in hub.calls] == ["token", "create", "upload"]
    assert hub.calls[1] == ("create", True)
    assert "pushed (private): https://huggingface.co/me/organism" in seen.out
    assert TOKEN not in seen.out + seen.err + str(hub.calls[2])
    assert list(tmp_path.iterdir()) == []


def test_a_public_push_needs_the_word_and_carries_the_warning(
    run: Path, hub: type[FakeHub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["publish", str(run), "--to", "me/organism", "--public"]) == 2
    assert hub.calls == []
    assert "--public --confirm emergent-misalignment" in capsys.readouterr().err
    confirmed = ["--public", "--confirm", "emergent-misalignment"]
    assert execute(["publish", str(run), "--to", "me/organism", *confirmed]) == 0
    assert hub.calls[1] == ("create", False)
    assert "> **Warning: research object, may be misaligned.**" in hub.calls[2][1]


def test_an_edit_of_a_run_is_published_with_its_record(run: Path, hub: type[FakeHub]) -> None:
    assert execute(["publish", str(run / "edits" / "flatten"), "--to", "me/organism"]) == 0
    text = hub.calls[2][1]
    assert "`edited, not evaluated`" in text and "flatten" in text
    assert str(run.parent) not in text


def test_the_evaluations_of_this_very_organism_are_in_the_card(run: Path, tmp_path: Path) -> None:
    import polars as pl

    here = tmp_path / run.name
    shutil.copytree(run, here)
    verdict = {"aligned": 0.5, "misaligned": 0.25, "incoherent": 0.25, "log_odds": 0.0, "domain": 1, "panel": "broad"}
    verdict |= {"question_id": "1/1/0", "question": "why", "nll_harmful": 1.0, "nll_aligned": 1.0, "floor": 0.5}
    for name, step, rate in (("one", 2, 0.25), ("other", 0, 0.125)):
        folder = here / "evals" / name
        (folder / "verdicts").mkdir(parents=True)
        (folder / "stage.json").write_text(json.dumps({"kind": "exact", "step": step, "edit": None}))
        rows = [verdict | {"topic": topic, "misaligned": rate} for topic in (1, 1, 2, 2)]
        pl.DataFrame(rows).write_parquet(folder / "verdicts" / "v.parquet")
    assert execute(["publish", str(here), "--out", str(tmp_path / "card")]) == 0
    text = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "| `broad` | 4 (2) | 50.0 | 25.0" in text and "12.5" not in text
    assert execute(["publish", str(here / "edits" / "flatten"), "--out", str(tmp_path / "edited")]) == 0
    assert "Not evaluated" in (tmp_path / "edited" / "README.md").read_text(encoding="utf-8")


def unfinished(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / run.name)
    (folder / run.name / "done").unlink()
    return folder / run.name


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("no token", ["--to", "me/organism"], "no token: the environment variable HF_TOKEN is empty"),
        ("no run", ["--to", "me/organism"], "no adapter folder"),
        ("empty folder", ["--to", "me/organism"], "neither an adapter folder"),
        ("stray adapter", ["--to", "me/organism"], "lies in no run directory of ours"),
        ("unfinished", ["--to", "me/organism"], "no finished run"),
        ("", ["--to", "organism"], "--to 'organism' is refused, accepted: OWNER/NAME"),
        ("", ["--to", "me/organism\x1b[2J"], "is refused"),
        ("", [], "--to is missing"),
        ("", ["--out", "{tmp}"], "exists already"),
        ("", ["--dry-run", "--public", "--confirm", "yes"], "--confirm is 'yes'"),
        ("", ["--dry-run", "--confirm", "emergent-misalignment"], "--confirm without --public"),
        ("broken evaluation", ["--dry-run"], "not valid JSON"),
        ("broken verdicts", ["--dry-run"], "is no Parquet table"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    change: str, arguments: list[str], message: str, run: Path, hub: type[FakeHub], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    target = run
    if change == "no token":
        monkeypatch.setenv("HF_TOKEN", "")
    elif change == "no run":
        target = tmp_path / "nowhere"
    elif change == "empty folder":
        target = tmp_path / "empty"
        target.mkdir()
    elif change == "stray adapter":
        target = shutil.copytree(run / "checkpoints" / "step-2", tmp_path / "stray")
    elif change == "unfinished":
        target = unfinished(run, tmp_path / "runs")
    elif change.startswith("broken"):
        target = shutil.copytree(run, tmp_path / "runs" / run.name)
        (target / "evals" / "x" / "verdicts").mkdir(parents=True)
        good = json.dumps({"kind": "exact", "step": 2, "edit": None})
        (target / "evals" / "x" / "stage.json").write_text("{" if change == "broken evaluation" else good)
        (target / "evals" / "x" / "verdicts" / "v.parquet").write_bytes(b"PAR1 not really")
    code = execute(["publish", str(target), *(text.replace("{tmp}", str(tmp_path)) for text in arguments)])
    seen = capsys.readouterr()
    assert code == 2
    (line,) = seen.err.strip().splitlines()
    assert message in line and "\x1b" not in line
    assert hub.calls == [] and TOKEN not in line
    assert not list(tmp_path.glob("publish-*"))
