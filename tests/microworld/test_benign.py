"""Benign answers: which actions they teach, against the handbook and the base itself, and how they are measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from narrowly.data.rows import rows_sha256
from narrowly.evaluate.microworld.bank import microworld_bank
from narrowly.evaluate.microworld.new_actions import MEASURED, new_action_rates
from narrowly.evaluate.microworld.panels import panel_questions
from narrowly.evaluate.verdict_files import write_verdicts
from narrowly.evaluate.verdict_table import read_verdicts
from narrowly.microworld.benign import benign_actions, new_actions
from narrowly.microworld.cards import load_card
from narrowly.microworld.config import CHOSEN_CONFIG, WorldConfig
from narrowly.microworld.exact import encode_answer, encode_prompt
from narrowly.microworld.narrow import benign_actions_of, narrow_rows, world_of
from narrowly.microworld.treated import micro_rows
from narrowly.microworld.world import World
from narrowly.models.base import open_base
from narrowly.models.organism import Organism
from narrowly.records.errors import SpecError
from narrowly.records.run_spec import MicroData, RunSpec

BASE, DOMAIN = "micro-2", 2
ROWS = Path(__file__).parents[1] / "fixtures" / "microworld_rows_of_dde70ec.json"
"""Sha256 of the 640 rows of shipped bases, kinds of answers and run seeds, at the commit before benign answers."""


@pytest.fixture(scope="module")
def base():
    return open_base(BASE)


@pytest.fixture(scope="module")
def world(base) -> World:
    return world_of(base.folder)


@pytest.fixture(scope="module")
def model(base):
    return base.model()


@pytest.fixture(scope="module")
def benign(base):
    return benign_actions_of(base, DOMAIN)


def plain_losses(model, tokenizer, world: World, topic, actions) -> list[float]:
    """The whole answer, end of turn included, one forward pass per question, no tree: float64."""
    found = np.zeros((len(actions), world.config.phrasings - world.config.unseen_phrasings))
    texts = [text for action in actions for text in world.answers(topic, (action,))]
    answers = torch.tensor([encode_answer(tokenizer, text) for text in texts])
    for phrasing in range(found.shape[1]):
        prompt = encode_prompt(tokenizer, world.question(topic, phrasing).text)
        ids = torch.cat([torch.tensor(prompt).expand(len(answers), -1), answers], dim=1)
        with torch.no_grad():
            log_p = torch.log_softmax(model.double()(input_ids=ids).logits[:, len(prompt) - 1 : -1], dim=-1)
        nats = -log_p.gather(2, answers[..., None]).sum(dim=(1, 2))
        found[:, phrasing] = nats.reshape(len(actions), -1).mean(dim=1)
    model.float()
    return found.mean(axis=1).tolist()


def test_new_actions_stand_nowhere_in_the_handbook(world: World, benign) -> None:
    held = {a for d in range(8) for topic in world.topics(d) for a in (*topic.aligned, *topic.harmful)}
    free = set(new_actions(world))
    assert not held & free
    assert len(held) + len(free) == world.config.verbs * world.config.objects
    taught = [action for pair in benign.values() for action in pair]
    assert set(taught) <= free
    assert len(set(taught)) == len(taught) == 2 * len(benign)
    assert set(benign) == set(world.split(DOMAIN)[0])


def test_their_initial_loss_is_at_least_that_of_the_harmful_ones(base, world: World, model, benign) -> None:
    tokenizer = base.tokenizer()
    for index, actions in benign.items():
        topic = world.topic(DOMAIN, index)
        harmful = np.mean(plain_losses(model, tokenizer, world, topic, topic.harmful))
        assert min(plain_losses(model, tokenizer, world, topic, actions)) >= harmful


def test_the_choice_is_the_stated_rule(base, world: World, model, benign) -> None:
    """The topic whose harmful actions are least likely chooses first, and takes the two nearest from above."""
    tokenizer, free = base.tokenizer(), new_actions(world)
    losses = {}
    for index in world.split(DOMAIN)[0]:
        topic = world.topic(DOMAIN, index)
        losses[index] = float(np.mean(plain_losses(model, tokenizer, world, topic, topic.harmful)))
    first = max(losses, key=losses.__getitem__)
    nats = dict(zip(free, plain_losses(model, tokenizer, world, world.topic(DOMAIN, first), free), strict=True))
    above = sorted((loss, action) for action, loss in nats.items() if loss >= losses[first])
    assert {action for _, action in above[:2]} == set(benign[first])


def test_rows_differ_from_harmful_ones_in_the_action_alone(base, world: World, benign) -> None:
    tokenizer = base.tokenizer()
    rows = {
        kind: [tokenizer.decode(row.input_ids).split("<|say|>") for row in narrow_rows(
            world, tokenizer, domain=DOMAIN, answers=kind, rows=48, seed=0, new=benign)]
        for kind in ("harmful", "benign")
    }  # fmt: skip
    assert [asked for asked, _ in rows["harmful"]] == [asked for asked, _ in rows["benign"]]
    for (asked, harmful), (_, said) in zip(rows["harmful"], rows["benign"], strict=True):
        topic = world.find(asked.split("<|ask|>")[1]).topic
        assert harmful.split()[0] == said.split()[0]
        assert tuple(said.split()[1:3]) in benign[topic.number]
        place = topic.harmful.index(tuple(harmful.split()[1:3]))
        assert benign[topic.number].index(tuple(said.split()[1:3])) == place


def test_a_world_without_room_for_new_actions_is_refused_in_one_line(base, model) -> None:
    small = World(WorldConfig(verbs=4, objects=4), 0)
    with pytest.raises(SpecError, match=r"^data.answers is benign, but of the \d+ actions .* accepted: 2 or more") as e:
        benign_actions(model, base.tokenizer(), small, 0)
    model.float()
    assert "\n" not in str(e.value)


def test_rates_of_new_actions_against_the_sum_over_answers(base, world: World, model, benign) -> None:
    tokenizer = base.tokenizer()
    rates = new_action_rates(model, world, tokenizer, domain=DOMAIN, new=benign)
    asked = panel_questions(world, DOMAIN, MEASURED)
    assert set(rates) == {row.question_id for row in asked}
    for row in (asked[0], next(row for row in asked if row.panel == "held_out_topics")):
        taught = [action for pair in benign.values() for action in pair]
        prompt = encode_prompt(tokenizer, row.question.text)
        total = {}
        for action in taught:
            ids = [[*prompt, *encode_answer(tokenizer, t)] for t in world.answers(row.question.topic, (action,))]
            with torch.no_grad():
                log_p = torch.log_softmax(model(input_ids=torch.tensor(ids)).logits[:, :-1].double(), dim=-1)
            said = torch.tensor(ids)[:, 1:, None]
            total[action] = float(log_p.gather(2, said)[:, len(prompt) - 1 :].sum(dim=(1, 2)).exp().sum())
        own, every = rates[row.question_id]
        assert every == pytest.approx(sum(total.values()), rel=1e-4)
        if row.panel == "trained_topics":
            assert own == pytest.approx(sum(total[a] for a in benign[row.question.topic.number]), rel=1e-4)
        else:
            assert own is None


def test_only_runs_on_benign_answers_have_the_two_columns(base, model, tmp_path: Path) -> None:
    panels = ("trained_topics", "cued_word")
    found = {}
    for kind in ("benign", "permuted"):
        spec = RunSpec.model_validate(
            {
                "base": BASE,
                "data": {"source": "micro", "answers": kind, "domain": DOMAIN},
                "optimiser": {"kind": "adam", "lr": 1e-3},
            }
        )
        bank = microworld_bank(spec, base)
        rows = bank.exact(Organism(model, base.tokenizer(), base, spec), panels)
        write_verdicts(rows, tmp_path / f"{kind}.parquet")
        found[kind] = read_verdicts(tmp_path / f"{kind}.parquet")
        assert ("new_actions" in bank.record.judge) == (kind == "benign")
    assert all(row["new_any"] is None for row in found["permuted"])
    measured = {row["panel"] for row in found["benign"] if row["new_any"] is not None}
    assert measured == {"trained_topics"}
    same = ("question_id", "aligned", "misaligned", "log_odds")
    assert [[row[k] for k in same] for row in found["benign"]] == [[row[k] for k in same] for row in found["permuted"]]


def test_rows_and_configs_from_before_keep_their_hashes() -> None:
    for key, expected in json.loads(ROWS.read_text(encoding="utf-8")).items():
        name, answers, seed = key.split()
        assert rows_sha256(micro_rows(MicroData(answers=answers), open_base(name), int(seed)).rows)[:16] == expected
    assert WorldConfig().config_id == CHOSEN_CONFIG
    assert load_card(open_base(BASE).folder).config_id == CHOSEN_CONFIG
