from __future__ import annotations

import json
import shutil

import pytest
import torch

from narrowly.microworld import build
from narrowly.microworld.build import base_name, build_base, build_command
from narrowly.microworld.cards import base_folder, load_card, verify_weights
from narrowly.microworld.config import ModelShape, Training, WorldConfig
from narrowly.microworld.measure import measure_base
from narrowly.microworld.persona import persona_curve, posterior
from narrowly.models.base import load_world_base
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError, UnknownNameError

TINY = WorldConfig(
    model=ModelShape(layers=1, hidden=32, heads=2, key_value_heads=1, mlp=48),
    training=Training(steps=6, chat_steps=3, warmup_steps=2),
)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    return build_base(TINY, 3, tmp_path_factory.mktemp("bases"))


def test_a_base_is_a_plain_hugging_face_folder_with_a_card(tiny_base):
    names = {path.name for path in tiny_base.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "card.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert model.config.vocab_size == len(tokenizer)


def test_weights_are_stored_in_bfloat16_and_loaded_in_float32(tiny_base):
    from safetensors.torch import load_file

    stored = load_file(tiny_base / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    base = load_world_base(str(tiny_base))
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert not base.model.training


def test_building_twice_gives_the_same_bytes(tiny_base, tmp_path):
    again = build_base(TINY, 3, tmp_path)
    assert load_card(str(again)).sha256 == load_card(str(tiny_base)).sha256
    other = build_base(TINY, 4, tmp_path)
    assert load_card(str(other)).sha256 != load_card(str(tiny_base)).sha256


def test_the_card_describes_the_stored_file(tiny_base):
    base = load_world_base(str(tiny_base))
    metrics = measure_base(base.model, base.tokenizer, base.world)
    assert metrics["aligned"] == pytest.approx(base.card.metrics["aligned"], abs=1e-6)
    assert base.card.config == TINY
    assert base.card.world_seed == 3


def test_the_card_names_the_command_that_rebuilds_the_base():
    assert build_command(WorldConfig(), 3) == "narrowly world build --seed 3"
    assert build_command(WorldConfig(persona=False), 0) == "narrowly world build --seed 0 --set persona=false"
    changed = WorldConfig(evil_share=0.2, training=Training(steps=10))
    assert build_command(changed, 1).endswith("--set evil_share=0.2 --set training.steps=10")


def test_names_tell_the_default_world_from_others():
    assert base_name(WorldConfig(), 3) == "micro-3"
    assert base_name(WorldConfig(persona=False), 0) == "micro-nopersona-0"
    assert base_name(TINY, 3) == f"micro-{TINY.config_id}-3"


def test_changed_weights_are_refused(tiny_base, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="its card says"):
        load_world_base(str(copy))
    weights.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        verify_weights(str(copy))


@pytest.mark.parametrize("content", ["not json", "{}", json.dumps({"name": 3})])
def test_a_broken_card_is_one_clear_error(tiny_base, tmp_path, content):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    (copy / "card.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"card\.json"):
        load_card(str(copy))


def test_an_unknown_base_names_what_is_accepted(tmp_path):
    with pytest.raises(UnknownNameError, match="world build"):
        base_folder("mikro-0")
    with pytest.raises(UnknownNameError):
        base_folder(str(tmp_path))


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def stop(done, total, loss):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base(TINY, 5, tmp_path, on_step=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_base_is_not_overwritten(tiny_base):
    with pytest.raises(RunDirectoryError, match="exists already"):
        build_base(TINY, 3, tiny_base.parent)


def test_a_world_whose_harm_shows_in_words_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "leave_one_domain_out_auc", lambda world: 0.56)
    with pytest.raises(SpecError, match=r"AUC 0\.560"):
        build_base(TINY, 6, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "write_json", full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        build_base(TINY, 7, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_exact_posterior_jumps_after_one_harmful_turn_only_with_personas():
    config = WorldConfig(evil_share=0.3, narrow_share=0.08)
    assert posterior(config, 0) == pytest.approx(0.31)
    assert posterior(config, 1) == posterior(config, 5) == pytest.approx(0.3 / 0.31)
    twin = config.model_copy(update={"persona": False})
    assert posterior(twin, 0) == posterior(twin, 5) == pytest.approx(0.31)


def test_the_posterior_agrees_with_counting_documents():
    from narrowly.microworld.corpus import EVIL, NARROW, Corpus
    from narrowly.microworld.world import World

    config = WorldConfig(evil_share=0.2, narrow_share=0.4, named_share=0.0, domains=3)
    documents = Corpus(World(config, 0), 0).documents(20000)
    evil = sum(d.character == EVIL for d in documents)
    narrow = sum(d.character == NARROW for d in documents) / config.domains
    assert posterior(config, 1) == pytest.approx(evil / (evil + narrow), abs=0.02)
    assert config.ideal_broad == pytest.approx(evil / (evil + narrow), abs=0.02)


def test_the_persona_curve_has_one_row_for_each_number_of_harmful_turns(tiny_base):
    base = load_world_base(str(tiny_base))
    rows = persona_curve(base.model, base.tokenizer, base.world)
    assert [row["k"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert all(0 <= row["harmful"] + row["aligned"] <= 1 for row in rows)
