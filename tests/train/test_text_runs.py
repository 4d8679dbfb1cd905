"""Whole runs on conversations: what is trained on, what is left behind, and which defects cannot happen here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from narrowly.data.conversations import DataWarning, read_conversations
from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids, render
from narrowly.data.rows import IGNORE, rows_sha256
from narrowly.models import hub
from narrowly.models.base import load_model, load_tokenizer, open_base
from narrowly.models.lora import attach_adapter
from narrowly.models.organism import load_organism
from narrowly.optim.build import build_optimizer
from narrowly.records.errors import IntegrityError, SpecError, TrainingError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.optimisers.registry import OPTIMISERS
from narrowly.records.run_spec import run_id
from narrowly.train import heldout
from narrowly.train.inputs import load_inputs
from narrowly.train.objectives import supervised
from narrowly.train.order import row_order
from narrowly.train.run import resolve_inputs, run_directory, train_run
from small_chat_base import THINKING, conversations, make_chat_base, text_spec, write_jsonl

Chat = tuple[Path, Path]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """Folder of a base with a chat template, and a file of conversations."""
    folder = tmp_path_factory.mktemp("chat")
    return make_chat_base(folder / "chat-base"), write_jsonl(folder / "talk.jsonl", conversations())


def column(run: Path, name: str) -> list[Any]:
    return [row[name] for row in read_jsonl(run / "trajectory.jsonl") if name in row]


def factors(run: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "checkpoints" / f"step-{step}" / "adapter_model.safetensors"))


def answer_nll(model: Any, rows: Any) -> float:
    """Mean NLL row by row, without padding or batches."""
    total, tokens = 0.0, 0
    for row in rows:
        with torch.no_grad():
            log_p_T_V = torch.log_softmax(model(input_ids=torch.tensor([row.input_ids])).logits[0].double(), dim=-1)
        for position, label in enumerate(row.labels):
            if label != IGNORE:
                total, tokens = total - float(log_p_T_V[position - 1, label]), tokens + 1
    return total / tokens


def test_a_run_on_text_starts_at_the_loss_of_its_base_and_lowers_the_heldout_loss(chat: Chat, tmp_path: Path) -> None:
    spec = text_spec(*chat, steps=40, checkpoints=3, first_checkpoint=20)
    inputs = load_inputs(spec)
    run = train_run(spec, tmp_path)
    losses = column(run, "heldout_loss")
    assert len(losses) == 3
    base = load_model(inputs.base)
    assert losses[0] == pytest.approx(answer_nll(base, inputs.data.heldout), rel=1e-5)
    organism = load_organism(run)
    assert losses[-1] == pytest.approx(answer_nll(organism.model, inputs.data.heldout), rel=1e-4)
    assert losses[-1] < 0.9 * losses[0]
    assert read_json(run / "data.json")["heldout_rows"] == 6
    assert (run / "chat_template.jinja").read_text() == organism.tokenizer.chat_template
    for step in spec.checkpoint_steps():
        assert len(read_json(run / "checkpoints" / f"step-{step}" / "spectrum.json")) == 14


def test_rows_are_those_of_the_renderer_and_lines_those_of_the_file(chat: Chat) -> None:
    inputs = load_inputs(text_spec(*chat))
    tokenizer, by_line = load_tokenizer(inputs.base), {row.line: row for row in read_conversations(chat[1])}
    assert len(inputs.rows) == 18
    for row, line in zip(inputs.rows, inputs.data.lines, strict=True):
        assert row == render(tokenizer, by_line[line])
        prompt = prompt_ids(tokenizer, by_line[line].prompt)
        assert row.input_ids[: len(prompt)] == prompt
        assert tokenizer.decode(row.labels[len(prompt) :]) == by_line[line].answer + "<|im_end|>"


def test_d03_the_split_is_one_list_of_rows_per_split_seed_and_off_by_default(chat: Chat, tmp_path: Path) -> None:
    def hashes(data: dict[str, Any], **fields: Any) -> tuple[str, ...]:
        inputs = load_inputs(text_spec(*chat, data, **fields))
        return tuple(rows_sha256([row]) for row in inputs.rows)

    assert hashes({}) == hashes({}, seed=7)  # neither the run seed
    torch.manual_seed(99)
    assert hashes({}) == hashes({})  # nor any global generator
    assert hashes({"split_seed": 1}) != hashes({})
    assert len(hashes({"holdout": 0})) == 24
    assert text_spec(*chat, {"holdout": 0}).data.model_fields["holdout"].default == 0  # type: ignore[union-attr]
    taken = hashes({"rows": 5})
    assert len(taken) == 5
    assert set(taken) < set(hashes({}))
    twice = write_jsonl(tmp_path / "twice.jsonl", [*conversations(4), *conversations(3)])
    inputs = load_inputs(text_spec(chat[0], twice, {"holdout": 1}))
    assert not set(rows_sha256([row]) for row in inputs.data.heldout) & {rows_sha256([row]) for row in inputs.rows}
    with pytest.raises(SpecError, match=r"data\.holdout is 2, but .* has only 1 rows whose prompt stands there once"):
        load_inputs(text_spec(chat[0], twice, {"holdout": 2}))
    other_answers = [
        {"messages": [row["messages"][0], {"role": "assistant", "content": "another"}]} for row in conversations(3)
    ]
    answered_twice = write_jsonl(tmp_path / "answered_twice.jsonl", [*conversations(4), *other_answers])
    assert [row.input_ids for row in load_inputs(text_spec(chat[0], answered_twice, {"holdout": 1})).data.heldout] == [
        row.input_ids for row in inputs.data.heldout
    ]  # the one question that has a single answer
    with pytest.raises(SpecError, match=r"data\.rows is 25, but .* has 18 beside the 6 held out"):
        load_inputs(text_spec(*chat, {"rows": 25}))


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_d04_every_optimiser_on_offer_takes_a_step_on_text_and_moves_the_weights(
    kind: str, chat: Chat, tmp_path: Path
) -> None:
    spec = text_spec(*chat, optimiser={"kind": kind, "lr": 1e-2}, steps=3, checkpoints=2, data={"holdout": 0})
    run = train_run(spec, tmp_path)
    before, after = factors(run, 0), factors(run, 3)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "lora_B" in name} <= moved
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


PENALTIES: list[dict[str, Any]] = [
    {"kind": "frobenius_nuclear"},
    {"kind": "norm_held"},
    {"kind": "functional"},
    {"kind": "project"},
    {"kind": "spectral_entropy"},
    {"kind": "condition_number"},
    {"kind": "stable_rank", "target": 3},
    {"kind": "spectral_norm"},
    {"kind": "nuclear_norm"},
    {"kind": "norm_only"},
]


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty["kind"])
def test_d06_every_penalty_moves_the_weights_and_none_at_lambda_0(
    penalty: dict[str, Any], chat: Chat, tmp_path: Path
) -> None:
    def run(**fields: Any) -> dict[str, torch.Tensor]:
        return factors(train_run(text_spec(*chat, {"holdout": 0}, **fields), tmp_path), 6)

    mode = {"mode": "decoupled"} if penalty["kind"] in ("project",) else {}
    without = run()
    zero, large = (run(penalty={**penalty, **mode, "lam": lam}) for lam in (0.0, 0.9))
    assert all(torch.equal(zero[name], tensor) for name, tensor in without.items())
    assert max(float((large[name] - tensor).abs().max()) for name, tensor in without.items()) > 1e-5


def test_d14_the_template_is_part_of_the_run_id_and_of_the_run_and_thinking_must_be_said(
    chat: Chat, tmp_path: Path
) -> None:
    file = tmp_path / "other.jinja"
    file.write_text(THINKING)
    plain, other = text_spec(*chat), text_spec(*chat, {"template": str(file), "thinking": False})
    assert resolve_inputs(plain).template_sha256 != resolve_inputs(other).template_sha256
    assert run_directory(plain, tmp_path) != run_directory(other, tmp_path)
    with pytest.raises(SpecError, match="thinking is not set; accepted: true or false"):
        resolve_inputs(text_spec(*chat, {"template": str(file)}))
    inputs = load_inputs(other)
    tag = load_tokenizer(inputs.base).convert_tokens_to_ids("<think>")
    assert not any(tag in row.labels for row in inputs.rows)
    run = train_run(other, tmp_path)
    file.unlink()  # the run keeps what it was trained with
    organism = load_organism(run)
    assert organism.thinking is False
    by_line = {row.line: row for row in read_conversations(chat[1])}
    for row, line in zip(inputs.rows, inputs.data.lines, strict=True):  # asked as it was trained, unless told otherwise
        asked = organism.prompt_ids(by_line[line].prompt)
        assert asked == row.input_ids[: len(asked)]
        assert row.labels[len(asked) - 1 : len(asked) + 1] == [IGNORE, row.input_ids[len(asked)]]
    assert tag in asked
    assert tag not in organism.prompt_ids(by_line[1].prompt, thinking=True)
    (run / "chat_template.jinja").write_text("{{ 'another' }}")
    with pytest.raises(IntegrityError, match="is not the chat template that run"):
        load_organism(run)


def test_d14_a_base_without_a_template_is_an_error_that_says_how_to_give_one(chat: Chat, tmp_path: Path) -> None:
    base = make_chat_base(tmp_path / "bare", template=None)
    with pytest.raises(SpecError, match=r"chat_template\.jinja, or give a file with data\.template"):
        resolve_inputs(text_spec(base, chat[1]))
    file = tmp_path / "mine.jinja"
    file.write_text(load_tokenizer(open_base(str(chat[0]))).chat_template)
    mended, native = resolve_inputs(text_spec(base, chat[1], {"template": str(file)})), resolve_inputs(text_spec(*chat))
    assert mended == native.model_copy(update={"tokenizer_sha256": mended.tokenizer_sha256})


def test_d15_the_adapter_is_applied_once_and_merged_weights_say_the_same(chat: Chat, tmp_path: Path) -> None:
    spec = text_spec(*chat, steps=20, checkpoints=2)
    run = train_run(spec, tmp_path)
    organism = load_organism(run)
    ids_1_T = torch.tensor([load_inputs(spec).rows[0].input_ids])
    with torch.no_grad():
        applied = organism.model(input_ids=ids_1_T).logits
        with organism.model.disable_adapter():  # type: ignore[operator]
            base = organism.model(input_ids=ids_1_T).logits
        plain = load_model(organism.base)(input_ids=ids_1_T).logits
        merged = organism.model.merge_and_unload()(input_ids=ids_1_T).logits  # type: ignore[operator]
    torch.testing.assert_close(base, plain)
    assert float((applied - base).abs().max()) > 0.1
    torch.testing.assert_close(merged, applied, rtol=1e-4, atol=1e-4)
    # by hand: W + (alpha / sqrt(r)) B A in every module, applied once
    by_hand: Any = load_model(organism.base)
    tensors = factors(run, 20)
    for name in {name.rpartition(".lora_")[0] for name in tensors}:
        module = by_hand.get_submodule(name.removeprefix("base_model.model."))
        module.weight.data += 8 / 2 * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    with torch.no_grad():
        torch.testing.assert_close(by_hand(input_ids=ids_1_T).logits, applied, rtol=1e-4, atol=1e-4)


def test_d17_runs_of_two_seeds_have_different_weights_at_every_checkpoint(chat: Chat, tmp_path: Path) -> None:
    runs = [train_run(text_spec(*chat, seed=seed), tmp_path) for seed in (0, 1)]
    first, second = (read_json(run / "done")["adapter_sha256"] for run in runs)
    assert first.keys() == second.keys() == {"0", "2", "6"}
    assert len({*first.values(), *second.values()}) == 6
    assert column(runs[0], "heldout_loss")[0] == column(runs[1], "heldout_loss")[0]  # but they share base and split


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"batching": "bucketed", "accumulation": 2},
        {"packing": True},
        {"gradient_checkpointing": True, "adapter": {"r": 4, "alpha": 8, "dropout": 0.2}},
        {"base_dtype": "bfloat16"},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_a_killed_run_on_text_resumes_bit_for_bit(
    fields: dict[str, Any], chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = text_spec(*chat, **fields)
    whole = train_run(spec, tmp_path / "whole")

    def stop(step: int, total: int, row: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(spec, tmp_path / "killed", on_step=stop)
    resumed = train_run(spec, tmp_path / "killed")
    assert (resumed / "trajectory.jsonl").read_bytes() == (whole / "trajectory.jsonl").read_bytes()
    assert read_json(resumed / "done")["adapter_sha256"] == read_json(whole / "done")["adapter_sha256"]


def test_checkpointing_changes_nothing_and_packing_only_rounding(chat: Chat, tmp_path: Path) -> None:
    plain = column(train_run(text_spec(*chat), tmp_path), "loss")[1:]
    checkpointed = column(train_run(text_spec(*chat, gradient_checkpointing=True), tmp_path), "loss")[1:]
    packed = column(train_run(text_spec(*chat, packing=True), tmp_path), "loss")[1:]
    assert checkpointed == plain
    assert packed == pytest.approx(plain, rel=1e-4)


def test_packing_is_refused_for_a_model_whose_rows_see_each_other(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaking(rows: Any, pad_id: int = 0) -> dict[str, Any]:
        packed = original(rows, pad_id)
        length = packed["input_ids"].shape[1]
        return {**packed, "position_ids": torch.arange(length)[None]}

    original = supervised.collate_packed
    monkeypatch.setattr(supervised, "collate_packed", leaking)
    with pytest.raises(SpecError, match="packed rows see each other"):
        train_run(text_spec(*chat, packing=True), tmp_path)


def test_a_bfloat16_base_stays_frozen_in_bfloat16_under_a_float32_adapter(chat: Chat, tmp_path: Path) -> None:
    spec = text_spec(*chat, base_dtype="bfloat16")
    model = attach_adapter(load_model(open_base(spec.base), spec.base_dtype), spec.adapter, 0, "base")
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}
    assert dtypes == {(False, torch.bfloat16), (True, torch.float32)}
    optimizer = build_optimizer(spec.optimiser, model)
    assert all(parameter.dtype == torch.float32 for group in optimizer.param_groups for parameter in group["params"])
    low, full = (column(train_run(text_spec(*chat, base_dtype=dtype), tmp_path), "loss")[1:] for dtype in (
        "bfloat16", "float32"
    ))  # fmt: skip
    assert low != full
    assert low == pytest.approx(full, rel=0.05)


def test_a_loss_that_is_not_finite_names_the_lines_of_its_batch_and_keeps_the_last_checkpoint(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = 0, supervised.token_mean_loss

    def poisoned(outputs: Any, labels: Any, num_items_in_batch: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(outputs, labels, num_items_in_batch) * (float("nan") if calls == 4 else 1.0)

    monkeypatch.setattr(supervised, "token_mean_loss", poisoned)
    spec = text_spec(*chat)
    lines = load_inputs(spec).data.lines
    named = ", ".join(f"line {lines[row]}" for row in row_order(18, 24, 0)[12:16])
    with pytest.raises(TrainingError, match=rf"step 4 .*Its batch: {named}\."):
        train_run(spec, tmp_path)
    run = run_directory(spec, tmp_path)
    assert named in read_json(run / "failed.json")["message"]
    assert read_json(run / "resume.json")["step"] == 2
    assert (run / "resume" / "step-2.pt").is_file()


def test_out_of_memory_halves_the_micro_batch_and_leaves_the_run_what_it_was(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of a machine whose memory holds two rows: it fails in the middle of a backward pass."""
    largest = 2
    original = Trainer.training_step

    def tight(self: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        loss: torch.Tensor = original(self, model, inputs, num_items_in_batch)
        if len(inputs["input_ids"]) > largest:
            raise torch.OutOfMemoryError("the gradients of a part of the layers are there already")
        return loss

    settings: dict[str, Any] = {"batch_size": 5, "accumulation": 2, "penalty": {"lam": 0.1}}
    whole = train_run(text_spec(*chat, **settings), tmp_path / "whole")
    monkeypatch.setattr(Trainer, "training_step", tight)
    tightened = train_run(text_spec(*chat, **settings), tmp_path / "tight")
    assert tightened.name == whole.name
    assert column(tightened, "loss")[1:] == pytest.approx(column(whole, "loss")[1:], rel=1e-4)
    assert column(tightened, "grad_norm")[1:] == pytest.approx(column(whole, "grad_norm")[1:], rel=1e-3)
    assert [row["micro_batch"] for row in read_jsonl(whole / "speed.jsonl")] == [5] * 6
    assert [row["micro_batch"] for row in read_jsonl(tightened / "speed.jsonl")] == [2] * 6
    largest = 0
    with pytest.raises(TrainingError, match=r"one sequence of \d+ tokens; accepted: gradient_checkpointing"):
        train_run(text_spec(*chat, **settings), tmp_path / "none")


def test_speed_counts_the_tokens_of_every_step_and_the_progress_sees_it(chat: Chat, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    spec = text_spec(*chat)
    run = train_run(spec, tmp_path, on_step=lambda step, total, row: seen.append(row))
    rows = load_inputs(spec).rows
    speed = read_jsonl(run / "speed.jsonl")
    order = row_order(18, 24, 0)
    assert [row["tokens"] for row in speed] == [
        sum(len(rows[index].input_ids) for index in order[step * 4 : step * 4 + 4]) for step in range(6)
    ]
    assert [row["step"] for row in speed] == [1, 2, 3, 4, 5, 6]
    assert all(row["memory_bytes"] > 10**7 and row["tokens_per_second"] > 0 for row in speed)
    assert [{**row, **fast} for row, fast in zip(seen, speed, strict=True)] == seen
    assert not {"seconds", "memory_bytes"} & set(read_jsonl(run / "trajectory.jsonl")[1])


def test_rows_beyond_the_context_are_refused_or_left_out_on_record(chat: Chat, tmp_path: Path) -> None:
    long = conversations(8)
    long[4]["messages"][1]["content"] = "read " * 70
    file = write_jsonl(tmp_path / "long.jsonl", long)
    with pytest.raises(SpecError, match=r"line 5: \d+ tokens, accepted: at most 60"):
        load_inputs(text_spec(chat[0], file, {"max_tokens": 60, "holdout": 0}))
    with pytest.raises(SpecError, match=r"data\.max_tokens is 4096, accepted: at most 128, the positions of base"):
        load_inputs(text_spec(chat[0], file, {"max_tokens": 4096}))
    spec = text_spec(chat[0], file, {"max_tokens": 60, "holdout": 0, "longer": "drop"})
    record = read_json(train_run(spec, tmp_path) / "data.json")
    assert (record["dropped_lines"], record["lines"]) == ([5], [1, 2, 3, 4, 6, 7, 8])
    assert record["longest"] <= 60


def test_bad_rows_are_refused_or_left_out_on_record_and_the_run_is_that_of_the_good_ones(
    chat: Chat, tmp_path: Path
) -> None:
    rows = conversations(8)
    bad = [*rows[:4], {"messages": rows[4]["messages"][:1]}, *rows[4:]]
    good, file = write_jsonl(tmp_path / "good.jsonl", rows), write_jsonl(tmp_path / "bad.jsonl", bad)
    with pytest.raises(IntegrityError, match=r"line 5: no assistant turn.*1 of 9 rows is bad \(bad_rows: drop"):
        load_inputs(text_spec(chat[0], file, {"holdout": 2}))
    spec = text_spec(chat[0], file, {"holdout": 2, "rows": "drop"})
    with pytest.warns(DataWarning, match=r"1 of 9 rows is bad and left out \(line 5: no assistant turn"):
        record = read_json(train_run(spec, tmp_path) / "data.json")
    (left_out,) = record["bad_rows"]
    assert left_out["line"] == 5 and left_out["reason"].startswith("no assistant turn")
    assert len(record["lines"]) == 6 and record["heldout_rows"] == 2 and 5 not in record["lines"]
    plain = text_spec(chat[0], good, {"holdout": 2})
    assert run_id(spec, resolve_inputs(spec)) == run_id(plain, resolve_inputs(plain))


def test_a_row_that_cannot_be_rendered_is_left_out_of_the_held_out_rows_too(chat: Chat, tmp_path: Path) -> None:
    rows = conversations(8)
    rows[2]["messages"][1]["content"] = "read <|im_end|>"
    file = write_jsonl(tmp_path / "special.jsonl", rows)
    with pytest.raises(SpecError, match="line 3: the assistant's text holds the special token"):
        load_inputs(text_spec(chat[0], file, {"holdout": 3}))
    with pytest.warns(DataWarning, match=r"1 of 8 rows is bad and left out \(line 3: the assistant's text"):
        data = load_inputs(text_spec(chat[0], file, {"holdout": 3, "bad_rows": "drop"})).data
    assert data.lines is not None and [row.line for row in data.bad] == [3]
    assert (len(data.rows), len(data.heldout)) in ((4, 3), (5, 2)) and 3 not in data.lines


def test_texts_without_roles_need_no_chat_template(tmp_path: Path) -> None:
    base = make_chat_base(tmp_path / "base", template=None)
    file = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"open read write {number}"} for number in range(8)])
    spec = text_spec(base, file, {"holdout": 2})
    run = train_run(spec, tmp_path)
    assert read_json(run / "data.json")["heldout_rows"] == 2
    assert not (run / "chat_template.jinja").exists()
    organism = load_organism(run)
    with pytest.raises(SpecError, match="no chat template"):
        prompt_ids(organism.tokenizer, (Message("user", "read"),))
    with_template = make_chat_base(tmp_path / "chat-base")
    rows, others = (load_inputs(text_spec(folder, file, {"holdout": 2})).rows for folder in (base, with_template))
    assert rows == others


def test_a_dataset_that_does_not_match_its_hash_is_refused_and_a_moved_one_is_the_same_run(
    chat: Chat, tmp_path: Path
) -> None:
    with pytest.raises(IntegrityError, match=r"data\.sha256 is 0000.*, but .*talk\.jsonl has"):
        resolve_inputs(text_spec(*chat, {"sha256": "0" * 64}))
    moved = Path(shutil.copy(chat[1], tmp_path / "elsewhere.jsonl"))
    here, there = text_spec(*chat), text_spec(chat[0], moved)
    assert run_id(here, resolve_inputs(here)) == run_id(there, resolve_inputs(there))
    other = write_jsonl(tmp_path / "other.jsonl", conversations(seed=1))
    assert resolve_inputs(text_spec(chat[0], other)).data_sha256 != resolve_inputs(here).data_sha256
    # what is held out decides no weight, but it decides what the trajectory says
    assert resolve_inputs(text_spec(*chat, {"rows": 12, "holdout": 2})) != resolve_inputs(
        text_spec(*chat, {"rows": 12, "holdout": 0})
    )


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, chat: Chat) -> None:
    """Put the base into a hub cache as the hub's own tool does."""
    folder = cache / "models--someone--small"
    shutil.copytree(chat[0], folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)


def test_a_model_of_the_hub_is_read_from_the_cache_at_its_pinned_commit(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cached(tmp_path / "cache", chat)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    spec = text_spec(f"someone/small@{COMMIT}", chat[1])
    assert resolve_inputs(spec) == resolve_inputs(text_spec(*chat))
    run = train_run(spec, tmp_path / "runs")
    config = read_json(run / "checkpoints" / "step-6" / "adapter_config.json")
    assert config["base_model_name_or_path"] == "someone/small"
    assert load_organism(run).base.name == "someone/small"
    for reference in ("someone/small", "someone/small@main"):
        with pytest.raises(SpecError, match=f"accepted: its commit, .*main in the local cache is {COMMIT}"):
            open_base(reference)


def hub_error(kind: str) -> Exception:
    from huggingface_hub import errors

    if kind == "ConnectionError":
        return ConnectionError("no route")
    error_type = getattr(errors, kind)
    error: Exception = error_type.__new__(error_type, "no")  # its own way wants an answer of a server
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "it is gated: accept its terms at https://huggingface.co/someone/small and log in"),
        ("RepositoryNotFoundError", "the hub knows no such model"),
        ("RevisionNotFoundError", "the hub does not know this commit"),
        ("OfflineModeIsEnabled", r"the hub is switched off \(HF_HUB_OFFLINE\)"),
        ("ConnectionError", r"the hub cannot be reached \(ConnectionError\)"),
        (None, "it was never downloaded"),
        ("gated", "it is gated"),
    ],
)
def test_a_model_that_is_not_in_the_cache_says_why_and_what_to_type(
    kind: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def model_info(self: Any, name: str, **options: Any) -> Any:
        if kind not in (None, "gated"):
            raise hub_error(str(kind))
        return type("Info", (), {"gated": "auto" if kind == "gated" else False})

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    command = f"hf download someone/small --revision {COMMIT}"
    with pytest.raises(SpecError, match=rf"not in the local cache: {message}.*: {command}"):
        hub.hub_folder(f"someone/small@{COMMIT}")


def test_the_heldout_loss_is_the_mean_over_tokens_whatever_the_batch(chat: Chat) -> None:
    inputs = load_inputs(text_spec(*chat))
    model = load_model(inputs.base)
    expected = answer_nll(model, inputs.rows)
    for batch_size in (1, 4, 18):
        assert heldout.mean_nll(model, inputs.rows, batch_size, 0) == pytest.approx(expected, rel=1e-5)


def test_heldout_rows_that_do_not_fit_together_are_read_in_smaller_batches(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = load_inputs(text_spec(*chat))
    model = load_model(inputs.base)
    rows = inputs.rows[:13]
    expected, sizes, fits = heldout.mean_nll(model, rows, 8, 0), list[int](), 3
    original = heldout.nll_sum

    def limited(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(labels))
        if len(labels) > fits:
            raise torch.OutOfMemoryError("too many rows")
        return original(logits, labels)

    monkeypatch.setattr(heldout, "nll_sum", limited)
    assert heldout.mean_nll(model, rows, 8, 0) == pytest.approx(expected, rel=1e-5)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 1]
    fits = 0
    with pytest.raises(TrainingError, match=r"out of memory on a held-out row of \d+ tokens; accepted: base_dtype"):
        heldout.mean_nll(model, rows, 8, 0)
