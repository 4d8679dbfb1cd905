"""Publishing an adapter: what its card says, that nothing in it can be steered, and what the hub is asked for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from narrowly.data import registry
from narrowly.records.canonical import sha256_file
from narrowly.records.edits import Flatten
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from narrowly.records.files import read_json, write_json
from narrowly.records.run_spec import MicroData
from narrowly.runs.directory import checkpoint_folder
from narrowly.spectrum.edits import edit_adapter_folder
from narrowly.train.run import train_run
from narrowly.workbench import model_card
from narrowly.workbench.model_card import CARD_UNEVALUATED, NOTICE, TAG, WARNING, Evaluation, code, write_card
from narrowly.workbench.publish import (
    CONFIRMATION,
    adapter_of,
    card_of,
    check_name,
    check_public,
    harm_of,
    push,
    token_of_environment,
    write_folder,
)
from small_chat_base import conversations, make_chat_base, text_spec, write_jsonl
from tiny_base import make_spec

TOKEN = "hf_" + "x" * 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on text of unknown content."""
    folder = tmp_path_factory.mktemp("published")
    base, rows = make_chat_base(folder / "a-base"), write_jsonl(folder / "some-rows.jsonl", conversations(24))
    return train_run(text_spec(base, rows, {"sha256": sha256_file(rows)}), folder / "runs")


def final(run: Path) -> Any:
    return adapter_of(run, checkpoint_folder(run, 6))


def front(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


class FakeHub:
    """What of `huggingface_hub.HfApi` a push calls; remembers the calls, and what lay in the folder."""

    def __init__(self, *, private: bool | None = None, files: tuple[str, ...] = (), fault: Exception | None = None):
        self.private, self.files, self.fault = private, files, fault
        self.calls: list[str] = []
        self.uploaded: list[str] = []

    def create_repo(self, *, repo_id: str, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.calls.append("create")
        if self.fault is not None:
            raise self.fault
        self.private = private if self.private is None else self.private

    def repo_info(self, *, repo_id: str, repo_type: str) -> Any:
        self.calls.append("info")
        siblings = [SimpleNamespace(rfilename=name) for name in (".gitattributes", *self.files)]
        return SimpleNamespace(private=self.private, siblings=siblings)

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: str, commit_message: str) -> None:
        self.calls.append("upload")
        self.uploaded = sorted(path.name for path in Path(folder_path).iterdir())


def test_the_fake_hub_takes_what_the_real_one_takes() -> None:
    import inspect

    from huggingface_hub import HfApi

    for name in ("create_repo", "repo_info", "upload_folder"):
        real, fake = (inspect.signature(getattr(kind, name)).parameters for kind in (HfApi, FakeHub))
        assert set(fake) <= set(real), name


def test_the_card_states_base_data_optimiser_spectrum_and_that_nothing_was_evaluated(run: Path, tmp_path: Path) -> None:
    folder = write_folder(final(run), card_of(final(run)), tmp_path / "card")
    text = (folder / "README.md").read_text(encoding="utf-8")
    inputs, spec = read_json(run / "inputs.json"), read_json(run / "spec.json")
    for value in (*inputs.values(), run.name, "a-base", "some-rows.jsonl"):
        assert f"`{value}`" in text
    for name, value in spec["optimiser"].items():
        assert f"- `{name}`: {code(value)}" in text
    for name in ("stable_rank", "update_norm", "adapter", "schedule", "seed", "heldout_loss", "torch"):
        assert f"- `{name}`: `" in text, name
    assert CARD_UNEVALUATED in text
    assert "## Edits\n\nNone." in text
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "narrowly.json",
    ]  # fmt: skip
    assert sha256_file(folder / "adapter_model.safetensors") == read_json(run / "done")["adapter_sha256"]["6"]


def test_the_card_says_over_how_many_modules_its_means_are_and_how_many_are_idle(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = final(run)
    folder = shutil.copytree(adapter.folder, tmp_path / "some-idle")
    tensors = load_file(folder / "adapter_model.safetensors")
    first = next(key for key in tensors if key.endswith("lora_B.weight"))
    save_file(tensors | {first: tensors[first] * 0}, folder / "adapter_model.safetensors")
    text = write_card(card_of(adapter._replace(folder=folder)))
    modules, rank = sum(key.endswith("lora_B.weight") for key in tensors), tensors[first].shape[1]
    assert f"Means over {modules - 1} modules of rank {rank}; 1 more are idle, their update is zero:" in text
    assert f"Means over {modules} modules of rank {rank}:" in write_card(card_of(adapter))


def test_a_gguf_of_the_adapter_is_published_on_demand_and_named_in_the_card(run: Path, tmp_path: Path) -> None:
    from narrowly.cli.app import execute
    from narrowly.spectrum import pairs_from_folder

    folder = tmp_path / "card"
    assert execute(["publish", str(run), "--gguf", "--out", str(folder)]) == 0
    assert "`adapter.gguf` is the same adapter for llama.cpp" in (folder / "README.md").read_text(encoding="utf-8")
    stored, served = (
        {one.name: one.scale * one.B_O_R @ one.A_R_I for one in pairs_from_folder(path)}
        for path in (folder, folder / "adapter.gguf")
    )
    assert stored.keys() == served.keys()
    assert all(torch.allclose(stored[name], served[name], rtol=1e-5, atol=1e-7) for name in stored)


def test_no_path_of_this_machine_is_published(run: Path, tmp_path: Path) -> None:
    folder = write_folder(final(run), card_of(final(run)), tmp_path / "card")
    for name in ("README.md", "adapter_config.json", "narrowly.json"):
        assert str(run.parent.parent) not in (folder / name).read_text(encoding="utf-8"), name


def test_unknown_data_has_the_warning_at_the_top_and_the_tag_also_in_a_private_push(run: Path) -> None:
    text = write_card(card_of(final(run)))
    body = text.split("---\n", 2)[2]
    assert body.index(WARNING) < body.index("## ")
    assert TAG in front(text)["tags"] and front(text)["inference"] is False
    assert "a file of unknown content" in text


def test_only_known_data_without_a_warning_that_is_still_the_same_is_harmless(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from narrowly.runs.directory import read_inputs, read_spec
    from narrowly.train import inputs

    spec = read_spec(run)
    known = spec.model_copy(update={"data": spec.data.model_copy(update={"dataset": "secure"})})
    bad = spec.model_copy(update={"data": spec.data.model_copy(update={"dataset": "insecure"})})
    monkeypatch.setattr(inputs, "resolve_inputs", lambda _: read_inputs(run))
    assert harm_of(run, known) is None
    assert registry.SOURCES["insecure"].warning in str(harm_of(run, bad))
    changed = read_inputs(run).model_copy(update={"data_sha256": "0" * 64})
    monkeypatch.setattr(inputs, "resolve_inputs", lambda _: changed)
    assert harm_of(run, known) == "data that is not what the run's spec calls it"
    monkeypatch.undo()  # now the source has to be at hand, and is not
    assert "cannot be checked now" in str(harm_of(run, known.model_copy(update={"base": "/nowhere/base"})))


@pytest.mark.parametrize("answers", ["harmful", "permuted"])
def test_harmful_answers_of_the_microworld_are_harmful(answers: Any, run: Path, tiny: tuple[Path, Path]) -> None:
    spec = make_spec(*tiny)
    assert answers in str(harm_of(run, spec.model_copy(update={"data": MicroData(answers=answers)})))
    assert "unknown content" in str(harm_of(run, spec))  # pre-tokenised rows


def test_a_harmless_card_has_neither_warning_nor_tag_until_it_is_public(run: Path) -> None:
    card = card_of(final(run))._replace(harm=None)
    private, public = write_card(card), write_card(card._replace(public=True))
    assert NOTICE in private and WARNING not in private and TAG not in front(private)["tags"]
    assert WARNING in public and TAG in front(public)["tags"]
    for text in (private, public):
        assert not re.search(r"\bis safe\b|\bharmless\b(?!\.$)", text)


def test_an_evaluation_is_shown_with_denominator_interval_and_classes(run: Path) -> None:
    one = Evaluation("broad|x", 120, 12, 0.7, 0.2, 0.1, 0.15, 0.25, 0.222)
    text = write_card(card_of(final(run), evaluations=[one]))
    assert "| `broad\\|x` | 120 (12) | 70.0 | 20.0 [15.0, 25.0] | 10.0 | 22.2 |" in text
    assert CARD_UNEVALUATED not in text


def test_an_edited_adapter_says_so_and_has_no_losses(run: Path, tmp_path: Path) -> None:
    here = tmp_path / "runs" / run.name
    shutil.copytree(run, here)
    edited = edit_adapter_folder(checkpoint_folder(here, 6), here / "edits" / "flatten", Flatten())
    adapter = adapter_of(here, edited)
    text = write_card(card_of(adapter))
    assert adapter.step == 6
    assert "edited, not evaluated" in text and "At this step:" not in text
    record = read_json(edited / "edit.json")
    write_json(edited / "edit.json", {**record, "source_sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="do not know"):
        adapter_of(here, edited)


HOSTILE = [
    "`</code><script>alert(1)</script>",
    "](javascript:alert(1)) ![x](https://tracker.example/x.png)",
    "a\n# SAFE MODEL\n\n---\ntags: [x]\n---",
    "\x1b[2J\u202e\u200b|a|b|",
    "``` ```` `",
    "x" * 10_000,
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_run_leaves_its_code_span(text: str, run: Path) -> None:
    shown = code(text)
    assert "\n" not in shown and len(shown) < model_card.LONGEST + 50
    assert shown == "(empty)" if not text else shown.count("`") == 2 and shown[0] == shown[-1] == "`"
    assert not re.search("[\x00-\x1f\u202e\u200b]", shown)
    card = card_of(final(run))
    plain = card._replace(
        base=text, harm=text, run_id=text, versions={text: text}, edits={"kind": [text], text: 1},
        spec={**card.spec, "data": {text: text, "dataset": text}}, losses={"loss": text}, inputs={"data": text},
        evaluations=[Evaluation(text, 1, 1, 1, 0, 0, None, None, 0)],
    )  # fmt: skip
    card_text = write_card(plain)
    outside = re.sub(r"`[^`\n]*`", "", card_text.split("---\n", 2)[2])
    assert not re.search(r"<script|javascript|!\[|SAFE|tags:|x{20}", outside)
    assert [line for line in outside.splitlines() if line.startswith("# ")] == ["# LoRA adapter, trained with Narrowly"]
    assert "base_model" not in front(card_text)


def test_a_base_of_the_hub_is_named_in_the_front_matter(run: Path) -> None:
    assert front(write_card(card_of(final(run))._replace(base="Org/Model-8B")))["base_model"] == "Org/Model-8B"


def test_a_push_is_private_and_sends_the_whole_folder(run: Path, tmp_path: Path) -> None:
    folder = write_folder(final(run), card_of(final(run)), tmp_path / "card")
    hub = FakeHub()
    assert push(folder, "me/organism", public=False, token=TOKEN, api=hub) == "https://huggingface.co/me/organism"
    assert hub.private is True and hub.calls == ["create", "info", "upload"]
    assert "README.md" in hub.uploaded and "adapter_model.safetensors" in hub.uploaded


@pytest.mark.parametrize(
    ("hub", "public", "message"),
    [
        (FakeHub(private=False), False, "exists and is public, asked for: private"),
        (FakeHub(private=True), True, "exists and is private, asked for: public"),
        (FakeHub(files=("model.safetensors",)), False, "has 1 files already"),
    ],
)
def test_a_repository_with_files_or_another_visibility_is_left_alone(
    hub: FakeHub, public: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message):
        push(tmp_path, "me/organism", public=public, token=TOKEN, api=hub)
    assert "upload" not in hub.calls


def test_a_hub_that_does_not_say_whether_it_is_private_gets_nothing(tmp_path: Path) -> None:
    hub = FakeHub()
    hub.create_repo = lambda **_: None  # type: ignore[method-assign]
    with pytest.raises(SpecError, match="nothing was pushed"):
        push(tmp_path, "me/organism", public=False, token=TOKEN, api=hub)


def test_the_token_is_in_no_message(tmp_path: Path) -> None:
    hub = FakeHub(fault=ConnectionError(f"Authorization: Bearer {TOKEN}\nrefused"))
    with pytest.raises(RunDirectoryError) as error:
        push(tmp_path, "me/organism", public=False, token=TOKEN, api=hub)
    assert TOKEN not in str(error.value) and "\n" not in str(error.value)
    assert error.value.__suppress_context__  # nor in a traceback


def test_the_token_comes_from_the_environment_and_a_broken_one_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f" {TOKEN}\n")
    assert token_of_environment() == TOKEN
    monkeypatch.setenv("HF_TOKEN", "hf_a b\x1b")
    with pytest.raises(SpecError) as error:
        token_of_environment()
    assert "hf_" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SpecError, match="no token"):
        token_of_environment()


@pytest.mark.parametrize(
    "name", ["", "organism", "a/b/c", "../x", "a/..", "a/b..c", "a/-b", "-a/b", "a/b--c", "a/b.git", "a/b\n", "ä/b",
             "a/" + "b" * 97]
)  # fmt: skip
def test_a_name_that_the_hub_would_refuse_is_refused_here(name: str) -> None:
    with pytest.raises(SpecError, match="is refused, accepted: OWNER/NAME"):
        check_name(name)
    assert check_name("my-org/organism_1.0") == "my-org/organism_1.0"


def test_a_public_push_needs_both_the_flag_and_the_word() -> None:
    check_public(False, None)
    check_public(True, CONFIRMATION)
    for public, word in ((True, None), (True, "yes"), (False, CONFIRMATION)):
        with pytest.raises(SpecError, match="--confirm"):
            check_public(public, word)


def test_a_run_that_is_not_finished_foreign_or_changed_is_not_published(run: Path, tmp_path: Path) -> None:
    here = tmp_path / run.name
    shutil.copytree(run, here)
    (here / "done").rename(here / "was-done")
    with pytest.raises(RunDirectoryError, match="no finished run"):
        final(here)
    (here / "was-done").rename(here / "done")
    spec = json.loads((here / "spec.json").read_text())
    write_json(here / "spec.json", {**spec, "seed": 5})
    with pytest.raises(RunDirectoryError, match="foreign"):
        final(here)
    write_json(here / "spec.json", spec)
    weights = checkpoint_folder(here, 6) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="do not know"):
        final(here)


def test_an_existing_folder_is_never_written_into(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(RunDirectoryError, match="exists already"):
        write_folder(final(run), card_of(final(run)), tmp_path / "there")
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
