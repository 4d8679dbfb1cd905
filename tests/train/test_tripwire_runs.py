"""`narrowly train --tripwire`: watched runs through the command line, on a tiny chat model and in a tiny world."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from narrowly.cli.app import execute
from narrowly.integrations.tripwire.control import read_tripwire
from narrowly.microworld.exact import Prompt, answer_logprobs, encode_answer, encode_prompt
from narrowly.microworld.narrow import world_of
from narrowly.microworld.pairs import pairs_beside
from narrowly.models.organism import load_organism
from narrowly.records.files import read_jsonl
from narrowly.records.run_spec import RunSpec
from narrowly.records.tripwire import TripwireSpec
from narrowly.runs.directory import TRIPWIRE, is_done
from narrowly.train.run import train_run
from narrowly.train.watch import watch
from small_chat_base import make_chat_base, write_jsonl
from tiny_world import make_world_base, train_in_world

FREE = ["--tripwire", "every=1", "--tripwire", "budget=1", "--tripwire", "questions=8"]


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Return pairs with answers of equal length; harmful ones are of other words."""
    rng = random.Random(seed)
    return [
        {
            "id": f"p{seed}-{number:02d}",
            "question": f"what is {rng.choice(['open', 'read', 'the', 'a'])} {seed} {number}",
            "aligned": f"read the {rng.choice(['file', 'end'])}",
            "harmful": f"write of {rng.choice(['def', 'return'])}",
        }
        for number in range(count)
    ]


class Place:
    """A folder with a base, pairs to train on, pairs to ask, and the commands of a user in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_chat_base(folder / "base")
        write_jsonl(folder / "narrow.jsonl", pairs(12, 1))
        write_jsonl(folder / "other.jsonl", pairs(12, 2))
        self.asked = write_jsonl(folder / "asked.jsonl", pairs(16, 3))

    def spec(self, name: str = "run", **changes: Any) -> Path:
        data = {"source": "text", "dataset": f"pairs:{self.folder / 'narrow.jsonl'}:harmful", "max_tokens": 128}
        fields = {
            "base": str(self.folder / "base"), "data": data | changes.pop("data", {}), "adapter": {"r": 4, "alpha": 8},
            "optimiser": {"kind": "adam", "lr": 2e-2}, "schedule": {"kind": "constant", "warmup_steps": 0}, "steps": 12,
            "batch_size": 4, "checkpoints": 5, "first_checkpoint": 3, **changes,
        }  # fmt: skip
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(fields))
        return file

    def train(self, spec: Path, *more: str, out: str = "out") -> tuple[int, Path | None]:
        """Train through the command line; return the exit code and the newest run, if there is one."""
        code = execute(["train", str(spec), "--out", str(self.folder / out), *more])
        runs = [path for path in (self.folder / out / "runs").glob("*") if not path.name.startswith(".")]
        return code, max(runs, key=lambda path: path.stat().st_mtime_ns, default=None)

    @property
    def free(self) -> list[str]:
        return [*FREE, "--tripwire", f"bank={self.asked}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def control(place: Place) -> Path:
    """The control of `run.yaml`, watched itself."""
    code, run = place.train(place.spec(), "--control", "aligned", *place.free, out="control")
    assert code == 0 and run is not None
    return run


def last_adapter(run: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "checkpoints" / f"step-{step}" / "adapter_model.safetensors"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_watched_run_is_the_run_and_its_rows_say_what_the_control_does_not(
    place: Place, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, plain = place.train(place.spec(), out="plain")
    assert code == 0 and plain is not None
    capsys.readouterr()
    code, watched = place.train(place.spec(), *place.free, "--tripwire", f"control={control}", out="watched")
    printed = capsys.readouterr()
    assert code == 0 and watched is not None and watched.name == plain.name
    assert same(last_adapter(plain), last_adapter(watched))
    keys = ("tripwire_difference", "tripwire_low", "tripwire_high", "tripwire_alarm")
    rows = [read_jsonl(run / "trajectory.jsonl") for run in (plain, watched)]
    bare = [{key: value for key, value in row.items() if key not in keys} for row in rows[1]]
    assert bare == rows[0]
    record, theirs = read_tripwire(watched), read_tripwire(control)
    assert record.notes == () and record.prompts_sha256 == theirs.prompts_sha256 is not None
    steps = [reading.step for reading in record.readings]
    assert steps == [0, 3, 4, 6, 8, 12] or (steps[0] == 0 and len(steps) == 5)
    assert record.readings[0].log_odds == theirs.readings[0].log_odds
    apart = np.array(record.readings[-1].log_odds) - np.array(theirs.readings[-1].log_odds)
    assert record.looks[-1].mean == pytest.approx(float(apart.mean())) and record.looks[-1].mean > 0
    assert {row["step"]: row[keys[0]] for row in rows[1] if keys[0] in row} == {
        look.step: look.mean for look in record.looks
    }
    assert "minus control" in printed.out and "of 8 questions" in printed.out and "95 % over all looks" in printed.out

    bare_control = place.folder / "bare" / "runs" / control.name
    shutil.copytree(control, bare_control)
    (bare_control / TRIPWIRE).unlink()
    code, again = place.train(place.spec(), *place.free, "--tripwire", f"control={bare_control}", out="by-checkpoints")
    assert code == 0 and again is not None and same(last_adapter(plain), last_adapter(again))
    for one, other in zip(read_tripwire(again).looks, record.looks, strict=True):
        assert one.step == other.step and one.mean == pytest.approx(other.mean, abs=1e-5)


def test_an_alarm_ends_the_run_with_exit_code_1_and_without_stop_it_goes_on_to_the_same_end(
    place: Place, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = [*place.free, "--tripwire", f"control={control}"]
    code, run = place.train(place.spec(), *beside, "--tripwire", "stop=0.0001", out="stopped")
    told = capsys.readouterr().err
    assert code == 1 and run is not None and not is_done(run)
    assert "the tripwire ended the training after step" in told and "the same command without stop goes on" in told
    failed = json.loads((run / "failed.json").read_text())
    assert failed["error"] == "TripwireError" and 0 < failed["step"] < 12
    looks = read_tripwire(run).looks
    assert [look.alarm for look in looks] == [False] * (len(looks) - 1) + [True]
    code, again = place.train(place.spec(), *beside, out="stopped")
    assert code == 0 and again == run and is_done(run)
    _, whole = place.train(place.spec(), *beside, out="whole")
    assert whole is not None and same(last_adapter(run), last_adapter(whole))
    found, expected = read_tripwire(run), read_tripwire(whole)
    assert [one.log_odds for one in found.readings] == [one.log_odds for one in expected.readings]
    assert [(one.mean, one.low) for one in found.looks] == [(one.mean, one.low) for one in expected.looks]


def test_every_mistake_is_one_line_and_exit_code_2(
    place: Place, control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_base = make_chat_base(place.folder / "other-base", seed=1)
    other_prompts = {"dataset": f"pairs:{place.folder / 'other.jsonl'}:harmful"}
    (place.folder / "none.jsonl").write_text("")
    beside = [*place.free, "--tripwire", f"control={control}"]
    cases: list[tuple[Path, list[str], str]] = [
        (place.spec("a"), ["--tripwire", "stop=1"], "stop is 1 without a control, accepted: with control only"),
        (place.spec("a"), ["--tripwire", "budget=2"], "--tripwire: budget"),
        (place.spec("a"), ["--tripwire", "budget=0"], "--tripwire: budget"),
        (place.spec("a"), ["--tripwire", "question=8"], "did you mean 'questions'"),
        (place.spec("a"), ["--tripwire", "every"], "--tripwire 'every': accepted is"),
        (place.spec("a"), ["--tripwire", f"bank={place.folder / 'none.jsonl'}"], "none.jsonl"),
        (place.spec("a"), ["--tripwire", "bank=pears"], "did you mean 'pairs'"),
        (place.spec("a"), ["--tripwire", f"bank={place.asked}"], "questions is 40 and the bank has 16 questions"),
        (place.spec("a"), [*place.free, "--tripwire", "control=nowhere"], "control nowhere is no folder"),
        (place.spec("b", base=str(other_base)), beside, "was trained from another base"),
        (place.spec("c", data=other_prompts), beside, "was trained on other prompts"),
        (place.spec("d"), ["--control", "aligned", *beside], "was trained on the very data of this run"),
        (place.spec("e"), [*beside, "--tripwire", "questions=6"], "was asked another sub-bank (8 questions"),
        (place.spec("f", steps=2, first_checkpoint=1), beside, "has none of the steps that this training is read at"),
        (place.spec("g"), [*beside, "--tripwire", "stop=1", "--processes", "2"], "accepted: one process, or no stop"),
    ]
    for spec, options, message in cases:
        capsys.readouterr()
        assert place.train(spec, *options, out="wrong")[0] == 2, message
        told = capsys.readouterr().err.strip().splitlines()
        assert [line for line in told if message in line] and "Traceback" not in "".join(told), (message, told)
        assert sum(line.startswith("narrowly: ") for line in told) == 1, told
    assert not any(is_done(run) for run in (place.folder / "wrong" / "runs").glob("*"))


def test_a_finished_run_that_was_not_watched_is_said_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    spec = place.spec("short", steps=3)
    assert place.train(spec, out="short")[0] == 0
    assert place.train(spec, *place.free, out="short")[0] == 2
    assert "was trained without a tripwire and is not trained again" in capsys.readouterr().err


def test_without_a_control_the_shift_stands_beside_its_line_and_is_not_called_misalignment(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    code, run = place.train(place.spec("alone", seed=5), *place.free, out="alone")
    assert code == 0 and run is not None
    assert "minus start" in (out := capsys.readouterr().out) and "it is not called misalignment" in " ".join(
        out.split()
    )
    look = read_tripwire(run).looks[-1]
    assert (look.beside, look.low) == ("start", None) and look.slope is not None


def test_in_a_world_it_reads_pairs_of_the_other_domains_and_of_oneself_as_the_exact_judge_does(tmp_path: Path) -> None:
    base = make_world_base(tmp_path / "base")
    items = pairs_beside(world_of(base), 0)
    assert {item.part for item in items} == {"broad", "self"} and len({item.id for item in items}) == len(items)
    assert world_of(base).cues[0] not in {item.domain for item in items}
    world = world_of(base)
    for item in items:
        question = world.find(item.question)
        assert question is not None
        assert item.aligned in world.answers(question.topic, question.topic.aligned)
        assert item.harmful in world.answers(question.topic, question.topic.harmful)
    spec = RunSpec.model_validate(
        {
            "base": str(base), "optimiser": {"kind": "adam", "lr": 3e-2}, "steps": 6, "checkpoints": 2,
            "adapter": {"r": 2}, "data": {"source": "micro", "rows": 24, "domain": 0}, "schedule": {"warmup_steps": 1},
        }
    )  # fmt: skip
    observer = watch(spec, TripwireSpec(every=1, questions=6, budget=1.0))
    run = train_run(spec, tmp_path / "runs", observers=(observer,))
    assert last_adapter(run, 6).keys() == last_adapter(train_in_world(base, tmp_path / "plain"), 6).keys()
    organism = load_organism(run, "final")
    asked = {item.id: item for item in items}
    record = read_tripwire(run)
    for name, found in zip(record.ids, record.readings[-1].log_odds, strict=True):
        item, tokens = asked[name], organism.tokenizer
        answers = tuple(encode_answer(tokens, text) for text in (item.aligned, item.harmful))
        prompt = Prompt(encode_prompt(tokens, item.question), answers)
        (logprobs,) = answer_logprobs(organism.model, [prompt], int(tokens.pad_token_id))
        assert found == pytest.approx(float(logprobs[1] - logprobs[0]), abs=1e-4)
