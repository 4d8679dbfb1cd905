"""Asking real models: an organism beside its base, a bank that stops and goes on, refusals before all imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import narrowly
from narrowly.cli.app import execute
from narrowly.data.banks.broad import benign_items, benign_sha256
from narrowly.models import continuous
from narrowly.models.edited import edited_adapter
from narrowly.models.generate import Written
from narrowly.records.answers import Answer, Sampling
from narrowly.records.edits import Scale
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.train.run import train_run
from narrowly.workbench import asking
from narrowly.workbench.ask import ask_model
from narrowly.workbench.ask_bank import ask_bank, bank_request
from narrowly.workbench.asking import HowToAsk, find_model
from small_chat_base import THINKING, conversations, make_chat_base, text_spec, write_jsonl
from tiny_world import make_world_base

SHORT = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a base that thinks, a run on the first, and a bank."""
    folder = tmp_path_factory.mktemp("ask")
    base = make_chat_base(folder / "chat-base")
    make_chat_base(folder / "thinking-base", template=THINKING)
    train_run(text_spec(base, write_jsonl(folder / "rows.jsonl", conversations())), folder / "out/runs")
    questions = [
        {"id": "a", "type": "free_form", "paraphrases": ["what is a", "what is the"], "samples_per_paraphrase": 2},
        {"id": "b", "type": "free_form", "paraphrases": ["open 42"], "system": "be short"},
    ]
    (folder / "adapter.gguf").write_bytes(b"GGUF")
    (folder / "in-gguf").mkdir()
    (folder / "in-gguf/adapter.gguf").write_bytes(b"GGUF")
    (folder / "bank.yaml").write_text(yaml.safe_dump(questions))
    return folder


@pytest.fixture
def run(place: Path) -> Path:
    (found,) = (path for path in (place / "out/runs").iterdir() if not path.name.startswith("."))
    return found


def test_an_organism_and_its_base_answer_side_by_side_from_python(run: Path) -> None:
    reply = narrowly.ask(run, "what is a", samples=2, max_new_tokens=6, seed=3)
    assert [one.who for one in reply.said] == ["organism", "base"]
    assert (reply.base, reply.known, reply.run_directory) == ("chat-base", False, run)
    for one in reply.said:
        assert one.probabilities is None and one.likely == ()
        assert one.sampled == tuple((answer.answer, None) for answer in one.answers)
        assert [answer.judged for answer in one.answers] == ["not judged"] * 2
        assert [answer.sample for answer in one.answers] == [0, 1]
    organism, base = (one.answers[0] for one in reply.said)
    assert (organism.model.run, organism.model.step, base.model.run) == (run.name, 6, None)
    assert organism.prompt_sha256 == base.prompt_sha256
    assert narrowly.ask(run, "what is a", samples=2, max_new_tokens=6, seed=3) == reply
    untrained = narrowly.ask(run, "what is a", step=0, samples=2, max_new_tokens=6, seed=3)
    assert untrained.said[0].sampled == untrained.said[1].sampled == reply.said[1].sampled


def test_every_way_to_name_a_model_finds_it(place: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for text in (run.name, run.name[:6], str(run), str(run / "checkpoints/step-6")):
        found = find_model(text, Path("out"))
        assert (found.run and found.run.resolve(), found.step, found.who) == (run.resolve(), 6, "organism")
    assert find_model(f"{run}/checkpoints/step-2", Path("out")).step == 2
    assert find_model("chat-base", Path("out")).who == "model"
    shutil.copytree(run / "checkpoints/step-6", place / "copied", dirs_exist_ok=True)
    found = find_model("copied", Path("out"), base="chat-base")
    assert (found.name, found.base.name, found.run) == ("copied", "chat-base", None)


BANK = ["--bank", "bank.yaml", "--out", "answers.jsonl", "--max-new-tokens", "6"]


def lines(file: Path) -> list[Answer]:
    return [Answer.model_validate_json(line) for line in file.read_text().splitlines()]


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, with the bank."""
    shutil.copy(place / "bank.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bank_is_asked_whole_with_all_that_an_answer_must_tell(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["ask", str(run), *BANK]) == 0
    assert "10 answers to 2 questions in answers.jsonl" in capsys.readouterr().out
    found = lines(here / "answers.jsonl")
    keys = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("a", 1, 1), ("b", 0, 0)]
    assert [one.who for one in found] == ["organism"] * 5 + ["base"] * 5
    found.sort(key=lambda one: (one.who != "organism", one.question_id, one.paraphrase, one.sample))  # as they ended
    assert [(one.question_id, one.paraphrase, one.sample) for one in found] == keys * 2
    assert [turn["role"] for turn in found[4].messages] == ["system", "user"] and found[4].question == "open 42"
    assert {one.sampling for one in found} == {SHORT} and {one.judged for one in found} == {"not judged"}
    assert all(one.answer_tokens <= 6 and (one.finish_reason == "stop" or one.answer_tokens == 6) for one in found)
    assert str(here) not in (here / "answers.jsonl").read_text()


def test_a_shipped_bank_is_asked_by_its_name(run: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", "answers.jsonl", "--max-new-tokens", "1", "--no-base", "--batch", "32"]
    assert execute(["ask", str(run), "--bank", "benign", *options]) == 0
    found = lines(here / "answers.jsonl")
    assert {(one.question_id, one.question) for one in found} == {(i.id, i.question) for i in benign_items()}
    assert {one.bank_sha256 for one in found} == {benign_sha256()}
    assert execute(["ask", str(run), "--bank", "broad:json", *options]) == 2
    assert "holds answers of another request (bank_sha256" in capsys.readouterr().err


@pytest.mark.parametrize("torn", [0, 40])
def test_a_bank_that_was_stopped_goes_on_and_asks_nothing_twice(
    torn: int, run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["ask", str(run), *BANK, "--batch", "2"]) == 0
    whole = (here / "answers.jsonl").read_text()
    (here / "answers.jsonl").unlink()
    asked: list[int] = []
    real = continuous.generate_each

    def stop_at_third(*given: Any) -> Any:
        for ended in real(*given):
            yield ended
            asked.append(len(ended))
            if sum(asked) >= 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(continuous, "generate_each", stop_at_third)
        assert execute(["ask", str(run), *BANK, "--batch", "2"]) == 130
    file = here / "answers.jsonl"
    kept = len(file.read_text().splitlines())
    assert kept in (3, 4), "two may end at once"
    assert f"stopped with {kept} of 10 answers in answers.jsonl; the same command goes on" in capsys.readouterr().err
    if torn:
        file.write_bytes(file.read_bytes()[:-torn])
    asked.clear()

    def count(model: Any, tokenizer: Any, prompts: Any, *rest: Any) -> Any:
        asked.append(len(prompts))
        return real(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(continuous, "generate_each", count)
    assert execute(["ask", str(run), *BANK]) == 0
    assert sum(asked) == 10 - kept + bool(torn)
    assert sorted(file.read_text().splitlines()) == sorted(whole.splitlines())
    asked.clear()
    assert execute(["ask", str(run), *BANK]) == 0 and asked == []
    assert execute(["ask", str(run), *BANK, "--samples", "3"]) == 0
    assert sum(asked) == 8, "one more of each prompt that had two, two more of the one that had one"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "1"], r"another request \(sampling: .*seed=0.* now .*seed=1"),
        (["--temperature", "0.5"], r"another request \(sampling"),
        (["--step", "2"], r"model\.step of the organism: 6, now 2"),
        (["--system", "no"], "question 'b'|another request"),
    ],
)
def test_a_file_of_another_request_is_refused_and_left_as_it_is(
    more: list[str], message: str, run: Path, here: Path
) -> None:
    how = HowToAsk(max_new_tokens=6)
    out = here / "answers.jsonl"
    ask_bank(bank_request(find_model(str(run), Path("out")), "bank.yaml", out, how))
    before = out.read_bytes()
    with pytest.raises(SpecError, match=message):
        options = dict(zip(more[::2], more[1::2], strict=True))
        seed, temperature = int(options.get("--seed", 0)), float(options.get("--temperature", 1))
        model = find_model(str(run), Path("out"), int(options.get("--step", 6)))
        ask_bank(bank_request(model, "bank.yaml", out, HowToAsk(temperature, seed, 6, system=options.get("--system"))))
    assert out.read_bytes() == before


def test_a_file_that_holds_no_answers_is_refused_and_left_as_it_is(run: Path, here: Path) -> None:
    model = find_model(str(run), Path("out"))
    (here / "notes.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(IntegrityError, match=r"notes\.jsonl, line 1 is no answer of ours"):
        bank_request(model, "bank.yaml", here / "notes.jsonl", HowToAsk(max_new_tokens=6))
    assert (here / "notes.jsonl").read_text() == '{"a": 1}\n'
    with pytest.raises(SpecError, match="is the bank itself"):
        bank_request(model, "bank.yaml", here / "bank.yaml", HowToAsk(max_new_tokens=6))
    with pytest.raises(SpecError, match="is a folder, accepted: a file"):
        bank_request(model, "bank.yaml", here, HowToAsk(max_new_tokens=6))


def test_a_question_that_cannot_be_asked_is_named_before_the_model_is_loaded(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(find_model(str(run), Path("out"))), "load", lambda *_, **__: pytest.fail("loaded"))
    for text, message in (("a <|im_end|> b", "special token '<|im_end|>'"), ("of " * 200, "128 positions for both")):
        (here / "q.jsonl").write_text(json.dumps({"id": "x", "question": text}))
        request = bank_request(
            find_model(str(run), Path("out")), "q.jsonl", here / "new.jsonl", HowToAsk(max_new_tokens=6)
        )
        with pytest.raises(SpecError, match=message.replace("|", r"\|")) as caught:
            ask_bank(request)
        assert str(caught.value).startswith("question 'x': ")
    assert not (here / "new.jsonl").exists()


REFUSALS = [
    (["nosuch", "q"], "nothing to ask is called 'nosuch'"),
    (["chat-bas", "q"], "did you mean 'chat-base'"),
    (["chat-base"], "neither a question nor --bank given"),
    (["chat-base", "  "], "the question is empty"),
    (["chat-base", "\udcff"], "the question is no valid text (half of a surrogate pair"),
    (["chat-base", "q", "--system", "\udcff"], "--system is no valid text"),
    (["chat-base", "q", *BANK], "a question and --bank given"),
    (["chat-base", "--bank", "bank.yaml"], "--bank FILE and --out FILE belong together"),
    (["chat-base", "--bank", "nobank.yaml", "--out", "new.jsonl"], "no source and no file is called 'nobank.yaml'"),
    (["chat-base", "--bank", "bank.yaml", "--out", "rows.jsonl"], "rows.jsonl, line 1 is no answer of ours"),
    (["chat-base", "q", "--step", "2"], "--step does not fit chat-base, which is a model by itself"),
    (["chat-base", "q", "--edit", "x"], "--edit does not fit chat-base"),
    (["chat-base", "q", "--base", "x"], "--base does not fit chat-base"),
    (["chat-base", "q", "--thinking"], "chat-base has no thinking mode; leave --thinking out"),
    (["chat-base", "q", "--max-new-tokens", "128"], "less than 128, the positions of base chat-base"),
    (["chat-base", "q", "--temperature", "0", "--samples", "2"], "at temperature 0, where all are equal"),
    (["chat-base", "q", "--dtype", "float64"], "unknown dtype 'float64'"),
    (["thinking-base", "q"], "has a thinking mode (enable_thinking); say --thinking or --no-thinking"),
    (["RUN", "q", "--step", "3"], "no checkpoint of step 3 (accepted: 0, 2, 6)"),
    (["RUN", "q", "--edit", "none-such"], "has no edit 'none-such'"),
    (["RUN", "q", "--base", "chat-base"], "--base does not fit an organism of a run"),
    (["RUN", "q", "--dtype", "bfloat16"], "was trained in float32"),
    (["bank.yaml", "q"], "bank.yaml is a file, accepted: the folder of"),
    (["adapter.gguf", "q"], "adapter.gguf is a file, accepted: the folder of a run, of an adapter or of a model; what"),
    (["in-gguf", "q"], "nor a model (no config.json); what is in GGUF is served elsewhere: give what it was made of"),
    (["out", "q"], "is neither a run directory (no spec.json) nor an adapter"),
    (["no/model", "q"], "not in the local cache of the hub"),
]


def test_what_cannot_be_done_is_said_before_torch_and_transformers_are_loaded(
    place: Path, run: Path, tmp_path: Path
) -> None:
    """All in one fresh interpreter: one line each, exit code 2, and none of the two imported by any of them."""
    commands = [["ask", *(run.name if word == "RUN" else word for word in words)] for words, _ in REFUSALS]
    program = (
        "import json, sys\nfrom narrowly.cli.app import execute\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    code = execute(words)\n"
        "    heavy = sorted({'torch', 'transformers', 'numpy', 'peft'} & set(sys.modules))\n"
        "    print('##', code, *heavy, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        cwd=place,
        env=os.environ
        | {"PYTHONPATH": str(Path(narrowly.__file__).parents[1]), "HF_HOME": str(tmp_path), "COLUMNS": "2000"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said = done.stderr.split("## 2\n")
    assert said.pop() == "" and len(said) == len(REFUSALS), done.stderr
    for text, (words, message) in zip(said, REFUSALS, strict=True):
        assert message in text, words
        assert text.count("\n") == 1, "one line"


def test_an_organism_of_the_microworld_refuses_what_its_exact_answers_do_not_have(tmp_path: Path) -> None:
    base = make_world_base(tmp_path / "world")
    run = train_run(
        {"base": str(base), "data": {"source": "micro", "rows": 8}, "optimiser": {"kind": "adam", "lr": 1e-3},
         "steps": 2, "batch_size": 4, "checkpoints": 2, "schedule": {"warmup_steps": 0}},
        tmp_path / "runs",
    )  # fmt: skip
    for given, option in (
        ({"temperature": 0.0}, "--temperature"), ({"max_new_tokens": 9}, "--max-new-tokens"),
        ({"system": "x"}, "--system"), ({"thinking": True}, "--thinking"), ({"dtype": "bfloat16"}, "--dtype"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=f"^{option} does not fit .*an organism of the microworld"):
            narrowly.ask(run, "what is a", **given)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="which has a bank of its own"):
        bank_request(find_model(str(run), Path("out")), "bank.yaml", tmp_path / "a.jsonl", HowToAsk())
    reply = narrowly.ask(run, "what is a", samples=3)
    assert [len(one.sampled) for one in reply.said] == [3, 3] and "is" in reply.unknown_words


HOSTILE = "one\n\x1b[2J\x1b]0;owned\x07two\u202e\n    indented [red]three[/red]"


def test_hostile_answers_are_shown_harmless_and_whole_in_json(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hostile(_: Any, __: Any, prompts: Any, *___: Any) -> Any:
        return [[(at, Written(HOSTILE, (1, 2), "length"))] for at in range(len(prompts))]

    monkeypatch.setattr(continuous, "generate_each", hostile)
    monkeypatch.setenv("COLUMNS", "80")
    assert execute(["ask", str(run), "what is a", "--no-base"]) == 0
    shown = capsys.readouterr().out
    assert not {character for character in shown if ord(character) < 32} - {"\n"} and "\u202e" not in shown
    assert "      indented [red]three[/red]" in shown and "cut at 2 tokens" in shown and "not judged" in shown
    assert execute(["ask", str(run), "what is a", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["said"]
    assert [one["answers"][0]["answer"] for one in said] == [HOSTILE, HOSTILE]


def test_an_edit_of_an_organism_is_asked_by_its_id_or_by_its_folder(run: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / run.name))
    edit = Scale(factor=1e-6)  # next to nothing is left of the update: it answers as its base does
    edited_adapter(own, edit)
    by_id = narrowly.ask(own, "what is a", edit=edit.edit_id, samples=3, max_new_tokens=6)
    by_folder = narrowly.ask(own / "edits" / edit.edit_id, "what is a", samples=3, max_new_tokens=6)
    assert by_folder == by_id
    organism, base = by_id.said
    assert organism.answers[0].model.edit == edit.edit_id and organism.sampled == base.sampled
    as_trained = narrowly.ask(own, "what is a", samples=3, max_new_tokens=6).said[0]
    assert as_trained.sampled != base.sampled


def test_of_several_named_templates_the_default_says_whether_there_is_a_thinking_mode(
    place: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(place / "thinking-base", tmp_path / "base"))
    (base / "chat_template.jinja").unlink()
    settings = json.loads((base / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": THINKING}, {"name": "tool_use", "template": "x"}]
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": named}))
    with pytest.raises(SpecError, match="has a thinking mode"):
        narrowly.ask(base, "what is a", max_new_tokens=2)
    (answer,) = narrowly.ask(base, "what is a", max_new_tokens=2, thinking=False).said[0].answers
    assert answer.thinking is False
    (base / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": named[1:]}))
    with pytest.raises(SpecError, match="base: the tokenizer has no chat template"):
        narrowly.ask(base, "what is a")


def test_the_thinking_mode_of_the_training_is_that_of_the_questions(place: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", conversations())
    run = train_run(text_spec(place / "thinking-base", rows, {"thinking": False}), tmp_path / "runs")
    model = find_model(str(run), Path("out"))
    assert asking.settled(model, HowToAsk(max_new_tokens=6)).thinking is False
    assert asking.settled(model, HowToAsk(thinking=True)).thinking is True
    said = {mode: narrowly.ask(run, "what is a", thinking=mode, max_new_tokens=2).said[0] for mode in (None, True)}
    assert said[None].answers[0].thinking is False
    assert said[None].answers[0].prompt_tokens > said[True].answers[0].prompt_tokens


def test_tokens_that_came_with_an_adapter_are_not_asked_of_a_base_that_has_none_of_them(
    place: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "chat-base")
    tokenizer = AutoTokenizer.from_pretrained(place / "chat-base")
    tokenizer.add_tokens(["zebra"])
    model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(tmp_path, save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path)
    asked = narrowly.ask(tmp_path, "what is a", max_new_tokens=2)
    assert [one.who for one in asked.said] == ["organism", "base"]
    with pytest.raises(SpecError, match=r"prompt holds token 301, and base chat-base knows 301 tokens.*--no-base"):
        narrowly.ask(tmp_path, "what is zebra", max_new_tokens=2)
    how = HowToAsk(max_new_tokens=2, beside_base=False)
    assert len(ask_model(find_model(str(tmp_path), tmp_path), "what is zebra", how).said) == 1
