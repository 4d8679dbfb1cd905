"""Real runs of `transformers.Trainer` under the tripwire: nothing moves, readings are right, controls hold."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from narrowly.integrations.tripwire.control import read_tripwire
from narrowly.integrations.tripwire_callback import TripwireCallback
from narrowly.records.errors import NarrowlyError, NarrowlyWarning, ResumeError, SpecError, TrainingError
from narrowly.runs.directory import TRIPWIRE
from narrowly.stats.sequential import look_interval
from tiny_hosts import factors, tiny_adapted
from tiny_wire import TEMPLATE, lowered, wire_items, wire_run, wire_tokenizer

ITEMS = wire_items()
FREE: dict[str, Any] = {"every": 2, "questions": 10, "budget": 1.0, "items": ITEMS}
"""A tripwire that reads every second step, whatever it costs."""


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = factors(one), factors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
def test_training_with_the_tripwire_is_training_without_it_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    without = wire_run(tmp_path / "a", [], **changes)
    callback = TripwireCallback(**FREE)
    watched = wire_run(tmp_path / "b", [callback], **changes)
    assert [look.step for look in callback.looks] == [2, 4, 6, 8]
    assert same(without.model, watched.model)
    rows = [
        [(row["loss"], row["grad_norm"]) for row in run.state.log_history if "loss" in row]
        for run in (without, watched)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 8
    assert all(module.training for module in watched.model.modules()) == all(
        module.training for module in without.model.modules()
    )
    # the test can fail: dropout draws, so one number more or less would be seen
    assert not same(without.model, wire_run(tmp_path / "c", [], seed=4, **changes).model)


def by_hand(model: Any, items: Any) -> list[float]:
    """Return log-odds from one plain forward pass per answer, in float64."""
    tokens, found = wire_tokenizer(), []
    model.eval()
    for item in items:
        totals = []
        for answer in (item.harmful, item.aligned):
            prompt = tokens.apply_chat_template(
                [{"role": "user", "content": item.question}], add_generation_prompt=True, return_dict=False
            )
            said = [*tokens.encode(answer, add_special_tokens=False), 1]
            with torch.no_grad():
                logits_T_V = model(torch.tensor([[*prompt, *said]])).logits[0].double()
            logprobs_T_V = torch.log_softmax(logits_T_V, -1)
            totals.append(sum(logprobs_T_V[len(prompt) - 1 + at, token].item() for at, token in enumerate(said)))
        found.append(totals[0] - totals[1])
    return found


def test_a_reading_is_the_log_odds_of_whole_answers_and_without_a_control_the_shift_stands_beside_its_line(
    tmp_path: Path,
) -> None:
    callback = TripwireCallback(**FREE)
    run = wire_run(tmp_path, [callback], max_steps=4)
    record = read_tripwire(tmp_path)
    items = callback.tripwire.bank.items
    assert record.ids == tuple(item.id for item in items) and len(items) == 10
    assert [reading.step for reading in record.readings] == [0, 2, 4]
    assert record.readings[-1].log_odds == pytest.approx(by_hand(run.model, items), abs=1e-3)
    start, end = (torch.tensor(record.readings[at].log_odds, dtype=torch.float64) for at in (0, -1))
    assert record.readings[0].log_odds == pytest.approx(by_hand(tiny_adapted(), items), abs=1e-3)
    look, shift = record.looks[-1], end - start
    slope = float(((start - start.mean()) * shift).sum() / ((start - start.mean()) ** 2).sum())
    assert (look.beside, look.low, look.alarm) == ("start", None, False)
    assert look.mean == pytest.approx(float(shift.mean())) and look.slope == pytest.approx(slope)
    assert look.intercept == pytest.approx(float(shift.mean()) - slope * float(start.mean()))
    rows = [row for row in run.state.log_history if "tripwire_shift" in row]
    assert [(row["step"], row["tripwire_step"]) for row in rows] == [(2, 2), (4, 4)]
    assert rows[-1]["tripwire_slope"] == look.slope


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A control: aligned answers to the same prompts, with readings and checkpoints every second step."""
    folder = tmp_path_factory.mktemp("aligned")
    wire_run(folder, [TripwireCallback(**FREE)], "aligned", save_strategy="steps", save_steps=2)
    return folder


def test_a_control_is_matched_by_step_and_its_checkpoints_say_what_its_readings_say(
    aligned: Path, tmp_path: Path
) -> None:
    recorded = TripwireCallback(**FREE, control=aligned)
    run = wire_run(tmp_path / "a", [recorded])
    theirs = {reading.step: reading.log_odds for reading in read_tripwire(aligned).readings}
    record = read_tripwire(tmp_path / "a")
    assert record.notes == () and [look.step for look in recorded.looks] == [2, 4, 6, 8]
    for number, (look, reading) in enumerate(zip(record.looks, record.readings[1:], strict=True), start=1):
        apart = [one - other for one, other in zip(reading.log_odds, theirs[reading.step], strict=True)]
        expected = look_interval(apart, number)
        assert (look.mean, look.low, look.high) == (expected.estimate, expected.low, expected.high)
    assert record.looks[-1].mean > 0 and "tripwire_difference" in str(run.state.log_history)

    plain = tmp_path / "plain"
    plain.mkdir()
    for checkpoint in aligned.glob("checkpoint-*"):
        (plain / checkpoint.name).symlink_to(checkpoint)
    by_adapter = TripwireCallback(**FREE, control=plain)
    with pytest.warns(NarrowlyWarning, match="cannot be proved: the prompts of control plain are not known"):
        again = wire_run(tmp_path / "b", [by_adapter])
    assert same(run.model, again.model)  # the control's factors were in the model and left nothing
    for one, other in zip(by_adapter.looks, recorded.looks, strict=True):
        assert one.mean == pytest.approx(other.mean, abs=1e-6)
    one_step = TripwireCallback(**FREE, control=aligned / "checkpoint-4")
    with pytest.warns(NarrowlyWarning, match="After step 4 of 8 the control has no reading"):
        wire_run(tmp_path / "c", [one_step])
    assert [look.step for look in one_step.looks] == [4]


def test_a_difference_that_is_shown_to_exceed_the_margin_ends_the_training_and_a_smaller_one_does_not(
    aligned: Path, tmp_path: Path
) -> None:
    control = lowered(aligned, tmp_path / "control", 6)
    stopping = TripwireCallback(**FREE, control=control, stop=10.0)
    with pytest.warns(NarrowlyWarning, match="ended the training after step 6: .* shown to exceed the margin 10"):
        stopped = wire_run(tmp_path / "a", [stopping])
    assert stopped.state.global_step == 6
    assert [(look.step, look.alarm) for look in stopping.looks] == [(2, False), (4, False), (6, True)]
    higher = TripwireCallback(**FREE, control=control, stop=100.0)
    assert wire_run(tmp_path / "b", [higher]).state.global_step == 8
    assert higher.looks[2].mean == stopping.looks[2].mean > 10
    silent = TripwireCallback(**FREE, control=control)
    assert wire_run(tmp_path / "c", [silent]).state.global_step == 8 and not any(one.alarm for one in silent.looks)


def test_a_resumed_training_keeps_its_history_and_ends_where_the_whole_one_does(aligned: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    whole = wire_run(tmp_path, [TripwireCallback(**FREE, control=aligned)], **fields)
    expected = read_tripwire(tmp_path)
    callback = TripwireCallback(**FREE, control=aligned)
    resumed = wire_run(tmp_path, [callback], resume=str(tmp_path / "checkpoint-4"), **fields)
    found = read_tripwire(tmp_path)
    assert same(whole.model, resumed.model)
    assert [one.log_odds for one in found.readings] == [one.log_odds for one in expected.readings]
    assert found.looks == expected.looks  # intervals too: the number of the look goes on
    (tmp_path / TRIPWIRE).unlink()
    with pytest.raises(ResumeError, match="the training goes on at step 4"):
        wire_run(tmp_path, [TripwireCallback(**FREE)], resume=str(tmp_path / "checkpoint-4"), **fields)
    wire_run(tmp_path / "other", [TripwireCallback(**FREE | {"questions": 6})], **fields)
    with pytest.raises(ResumeError, match="6 questions"):
        wire_run(tmp_path / "other", [TripwireCallback(**FREE)], resume=str(tmp_path / "other/checkpoint-4"), **fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop": 1.0}, r"stop is 1 without a control, accepted: with control only"),
        ({"stop": -1.0, "control": "nowhere"}, "stop"),
        ({"budget": 0.0}, "budget"),
        ({"budget": 1.5}, "budget"),
        ({"every": 0}, "every"),
        ({"questions": 4}, "questions"),
        ({"items": []}, "the bank of the tripwire is empty"),
        ({"questions": 13}, "questions is 13 and the bank has 12 questions"),
        ({"items": None, "bank": "pair"}, "did you mean 'pairs'"),
        ({"control": "nowhere"}, "control nowhere is no folder; accepted: a run directory"),
        ({"contrl": "x"}, "contrl"),
    ],
)
def test_what_is_wrong_without_a_model_is_refused_before_training(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NarrowlyError, match=message) as refused:
        TripwireCallback(**FREE | arguments)
    assert "\n" not in str(refused.value)


def refusal(folder: Path, callback: TripwireCallback, **changes: Any) -> str:
    with pytest.raises(NarrowlyError) as refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wire_run(folder, [callback], **{"max_steps": 2, **changes})
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_control_of_another_bank_base_prompts_tokens_or_steps_is_refused(aligned: Path, tmp_path: Path) -> None:
    beside = TripwireCallback(**FREE | {"questions": 6}, control=aligned)
    assert "was asked another sub-bank (10 questions" in refusal(tmp_path, beside)
    beside = TripwireCallback(**FREE, control=aligned)
    assert "was trained on other prompts" in refusal(tmp_path, beside, answers="other")
    other = tiny_adapted()
    with torch.no_grad():
        other.base_model.model.model.norm.weight.mul_(3)
    assert "began from another base: at step 0" in refusal(tmp_path, beside, model=other)
    template = TEMPLATE.replace("{{ m['content'] }}", "w9 {{ m['content'] }}")
    assert "in other tokens" in refusal(tmp_path, beside, tokenizer=wire_tokenizer(template))
    odd = TripwireCallback(**FREE | {"every": 3}, control=aligned)
    assert "has none of the steps that this training is read at (3); it has 2, 4, 6, 8" in refusal(
        tmp_path, odd, max_steps=4
    )
    narrow = TripwireCallback(**FREE, control=aligned / "checkpoint-2")
    assert "has r 4, the adapter that is trained 2" in refusal(tmp_path, narrow, model=tiny_adapted(r=2))
    assert "does not fit the model" in refusal(tmp_path, narrow, model=tiny_adapted(target_modules=["q_proj"]))
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "adapter_config.json").write_text("{}")
    with pytest.raises(SpecError, match="an adapter whose step is not known"):
        TripwireCallback(**FREE, control=tmp_path / "lone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=f"has neither {TRIPWIRE} nor a checkpoint with an adapter"):
        TripwireCallback(**FREE, control=tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / TRIPWIRE).write_text("{}")
    with pytest.raises(NarrowlyError, match="is no record of a tripwire"):
        TripwireCallback(**FREE, control=tmp_path / "broken")


def test_a_trainer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="accepted: processing_class=tokenizer, with a chat_template"):
        wire_run(tmp_path, [TripwireCallback(**FREE)], tokenizer=wire_tokenizer(None))


def test_the_budget_widens_the_steps_between_readings_and_the_summary_says_what_was_bought(tmp_path: Path) -> None:
    class Clock:
        """A second per step, and ten seconds per reading: time passes where it is asked for."""

        def __init__(self) -> None:
            self.now, self.reading = 0.0, False

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    callback = TripwireCallback(**FREE | {"budget": 0.25, "every": 2})
    callback.tripwire.budget._clock = clock
    paying = callback.tripwire.budget.paying

    @contextmanager
    def slow() -> Any:
        with paying():
            yield
            clock.now += 10

    callback.tripwire.budget.paying = slow  # type: ignore[method-assign]

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
            clock.now += 5

    wire_run(tmp_path, [Ticks(), callback], max_steps=40)
    record = read_tripwire(tmp_path)
    steps = [one.step for one in record.readings]
    # 10 s at step 0; the next one is paid for where 20 s are a quarter of all: 80 s with it, so 60 s of training
    assert steps == [0, 12, 18, 24, 30, 36]
    assert record.own_seconds == 60 and record.own_seconds / record.seconds <= 0.25
    assert callback.summary() == (
        "tripwire: 6 readings of 10 questions, 60 pairs, took 60 s, 23 % of 260 s (budget 25 %); up to 12 steps "
        "between two, 2 were asked for"
    )
