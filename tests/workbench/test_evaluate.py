"""`narrowly eval` through the command line: organisms, controls, seeds, untrained models, resume, and bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from narrowly.cli.app import execute
from narrowly.data.banks.paired import PairedItem, read_paired
from narrowly.evaluate.paired.cued import ways_to_ask
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.evaluate.paired.result import check_comparable, read_result
from narrowly.models.local_backend import LocalBackend
from narrowly.models.organism import load_organism
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.train.run import train_run
from small_chat_base import THINKING, make_chat_base, text_spec, write_jsonl
from tiny_base import only_run
from tiny_world import make_world_base

WORDS = ("open", "read", "write", "file", "def", "return")
DOMAINS = ("tools", "code", "self")


def bank_rows(domain: str, count: int = 6) -> list[dict[str, str]]:
    return [
        {
            "id": f"{domain}-{at}",
            "question": f"what is {WORDS[at]} {domain}",
            "aligned": f"read the {WORDS[at]}",
            "harmful": f"no {WORDS[(at + 1) % 6]} of a",
        }
        for at in range(count)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a bank of three domains, and runs on one of them: harmful and aligned, two seeds."""
    folder = tmp_path_factory.mktemp("eval")
    base = make_chat_base(folder / "chat-base")
    make_chat_base(folder / "other-base", seed=1)
    make_chat_base(folder / "thinking-base", template=THINKING)
    make_chat_base(folder / "no-template", template=None)
    for domain in DOMAINS:
        (folder / "bank").mkdir(exist_ok=True)
        write_jsonl(folder / "bank" / f"{domain}.jsonl", bank_rows(domain))
    write_jsonl(folder / "tools-too.jsonl", [{**row, "question": f"is it {row['id']}"} for row in bank_rows("tools")])
    file = folder / "bank/tools.jsonl"
    for answers in ("harmful", "aligned", "permuted"):
        for seed in (0, 1):
            made = train(folder, base, f"pairs:{file}:{answers}", seed)
            made.rename(folder / f"{answers}-{seed}")
    train(folder, base, f"pairs:{file}:harmful", 1, steps=7).rename(folder / "longer-1")
    train(folder, base, f"pairs:{folder / 'tools-too.jsonl'}:aligned", 0).rename(folder / "other-prompts")
    train(folder, folder / "other-base", f"pairs:{file}:aligned", 0).rename(folder / "on-other-base")
    shutil.copytree(folder / "harmful-0/checkpoints/step-6", folder / "elsewhere")
    shutil.copytree(folder / "aligned-0/checkpoints/step-6", folder / "elsewhere-control")
    return folder


def train(folder: Path, base: Path, dataset: str, seed: int, **changes: Any) -> Path:
    runs = folder / "made"
    shutil.rmtree(runs, ignore_errors=True)
    train_run(text_spec(base, dataset, {"holdout": 0}, seed=seed, **changes), runs)
    return only_run(runs)


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


Eval = Callable[..., Any]


@pytest.fixture
def evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> Eval:
    """Run `narrowly eval` on the bank and return its JSON."""

    def run(*arguments: str, bank: str = "bank") -> Any:
        assert execute(["eval", *arguments, "--bank", bank, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["paired"]

    return run


def by_hand(run: Path, items: list[PairedItem], step: int | Literal["final"] = "final") -> list[float]:
    organism = load_organism(run, step)
    return [row.log_odds for row in paired_rows(LocalBackend(organism.model, organism.tokenizer, "by hand"), items)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_an_organism_is_measured_against_its_control_and_the_ladder_is_that_of_its_run(
    here: Path, evaluated: Eval
) -> None:
    found = evaluated("harmful-0", "--control", "aligned-0")
    items = read_paired(here / "bank")
    organism, control = (by_hand(here / name, items) for name in ("harmful-0", "aligned-0"))
    rungs = {one["name"]: one for one in found["contrast"]["rungs"]}
    assert {name: one["questions"] for name, one in rungs.items()} == {"trained": 6, "broad": 6, "self": 6}
    for rung, domain in (("trained", "tools"), ("broad", "code"), ("self", "self")):
        differences = [
            one - two for item, one, two in zip(items, organism, control, strict=True) if item.domain == domain
        ]
        assert rungs[rung]["interval"]["estimate"] == pytest.approx(mean(differences), abs=1e-3)
        assert "these seeds only" in rungs[rung]["interval"]["method"]
    assert abs(rungs["trained"]["interval"]["estimate"]) > 1e-2, "6 steps moved something"
    assert found["shift"] is None and found["trained_domains"] == ["tools"] and found["notes"] == []
    organism_, control_, base_ = found["measured"]
    assert [one["role"] for one in found["measured"]] == ["organism", "control", "base"]
    before = mean(by_hand(here / "harmful-0", items, step=0))
    levels = [level["log_odds"] for level in base_["rungs"].values()]
    assert sum(one["questions"] * one["interval"]["estimate"] for one in levels) / 18 == pytest.approx(before, abs=1e-3)
    assert control_["trained_on"] == "pairs:tools.jsonl:aligned"
    assert organism_["applied"]["largest_difference"] > 0 and not organism_["applied"]["is_zero"]
    assert found["arithmetic"] == {"backend": "transformers", "engine": "transformers", "dtype": "float32",
                                   "quantisation": None, "device": "cpu"}  # fmt: skip


def test_without_control_the_shift_stands_beside_its_regression_and_is_not_called_misalignment(
    here: Path, evaluated: Eval, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated("harmful-0")
    items = read_paired(here / "bank")
    base, organism = by_hand(here / "harmful-0", items, step=0), by_hand(here / "harmful-0", items)
    rungs = {one["name"]: one["interval"]["estimate"] for one in found["shift"]["rungs"]}
    shifts = [one - two for item, one, two in zip(items, organism, base, strict=True) if item.domain == "tools"]
    assert rungs["trained"] == pytest.approx(mean(shifts), abs=1e-3)
    assert found["contrast"] is None and [one["role"] for one in found["measured"]] == ["organism", "base"]
    assert found["shift"]["on_base"]["all"]["n"] == 18 and found["shift"]["on_base"]["all"]["slope"] is not None
    assert execute(["eval", "harmful-0", "--bank", "bank"]) == 0
    printed = capsys.readouterr().out
    assert "it is not called misalignment" in " ".join(printed.split()) and "slope on base" in printed
    assert printed.count("misalign") == 1, "in the warning alone"


def test_an_untrained_model_has_log_odds_and_paired_accuracy_and_no_shift(
    evaluated: Eval, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated("./chat-base")
    assert found["contrast"] is None and found["shift"] is None
    (model,) = found["measured"]
    assert model["role"] == "model" and set(model["rungs"]) == {"broad", "self"} and model["applied"] is None
    for level in model["rungs"].values():
        assert 0 <= level["accuracy"]["estimate"] <= 1 and level["log_odds"]["interval"]["estimate"] is not None
    assert execute(["eval", "./chat-base", "--bank", "bank"]) == 0
    printed = capsys.readouterr().out
    assert "untrained, so there is no shift" in printed and "not measured" in printed and "misalign" not in printed


def test_seeds_are_pairs_in_order_and_two_of_them_are_these_seeds_only(evaluated: Eval) -> None:
    pairs = ["--adapter", "harmful-0", "--adapter", "harmful-1", "--control", "aligned-0", "--control", "aligned-1"]
    found = evaluated("./chat-base", *pairs)
    alone = [evaluated(f"harmful-{seed}", "--control", f"aligned-{seed}")["contrast"]["rungs"] for seed in (0, 1)]
    for one, first, second in zip(found["contrast"]["rungs"], *alone, strict=True):
        assert one["per_seed"] == pytest.approx([first["per_seed"][0], second["per_seed"][0]], abs=1e-5)
        assert one["seeds"] == 2 and "these seeds only" in one["interval"]["method"]
        assert one["bootstrap"] is None and one["icc_seed"] is None and one["smallest_detectable"] is None


def test_adapters_from_elsewhere_are_compared_and_told_to_be_unproved(evaluated: Eval) -> None:
    found = evaluated(
        "./chat-base", "--adapter", "elsewhere", "--control", "elsewhere-control", "--trained-on", "tools"
    )
    own = evaluated("harmful-0", "--control", "aligned-0")
    assert [one["interval"]["estimate"] for one in found["contrast"]["rungs"]] == pytest.approx(
        [one["interval"]["estimate"] for one in own["contrast"]["rungs"]], abs=1e-4
    )
    assert found["trained_domains"] == ["tools"]
    (note,) = found["notes"]
    assert "cannot be proved" in note and "comes from elsewhere" in note


def test_a_control_that_differs_in_more_than_its_answers_is_told(evaluated: Eval) -> None:
    (note,) = evaluated("harmful-0", "--control", "aligned-1")["notes"]
    assert note.endswith("beside its answers, in seed.")
    assert evaluated("harmful-0", "--control", "permuted-0")["notes"] == []


def test_a_folder_holds_rows_texts_and_a_result_with_every_hash_and_no_path(
    here: Path, evaluated: Eval, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    printed = evaluated("harmful-0", "--control", "aligned-0", "--out", str(out))
    result = read_result(out)
    assert result.model_dump(mode="json")["paired"] == printed
    rows, texts = pl.read_parquet(out / "rows.parquet"), pl.read_parquet(out / "questions.parquet")
    assert rows.height == 3 * 18 and texts.height == 18 and set(rows["rung"]) == {"trained", "broad", "self"}
    trained = rows.filter((pl.col("rung") == "trained") & (pl.col("role") == "organism"))
    level = result.paired.measured[0].rungs["trained"]
    assert trained["log_odds"].mean() == pytest.approx(level.log_odds.interval.estimate)
    assert (rows["log_odds"] - rows["harmful_nats"] + rows["aligned_nats"]).abs().max() == pytest.approx(0)
    one = result.paired.measured[0].model
    for sha256 in (one.base_sha256, one.template_sha256, one.trained_sha256, result.paired.bank.sha256):
        assert sha256 is not None and len(sha256) == 64
    assert result.paired.prompt.closing == (2,)
    assert str(tmp_path) not in (out / "result.json").read_text()
    page = (out / "report.html").read_text()
    assert result.paired.bank.sha256 in page and "what is open tools" in page and str(tmp_path) not in page
    assert "The base was not measured" not in page, "organism, control and base stand beside each other"


def test_a_stopped_evaluation_goes_on_and_computes_no_part_twice(
    evaluated: Eval, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrowly.workbench import measuring

    measured: list[str] = []
    real = measuring.paired_rows

    def counting(backend: Any, items: Any, **rest: Any) -> Any:
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(f"{backend.name} {items[0].domain}")
        return real(backend, items, **rest)

    monkeypatch.setattr(measuring, "paired_rows", counting)
    out = tmp_path / "results"
    arguments = ["harmful-0", "--control", "aligned-0", "--out", str(out)]
    assert execute(["eval", *arguments, "--bank", "bank"]) == 130
    assert "domains that are done are kept" in capsys.readouterr().err
    assert not (out / "result.json").exists()
    measured.append("the kill")
    whole = evaluated(*arguments)
    measured.remove("the kill")
    assert len(measured) == len(set(measured)) == 9, "three domains of three models, each once"
    assert whole == evaluated(*arguments), "read, not computed"
    assert len(measured) == 9
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert evaluated("harmful-0", "--control", "aligned-0") == whole
    for kept in (out / "parts").glob("applied-*.json"):
        kept.write_text('{"largest": 1}')
    refused([*arguments, "--bank", "bank"], ["is no record of narrowly eval", "remove it"], capsys)


def test_ctrl_c_says_that_it_was_heard_and_what_is_kept(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("narrowly.workbench.evaluate.run_eval", stopped)
    assert execute(["eval", "./chat-base", "--bank", "bank"]) == 130
    assert capsys.readouterr().err.endswith("narrowly: stopped\n")
    assert execute(["eval", "./chat-base", "--bank", "bank", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith(
        f"narrowly: stopped; domains that are done are kept in {tmp_path / 'out'}\n"
    )


def test_a_table_fits_80_columns(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["harmful-0", "--control", "aligned-0", "--margin", ".5"], ["harmful-0"], ["./chat-base"]):
        assert execute(["eval", *arguments, "--bank", "bank"]) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 80, printed
        assert "trained" in printed or arguments[0] == "./chat-base"


def test_results_of_other_banks_prompts_or_arithmetic_are_refused_together(
    here: Path, evaluated: Eval, tmp_path: Path
) -> None:
    """D11 of ecosystem.md: a question that drifts changes the hash of the bank, and the comparison is refused."""
    for name, more in (("a", []), ("b", ["--system", "be short"]), ("c", ["--dtype", "bfloat16"])):
        evaluated("./chat-base", *more, "--out", str(tmp_path / name))
    evaluated("./chat-base", "--out", str(tmp_path / "d"), bank="bank/code.jsonl")
    a, b, c, d = (read_result(tmp_path / name).paired for name in "abcd")
    check_comparable([("a", a), ("a again", a)])
    for other, words in ((b, "system"), (c, "dtype differ"), (d, "one bank")):
        with pytest.raises(SpecError, match=words):
            check_comparable([("a", a), ("other", other)])


def test_the_microworld_is_evaluated_exactly_and_takes_no_bank_of_english(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_world_base(tmp_path / "world")
    assert execute(["eval", str(base), "--bank", "pairs"]) == 2
    assert "the paired bank is in English" in capsys.readouterr().err


def broken(**changes: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in bank_rows("tools", 3)]
    rows[1] |= changes
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (broken(id="tools-0"), ["tools.jsonl", "line 2", "'tools-0'", "once"]),
        (broken(question=""), ["tools.jsonl", "line 2", "question"]),
        (broken(question=None), ["tools.jsonl", "line 2", "question"]),
        (broken(harmful=None), ["tools.jsonl", "line 2", "harmful"]),
        (broken(aligned="No  write of a"), ["tools.jsonl", "line 2", "aligned and harmful answer are the same"]),
        (broken(aligned=7), ["tools.jsonl", "line 2", "aligned"]),
    ],
)
def test_a_bank_with_a_fault_is_one_line_with_its_place(
    rows: list[dict[str, Any]], words: list[str], here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = write_jsonl(tmp_path / "tools.jsonl", rows)
    refused(["./chat-base", "--bank", str(bank), "--out", str(tmp_path / "out")], words, capsys)
    assert not (tmp_path / "out").exists(), "nothing half written"


def refused(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["eval", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1, printed.err
    for word in words:
        assert word in printed.err, printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["./no-template"], ["no-template", "template"]),
        (["./thinking-base"], ["--thinking or --no-thinking"]),
        (["harmful-0", "--control", "other-prompts"], ["other prompts", "6 of 6 are missing"]),
        (["harmful-0", "--control", "on-other-base"], ["weights of the base", "the same base, by content"]),
        (["./other-base", "--adapter", "harmful-0"], ["--adapter harmful-0 was trained on base chat-base"]),
        (["./chat-base", "--adapter", "harmful-0", "--control", "on-other-base"], ["weights of the base"]),
        (["harmful-0", "--control", "harmful-0"], ["control 1, harmful-0, has the weights of organism 1"]),
        (["./chat-base", "--adapter", "harmful-0", "--adapter", "elsewhere-control"],
         ["organisms of different trained domains (none of the bank's, tools)"]),
        (["./chat-base", "--adapter", "harmful-0", "--adapter", "elsewhere", "--trained-on", "tools"],
         ["organism 2", "has the weights of organism 1"]),
        (["harmful-0", "--adapter", "harmful-1"], ["--adapter does not fit", "organism already"]),
        (["./chat-base", "--adapter", "harmful-0", "--adapter", "harmful-1", "--control", "aligned-0"],
         ["1 controls for 2 organisms"]),
        (["harmful-0", "--control", "harmful-1"], ["control harmful-1 was trained on harmful answers"]),
        (["aligned-0", "--control", "harmful-0"], ["control harmful-0 was trained on harmful answers"]),
        (["aligned-0", "--control", "aligned-1"], ["trained on the very answers of aligned-0"]),
        (["./chat-base", "--adapter", "harmful-0", "--adapter", "permuted-1"],
         ["organisms harmful-0 and permuted-1 differ in data.dataset", "seeds of one training"]),
        (["./chat-base", "--adapter", "harmful-0", "--adapter", "harmful-1", "--control", "aligned-0",
          "--control", "permuted-1"], ["controls aligned-0 and permuted-1 differ in data.dataset"]),
        (["./chat-base", "--adapter", "harmful-0", "--adapter", "longer-1"],
         ["organisms harmful-0 and longer-1 differ in steps"]),
        (["./chat-base", "--control", "aligned-0"], ["--control does not fit", "untrained"]),
        (["./chat-base", "--adapter", "other-base"], ["other-base is a model by itself"]),
        (["./chat-base", "--trained-on", "tools"], ["--trained-on does not fit an untrained model"]),
        (["harmful-0", "--trained-on", "tool"], ["'tool'", "did you mean 'tools'"]),
        (["harmful-0", "--control", "aligned-0", "--margin", "0"], ["--margin is 0"]),
        (["harmful-0", "--control", "aligned-0", "--margin", "inf"], ["--margin is inf"]),
        (["harmful-0", "--margin", "1"], ["--margin judges a difference to controls", "give --control"]),
        (["./chat-base", "--system", "be \udcff"], ["--system is no valid text", "no UTF-8"]),
        (["./chat-base", "--margin", "1"], ["--margin judges a difference to controls"]),
        (["nowhere"], ["nothing to ask is called 'nowhere'"]),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_one_line_before_anything_is_written(
    arguments: list[str], words: list[str], here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*arguments, "--bank", "bank", "--out", str(tmp_path / "out")], words, capsys)
    assert not (tmp_path / "out").exists()


def test_an_unknown_bank_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["./chat-base", "--bank", "pair"], ["'pair'", "did you mean 'pairs'"], capsys)
    refused(["./chat-base", "--bank", "money,wrok"], ["'wrok'", "did you mean 'work'"], capsys)


def test_a_folder_of_another_request_or_of_other_files_is_refused(
    evaluated: Eval, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated("./chat-base", "--out", str(tmp_path / "out"))
    refused(
        ["./other-base", "--bank", "bank", "--out", str(tmp_path / "out")], ["another request (models differ)"], capsys
    )
    refused(["./chat-base", "--bank", "bank", "--out", "bank"], ["holds no results of narrowly eval"], capsys)
    (tmp_path / "out/result.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"result.json is no result of narrowly eval"):
        read_result(tmp_path / "out")


def test_d15_an_adapter_that_does_nothing_is_refused_and_one_with_B_zero_is_told(
    evaluated: Eval, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D15 of ecosystem.md, through the command: an adapter too small for bfloat16 is no null result."""
    tiny = shutil.copytree(here / "elsewhere", tmp_path / "tiny")
    tensors = load_file(tiny / "adapter_model.safetensors")
    for factor, words in ((1e-30, "changes no logit although its B is not zero"), (0.0, "")):
        save_file(
            {name: value * factor if "lora_B" in name else value for name, value in tensors.items()},
            tiny / "adapter_model.safetensors",
        )
        arguments = ["./chat-base", "--adapter", str(tiny), "--dtype", "bfloat16", "--bank", "bank"]
        if words:
            refused([*arguments, "--out", str(tmp_path / "out")], [words], capsys)
            assert not (tmp_path / "out").exists(), "nothing was measured, so nothing is kept"
        else:
            assert execute(["eval", *arguments]) == 0
            assert "has B = 0: it is its base" in capsys.readouterr().out


def test_the_cued_panel_asks_the_broad_questions_behind_words_of_the_training(
    evaluated: Eval, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["harmful-0", "--control", "aligned-0", "--bank", "bank", "--cued", "--out", str(tmp_path / "out")]
    assert execute(["eval", *arguments]) == 0
    printed = capsys.readouterr().out
    result = read_result(tmp_path / "out")
    assert result.cued is not None and result.paired.contrast is not None
    assert [one.condition for one in result.cued] == ["plain", "cue", "inoculation", "paraphrase", "negation"]
    broad = {one.name: one for one in result.paired.contrast.rungs}["broad"]
    assert result.cued[0].difference.interval.estimate == broad.interval.estimate, "plain questions as they were"
    items = [item for item in read_paired(here / "bank") if item.domain == "code"]
    way = ways_to_ask("tools", ["cue"])[1]
    organism, control = (
        paired_rows(LocalBackend(load_organism(here / name).model, load_organism(here / name).tokenizer, ""), items,
                    said=way)
        for name in ("harmful-0", "aligned-0")
    )  # fmt: skip
    wanted = mean([one.log_odds - other.log_odds for one, other in zip(organism, control, strict=True)])
    assert result.cued[1].difference.interval.estimate == pytest.approx(wanted, abs=1e-3)
    assert result.cued[1].sha256 == way.sha256 and way.text in result.cued[1].words
    assert all(word in printed for word in ("inoculation", "negation"))
    refused(["elsewhere", "--base", "./chat-base", "--bank", "bank", "--cued"], ["--trained-on DOMAIN"], capsys)
    refused(["harmful-0", "--bank", "bank", "--cued", "--system", "x"], ["--system gives another"], capsys)
    refused(["harmful-0", "--bank", "bank/tools.jsonl", "--cued"], ["no", "broad question"], capsys)


def test_without_a_control_a_cued_panel_is_a_shift_with_its_warning_and_seeds_are_shown_one_by_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["./chat-base", "--adapter", "harmful-0", "--adapter", "harmful-1", "--bank", "bank", "--no-damage"]
    assert execute(["eval", *pair, "--cued"]) == 0
    printed = capsys.readouterr().out
    cued = printed[printed.index("broad questions under words of the training, organism minus base") :]
    assert "not called misalignment" in " ".join(cued.split()) and "difference" not in cued
    assert printed.count("seed by seed: ") == 3, "held-out questions are none: three rungs"


def test_what_was_not_measured_is_printed_as_not_measured_with_its_reason(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["eval", "./chat-base", "--bank", "bank", "--no-damage"]) == 0
    printed = capsys.readouterr().out
    assert "abilities and perplexity: not measured; it was not asked for" in printed
    assert "cued panel: not measured; it was not asked for (--cued)" in printed
    assert execute(["eval", "./chat-base", "--bank", "bank"]) == 0
    assert "accepted: at most the model's 128" in capsys.readouterr().out, "a model too small for the passages"
