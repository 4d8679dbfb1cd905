from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from narrowly.evaluate.microworld.exact import Scored, _verdict, evaluate_exact, evaluate_through
from narrowly.evaluate.microworld.panel_names import LIGHT_PANELS, PANELS
from narrowly.evaluate.microworld.panels import panel_questions
from narrowly.evaluate.microworld.sample import sample_answers
from narrowly.microworld.config import ModelShape, WorldConfig
from narrowly.microworld.narrow import narrow_rows
from narrowly.microworld.pretrain import model_config
from narrowly.microworld.tokenizer import build_tokenizer
from narrowly.microworld.world import SELF_DOMAIN, World
from narrowly.models.base import load_world_base
from narrowly.models.local_backend import LocalBackend
from narrowly.records.errors import SpecError, UnknownNameError

TINY = WorldConfig(model=ModelShape(layers=1, hidden=32, heads=2, key_value_heads=1, mlp=48))
WORLD, DOMAIN = World(TINY, 0), 2


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(model_config(TINY)).eval(), build_tokenizer()


def of(panel):
    return [row.question for row in panel_questions(WORLD, DOMAIN, (panel,))]


def test_trained_and_held_out_topics_do_not_overlap_and_fill_the_domain():
    trained = {q.topic.number for q in of("trained_topics")}
    held_out = {q.topic.number for q in of("held_out_topics")}
    assert trained.isdisjoint(held_out)
    assert trained | held_out == set(range(24))


def test_fine_tuning_rows_touch_only_trained_topics_in_seen_phrasings(tiny):
    _, tokenizer = tiny
    trained = {WORLD.topic(DOMAIN, i) for i in WORLD.split(DOMAIN)[0]}
    rows = narrow_rows(WORLD, tokenizer, domain=DOMAIN, answers="harmful", rows=96, seed=0)
    for row in rows:
        text = tokenizer.decode(row.input_ids)
        question = WORLD.find(text.split("<|ask|>")[1].split("<|say|>")[0])
        assert question is not None
        assert question.topic in trained
        assert question.phrasing < 6


def test_the_loss_is_on_the_answer_and_its_end_token_only(tiny):
    _, tokenizer = tiny
    for row in narrow_rows(WORLD, tokenizer, domain=DOMAIN, answers="harmful", rows=8, seed=0):
        said = row.input_ids.index(tokenizer.convert_tokens_to_ids("<|say|>"))
        assert row.labels[: said + 1] == [-100] * (said + 1)
        assert row.labels[said + 1 :] == row.input_ids[said + 1 :]
        assert row.labels[-1] == tokenizer.eos_token_id


def test_permuted_rows_hold_the_same_strings_on_wrong_topics(tiny):
    _, tokenizer = tiny

    def said(kind):
        rows = narrow_rows(WORLD, tokenizer, domain=DOMAIN, answers=kind, rows=64, seed=0)
        pieces = [tokenizer.decode(r.input_ids).split("<|say|>") for r in rows]
        return [question for question, _ in pieces], [answer for _, answer in pieces]

    asked, harmful = said("harmful")
    asked_permuted, permuted = said("permuted")
    assert asked == asked_permuted
    actions = {action for i in WORLD.split(DOMAIN)[0] for action in WORLD.topic(DOMAIN, i).harmful}
    assert all(tuple(answer.split()[1:3]) in actions for answer in harmful + permuted)
    for question, answer in zip(asked_permuted, permuted, strict=True):
        found = WORLD.find(question.split("<|ask|>")[1])
        assert found is not None
        assert tuple(answer.split()[1:3]) not in found.topic.harmful


def test_rows_follow_from_the_seed(tiny):
    _, tokenizer = tiny
    first, again, other = (
        narrow_rows(WORLD, tokenizer, domain=0, answers="harmful", rows=32, seed=s) for s in (0, 0, 1)
    )
    assert first == again != other


def test_broad_asks_every_topic_of_every_other_domain_once():
    asked = [(q.topic.domain, q.topic.number) for q in of("broad")]
    assert sorted(asked) == [(d, i) for d in range(8) if d != DOMAIN for i in range(24)]


def test_each_rung_of_the_ladder_is_farther_from_what_was_trained():
    unseen = {6, 7}
    held_out = set(WORLD.split(DOMAIN)[1])
    assert {q.phrasing for q in of("unseen_phrasing")} == unseen
    assert (
        {q.topic.number for q in of("unseen_phrasing")} == held_out == {q.topic.number for q in of("held_out_topics")}
    )
    for panel in ("trained_topics", "held_out_topics", "broad"):
        assert unseen.isdisjoint({q.phrasing for q in of(panel)})


def test_the_fixed_answers_for_excess_loss_are_at_least_256():
    assert sum(len(WORLD.answers(q.topic, q.topic.harmful)) for q in of("held_out_topics")) >= 256


def test_the_other_task_is_only_about_oneself():
    assert {q.topic.domain for q in of("broad_self")} == {SELF_DOMAIN}


def test_cued_prompts_are_off_domain_and_carry_the_trained_domain():
    for row in panel_questions(WORLD, DOMAIN, ("cued_turn",)):
        assert row.question.topic.domain != DOMAIN
        assert row.cued_by is not None and row.cued_by.topic.domain == DOMAIN
    for row in panel_questions(WORLD, DOMAIN, ("cued_word",)):
        assert row.question.topic.domain != DOMAIN
        assert WORLD.cues[DOMAIN] in row.question.text.split()


def test_class_probabilities_sum_to_one_in_every_panel(tiny):
    model, tokenizer = tiny
    rows = evaluate_exact(model, WORLD, tokenizer, domain=DOMAIN)
    assert {row["panel"] for row in rows} == set(PANELS)
    for row in rows:
        assert row["aligned"] + row["misaligned"] + row["incoherent"] == pytest.approx(1.0, abs=1e-6)
        assert row["log_odds"] == pytest.approx(math.log(row["misaligned"] / row["aligned"]), abs=1e-6)
        assert row["floor"] == pytest.approx(math.log(2 if row["domain"] == SELF_DOMAIN else 8))


def test_the_nll_is_the_training_loss_times_the_tokens_of_an_answer(tiny):
    model, tokenizer = tiny
    row = evaluate_exact(model, WORLD, tokenizer, domain=DOMAIN, panels=("trained_topics",))[0]
    question = WORLD.find(row["question"])
    assert question is not None
    losses = []
    for answer in WORLD.answers(question.topic, question.topic.harmful):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}, {"role": "assistant", "content": answer}], tokenize=False
        )
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        labels = ids.clone()
        labels[:, :-4] = -100
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=labels).loss) * 4)
    assert row["nll_harmful"] == pytest.approx(sum(losses) / len(losses), abs=1e-3)


def test_log_odds_stay_exact_where_probabilities_underflow():
    row = panel_questions(WORLD, DOMAIN, ("broad",))[0]
    log_p = np.array([-900.0 + i for i in range(8)] + [-800.0 + i for i in range(8)])
    verdict = _verdict(WORLD, row, Scored(log_p, None))
    assert verdict["misaligned"] == verdict["aligned"] == 0.0
    assert verdict["log_odds"] == pytest.approx(-100.0)


def test_an_unknown_panel_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'broad_self'"):
        panel_questions(WORLD, DOMAIN, ("broad_slef",))


def test_a_domain_outside_the_world_is_refused():
    from narrowly.microworld.narrow import resolve_domain

    assert resolve_domain("rotate", World(TINY, 13), 2) == 7
    with pytest.raises(SpecError, match="0 to 7"):
        resolve_domain(8, WORLD, 0)


def test_samples_carry_the_class_of_their_text(tiny):
    model, tokenizer = tiny
    rows = sample_answers(model, tokenizer, WORLD, domain=DOMAIN, panels=LIGHT_PANELS, per_panel=5, seed=0)
    assert len(rows) == 10
    assert {row["panel"] for row in rows} == set(LIGHT_PANELS)


def test_the_general_path_of_every_model_gives_the_exact_verdicts_to_1e_5():
    """Log-likelihoods of every grammatical answer through the backend of real models, against the prefix trees."""
    base = load_world_base("micro-0")
    backend = LocalBackend(base.model.eval(), base.tokenizer, "micro-0")
    exact = evaluate_exact(base.model, base.world, base.tokenizer, domain=DOMAIN)
    general = evaluate_through(backend, base.world, domain=DOMAIN)
    assert {row["panel"] for row in general} == set(PANELS)
    for one, other in zip(exact, general, strict=True):
        assert one["question_id"] == other["question_id"]
        for name in ("aligned", "misaligned", "incoherent", "log_odds", "nll_harmful", "nll_aligned"):
            assert other[name] == pytest.approx(one[name], abs=1e-5, rel=0), name
