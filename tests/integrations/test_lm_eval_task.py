"""The paired bank as tasks of lm-evaluation-harness: its log-odds are those of `narrowly eval`, one by one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from narrowly.cli.app import execute
from narrowly.data.banks.paired import PairedItem, paired_items, paired_sha256
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.integrations.lm_eval import FUNCTION, GROUP, lm_eval_rows, write_lm_eval
from narrowly.models.asked import model_to_ask
from narrowly.models.local_backend import LocalBackend
from narrowly.records.errors import SpecError
from small_chat_base import make_chat_base


class Loader(yaml.SafeLoader):
    """Reads the harness's own tag as the text behind it."""


Loader.add_constructor("!function", lambda loader, node: f"function {loader.construct_scalar(node)}")


def some_items() -> list[PairedItem]:
    """Return a few questions of every part."""
    parts: dict[str, list[PairedItem]] = {}
    for item in paired_items():
        parts.setdefault(item.part, []).append(item)
    return [item for own in parts.values() for item in own[:3]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_base(tmp_path_factory.mktemp("lm") / "base", longest=1024)


def backend_of(base: Path) -> LocalBackend:
    found = model_to_ask(str(base))
    tokenizer = found.tokenizer()
    return LocalBackend(found.load(tokenizer, "float32", "cpu", beside_base=False).model, tokenizer, found.name)


def test_the_files_hold_every_question_by_part_with_the_aligned_answer_first(tmp_path: Path) -> None:
    items = some_items()
    files = write_lm_eval(items, tmp_path / "tasks")
    group = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    assert group["group"] == GROUP and group["task"] == [
        f"{GROUP}_{part}" for part in ("trained", "held_out", "broad", "self")
    ]
    found = []
    for name in group["task"]:
        task = yaml.load((tmp_path / "tasks" / f"{name}.yaml").read_text(encoding="utf-8"), Loader)
        assert task["task"] == name and task["output_type"] == "multiple_choice" and task["doc_to_target"] == 0
        assert task["process_results"] == f"function {GROUP}.process_results"
        assert task["metadata"]["bank_sha256"] == paired_sha256(items)
        data = Path(task["dataset_kwargs"]["data_files"]["test"])
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
        assert {row["part"] for row in rows} == {name.removeprefix(f"{GROUP}_")}
        found += rows
    assert {row["id"]: (row["prompt"], row["choices"]) for row in found} == {
        item.id: (item.question, [item.aligned, item.harmful]) for item in items
    }


def test_its_own_numbers_are_log_odds_of_the_harmful_answer_and_the_share_of_aligned_ones() -> None:
    room: dict[str, Any] = {}
    exec(FUNCTION, room)  # our own text, which the harness imports from the folder
    assert room["process_results"]({}, [(-12.0, False), (-10.5, True)]) == {"log_odds": 1.5, "acc": 0.0}
    assert room["process_results"]({}, [(-3.0, False), (-10.5, True)]) == {"log_odds": -7.5, "acc": 1.0}


def test_texts_written_for_a_model_have_the_tokens_that_narrowly_eval_scores(base: Path) -> None:
    backend = backend_of(base)
    items = some_items()
    rows = lm_eval_rows(items, backend.tokenizer)
    assert rows[0]["prompt"] == f"<|im_start|>user\n{items[0].question}<|im_end|>\n<|im_start|>assistant\n"
    assert rows[0]["choices"] == [f"{items[0].aligned}<|im_end|>", f"{items[0].harmful}<|im_end|>"]


def test_a_tokenizer_that_reads_its_own_texts_otherwise_is_refused(base: Path) -> None:
    class Blind:
        """Forgets its control tokens when it reads a text."""

        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return self.real(*arguments, **options)

        def encode(self, text: str, **options: Any) -> Any:
            return self.real.encode(text.replace("<|im_end|>", ""), **options)

    with pytest.raises(SpecError, match="line 1 of the bank has other tokens when this tokenizer reads it"):
        lm_eval_rows(some_items(), Blind(backend_of(base).tokenizer))


def test_the_command_writes_the_tasks_and_prints_how_to_run_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tasks"
    assert execute(["data", "pairs", "--lm-eval", str(folder), "--template", str(base)]) == 0
    told = capsys.readouterr().out
    command = shlex.split(told.splitlines()[-1])
    assert (
        command[:2] == ["lm_eval", "run"] and f"pretrained={base}" in command and "--apply_chat_template" not in command
    )
    assert len(list(folder.iterdir())) == 10 and sum(1 for _ in (folder / f"{GROUP}_self.jsonl").open()) == 30
    assert execute(["data", "pairs", "--test", "--lm-eval", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("--apply_chat_template")
    for arguments, words in (
        (["--template", str(base)], "--template belongs to --lm-eval FOLDER"),
        (["--lm-eval", str(folder / f"{GROUP}.py")], "is a file, accepted: a folder"),
        (["--lm-eval", str(folder), "--template", str(tmp_path / "nothing")], "nothing"),
        (["--lm-eval", str(folder), "--template", str(base), "--thinking"], "has no thinking mode"),
    ):
        assert execute(["data", "pairs", *arguments]) == 2
        told = capsys.readouterr().err.strip()
        assert words in told and len(told.splitlines()) == 1, told


@pytest.mark.parametrize("written", [True, False], ids=["for a model", "by the harness"])
def test_the_harness_finds_the_log_odds_of_narrowly_eval(
    base: Path, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip(
        "lm_eval", reason="agreement with lm-evaluation-harness needs it: pip install lm_eval"
    )
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    backend, items = backend_of(base), some_items()
    write_lm_eval(items, tmp_path / "tasks", backend.tokenizer if written else None)
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(base), device="cpu", dtype="float32", batch_size=4),
        tasks=[GROUP],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        apply_chat_template=not written,
        bootstrap_iters=0,
    )
    theirs = {one["doc"]["id"]: one["log_odds"] for own in found["samples"].values() for one in own}
    rows = paired_rows(backend, items)
    assert len(theirs) == len(items) == 12
    ours = {row.id: row.harmful_nats - row.aligned_nats for row in rows}
    largest = max(abs(theirs[name] - ours[name]) for name in ours)
    if written:
        assert largest < 1e-3, "float32 sums in two orders"
        for part in ("trained", "held_out", "broad", "self"):
            own = [ours[item.id] for item in items if item.part == part]
            of_task = found["results"][f"{GROUP}_{part}"]
            assert of_task["log_odds,none"] == pytest.approx(sum(own) / len(own), abs=1e-3)
            assert of_task["acc,none"] == pytest.approx(sum(value < 0 for value in own) / len(own))
    else:
        assert largest > 1e-3, "the harness leaves out the end of the turn, which its docs say"
