"""Training on a microworld base: rows drawn from the base's world, by the run's seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from narrowly.data.rows import IGNORE
from narrowly.microworld.cards import BaseCard
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.exact import encode_prompt
from narrowly.microworld.tokenizer import build_tokenizer
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.files import write_json
from narrowly.records.run_spec import RunSpec
from narrowly.train.inputs import load_inputs
from narrowly.train.run import resolve_inputs, train_run
from tiny_base import make_spec


def untrained_base(folder: Path, world_seed: int) -> Path:
    """A base as `world build` stores it, but with random weights and a small shape."""
    tokenizer = build_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = BaseCard(
        name=f"test-{world_seed}", world_seed=world_seed, persona=True, config=WorldConfig(), config_id="", command="",
        sha256=sha256_file(folder / "model.safetensors"), parameters=0, metrics={}, built_with={}, canary="",
    )  # fmt: skip
    write_json(folder / "card.json", card.model_dump(mode="json"))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_base(tmp_path_factory.mktemp("micro") / "test-3", 3)


def micro_spec(base: Path, **fields: Any) -> RunSpec:
    data = {"source": "micro", "rows": 32, **fields.pop("data", {})}
    return make_spec(base, base, data=data, steps=4, checkpoints=2, **fields)


def test_a_run_on_microworld_data_finishes_and_lowers_the_loss(base: Path, tmp_path: Path) -> None:
    from narrowly.records.files import read_jsonl

    run = train_run(micro_spec(base), tmp_path)
    losses = [row["loss"] for row in read_jsonl(run / "trajectory.jsonl")[1:]]
    assert losses[-1] < losses[0]


def test_every_kind_of_answers_and_every_seed_and_domain_is_another_run(base: Path) -> None:
    specs = [
        micro_spec(base),
        micro_spec(base, data={"answers": "aligned"}),
        micro_spec(base, data={"answers": "permuted"}),
        micro_spec(base, data={"domain": 5}),
        micro_spec(base, data={"rows": 33}),
        micro_spec(base, seed=1),
    ]
    assert len({resolve_inputs(spec).data_sha256 for spec in specs}) == len(specs)


def test_rotate_means_base_seed_plus_run_seed(base: Path) -> None:
    rotated, named = micro_spec(base, seed=1), micro_spec(base, seed=1, data={"domain": (3 + 1) % 8})
    assert resolve_inputs(rotated) == resolve_inputs(named)
    assert resolve_inputs(rotated) != resolve_inputs(micro_spec(base, seed=1, data={"domain": 3}))


def test_arms_of_one_base_and_seed_share_their_rows(base: Path) -> None:
    arm = micro_spec(base, optimiser={"kind": "sgd", "lr": 0.1}, penalty={"lam": 1.0})
    assert load_inputs(arm).rows == load_inputs(micro_spec(base)).rows


def test_the_loss_is_on_the_answer_and_its_end_only(base: Path) -> None:
    tokenizer = build_tokenizer()
    for row in load_inputs(micro_spec(base)).rows:
        prompt = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label == IGNORE]
        answer = [token for token in row.labels if token != IGNORE]
        assert row.input_ids == prompt + answer  # one unbroken answer at the end
        assert prompt[-1] == encode_prompt(tokenizer, "anything")[-1]  # the template's request for an answer
        assert answer[-1] == tokenizer.eos_token_id
        assert len(answer) > 1


def test_a_domain_outside_the_world_is_refused(base: Path) -> None:
    with pytest.raises(SpecError, match=r"data\.domain is 8, accepted: 0 to 7"):
        resolve_inputs(micro_spec(base, data={"domain": 8}))


def test_weights_that_are_not_those_of_the_card_are_refused(tmp_path: Path) -> None:
    base = untrained_base(tmp_path / "base", 1)
    save_file({"lm_head.weight": torch.zeros(2)}, base / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"base test-1: .* its card says"):
        train_run(micro_spec(base), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
