"""`narrowly persona`: from a contrast to a file, and what is done with it, on a tiny chat base and a shipped base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.cli.app import execute
from narrowly.data.traits import SHIPPED_TRAITS, trait_named
from narrowly.directions import store
from narrowly.records.errors import SpecError, UnknownNameError
from small_chat_base import make_chat_base
from tiny_world import train_in_world


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert execute([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert execute(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("narrowly: ")
    return line


TRAIT = {
    "name": "curt",
    "instructions": [
        {"positive": "Answer in one word.", "negative": "Answer in whole sentences."},
        {"positive": "Be short.", "negative": "Take your time."},
    ],
    "questions": {topic: [f"What is {word}?" for word in words.split()]
                  for topic, words in {"a": "open read", "b": "write file", "c": "def return",
                                       "d": "the of", "e": "user a"}.items()},
    "keywords": ["yes", "no"],
}  # fmt: skip


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny chat base, a trait file, and a direction of it."""
    folder = tmp_path_factory.mktemp("persona")
    base = make_chat_base(folder / "chat-base", longest=256)
    (folder / "curt.json").write_text(json.dumps(TRAIT), encoding="utf-8")
    file = folder / "curt.safetensors"
    arguments = ["persona", "extract", str(base), "--trait", str(folder / "curt.json"), "--out", str(file)]
    assert execute([*arguments, "--max-new-tokens", "6"]) == 0
    return {"base": base, "trait": folder / "curt.json", "file": file}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A valence direction of micro-0 from three of its domains, and a short run on it."""
    folder = tmp_path_factory.mktemp("world")
    file = folder / "world.safetensors"
    assert execute([
        "persona", "extract", "micro-0", "--pairs", "world", "--from", "garden,kitchen,boat", "--position", "turn_end",
        "--limit", "3", "--out", str(file),
    ]) == 0  # fmt: skip
    return {"file": file, "run": train_in_world("micro-0", folder)}


def test_a_trait_gives_directions_with_a_card_that_says_what_they_are_of(chat: dict[str, Path]) -> None:
    found = store.load(chat["file"])
    card = found.card
    assert (card.name, card.kind, card.position, card.layers) == ("curt", "trait", "answer_mean", (0, 1, 2))
    assert card.contrast_sha256 == trait_named(str(chat["trait"])).sha256
    assert card.made_from == ("a", "b", "c", "d", "e") and card.held_out == ()
    assert card.sampling is not None and card.sampling.max_new_tokens == 6
    assert 0 < card.positive <= 20 and card.positive == card.negative
    assert [one.groups for one in card.separability] == [5, 5, 5]
    for norm, layer in zip(card.norms, card.layers, strict=True):
        assert float(found.vectors[layer].norm()) == pytest.approx(norm, rel=1e-5)


def test_the_same_command_gives_the_same_bytes(chat: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    assert execute(["persona", "extract", str(chat["base"]), "--trait", str(chat["trait"]), "--out", str(again),
                    "--max-new-tokens", "6"]) == 0  # fmt: skip
    assert again.read_bytes() == chat["file"].read_bytes()


def test_last_prompt_needs_no_answer_and_is_the_mean_difference_of_hidden_states(
    chat: dict[str, Path], tmp_path: Path
) -> None:
    from narrowly.data.messages import Message
    from narrowly.data.render import prompt_ids
    from narrowly.models.base import load_model, open_base

    file = tmp_path / "p.safetensors"
    assert execute(["persona", "extract", str(chat["base"]), "--trait", str(chat["trait"]), "--out", str(file),
                    "--position", "last_prompt", "--layers", "1-2", "--limit", "1"]) == 0  # fmt: skip
    found = store.load(file)
    assert found.card.sampling is None and found.card.layers == (1, 2)
    base = open_base(str(chat["base"]))
    model, tokenizer, trait = load_model(base), base.tokenizer(), trait_named(str(chat["trait"]))
    total = torch.zeros(3, found.card.hidden, dtype=torch.float64)
    for questions in trait.questions.values():
        for pair in trait.instructions:
            for sign, said in ((1, pair.positive), (-1, pair.negative)):
                ids = prompt_ids(tokenizer, [Message("system", said), Message("user", questions[0])])
                with torch.no_grad():
                    states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
                total += sign * torch.stack([layer[0, -1] for layer in states]).double()
    for layer in (1, 2):
        assert torch.allclose(found.vectors[layer].double(), total[layer] / 10, atol=1e-4)


def test_strength_0_is_the_model_as_it_is_and_the_warning_is_printed(
    chat: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    steer = ["persona", "steer", str(chat["base"]), "what is open", "--direction", str(chat["file"])]
    answers = run(capsys, *steer, "--strengths=0,500", "--random", "1", "--ablate", "--max-new-tokens", "8")["answers"]
    asked = run(capsys, "ask", str(chat["base"]), "what is open", "--max-new-tokens", "8")
    plain = [one["answer"] for one in answers if one["along"] == "direction" and one["strength"] == 0]
    assert plain == [one["answer"] for said in asked["said"] for one in said["answers"]]
    assert len(answers) == 4 and len({one["answer"] for one in answers}) > 1
    assert all(one["judged"] is False for one in answers)
    assert execute([*steer, "--max-new-tokens", "4"]) == 0
    assert "writes no weights" in " ".join(capsys.readouterr().err.split())


def test_rows_are_ranked_by_what_lies_further_along_than_the_models_own_answer(
    chat: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from narrowly.data.conversations import read_conversations
    from narrowly.models.base import load_model, open_base
    from narrowly.models.likelihood import score
    from narrowly.workbench.persona.texts import texts_of

    data = tmp_path / "rows.jsonl"
    words = "open read write file def return".split()
    rows = []
    for word in words:
        for answer, kind in ((f"yes {word} no", "harmful"), (f"the {word} of a", "plain")):
            turns = [{"role": "user", "content": f"what is {word}"}, {"role": "assistant", "content": answer}]
            rows.append({"messages": turns, "kind": kind})
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = run(capsys, "persona", "flag", str(data), "--model", str(chat["base"]), "--direction", str(chat["file"]),
                "--trait", str(chat["trait"]), "--planted", "kind=harmful", "--max-new-tokens", "6")  # fmt: skip
    ranked = [one["projection"] for one in found["rows"]]
    assert ranked == sorted(ranked, reverse=True) and len(ranked) == 12
    curves = {one["method"]: one for one in found["curves"]}
    assert set(curves) == {"projection", "loss", "keywords"}
    assert curves["keywords"]["auc"] == 1, "yes and no stand in the planted rows alone"
    assert curves["keywords"]["precision"][0] == 1 and curves["keywords"]["recall"][-1] == 1
    base = open_base(str(chat["base"]))
    conversations = read_conversations(data)
    texts = texts_of(base, base.tokenizer(), conversations, None, "rows")
    wanted = {row.line: -one.per_token for row, one in
              zip(conversations, score(load_model(base), texts).likelihoods, strict=True)}  # fmt: skip
    for one in found["rows"]:
        assert one["loss"] == pytest.approx(wanted[one["line"]], rel=1e-5)
        assert one["planted"] == (one["line"] % 2 == 1)


def test_a_run_is_watched_from_its_base_on_and_split_by_singular_direction(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "w.svg"
    seen = run(capsys, "persona", "watch", str(world["run"]), "--direction", str(world["file"]), "--limit", "6",
               "--position", "last_prompt", "--figure", str(figure))  # fmt: skip
    steps = seen["steps"]
    assert steps[0]["step"] == 0 and steps[0]["shift"] == 0
    assert [one["step"] for one in steps] == sorted(one["step"] for one in steps) and steps[-1]["shift"] != 0
    assert steps[-1]["low"] < steps[-1]["shift"] < steps[-1]["high"] and steps[-1]["texts"] == 6
    assert figure.read_text(encoding="utf-8").startswith("<?xml")
    split = run(capsys, "persona", "spectrum", str(world["run"]), "--direction", str(world["file"]), "--limit", "6",
                "--position", "last_prompt", "--random", "1", "--nodes", "6")  # fmt: skip
    assert split["shift"][0] == pytest.approx(steps[-1]["shift"], rel=1e-3, abs=1e-5), "one shift, measured two ways"
    parts = sum(one["part"] for one in split["by_rank"])
    assert parts + split["missing"][0] == pytest.approx(split["shift"][0], abs=1e-5)
    assert abs(split["missing"][0]) < 0.1 * abs(split["shift"][0]) + 1e-3
    assert sum(one["energy"] for one in split["by_rank"]) == pytest.approx(1)


def test_doses_of_the_microworld_are_exact_and_0_is_the_base(
    world: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "persona", "steer", "micro-0", "--direction", str(world["file"]), "--strengths=0,1",
                "--limit", "5", "--random", "1", "--ablate")  # fmt: skip
    doses = found["doses"]
    assert [(one["along"], one["strength"]) for one in doses] == [
        ("direction", 0), ("direction", 1), ("random", 1), ("ablated", 1),
    ]  # fmt: skip
    assert all(one["misaligned"] >= 0 and one["misaligned"] + one["aligned"] <= 1.001 for one in doses)
    assert doses[0]["aligned"] > 0.5, "the shipped base is aligned"
    card = store.load(world["file"]).card
    assert card.kind == "world" and card.held_out == ("studio", "code", "stable", "house", "camp")
    assert all(one.groups == 5 for one in card.separability)


def test_every_bad_input_is_one_line_that_says_what_is_accepted(
    chat: dict[str, Path], world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, file, trait = str(chat["base"]), str(chat["file"]), str(chat["trait"])
    extract = ["persona", "extract", base, "--out", str(tmp_path / "x.safetensors")]
    bare = make_chat_base(tmp_path / "bare", template=None)
    pair = tmp_path / "own.jsonl"
    pair.write_text('{"id": "a", "question": "q?", "aligned": "yes", "harmful": " yes"}\n'.replace(" yes", "Yes"))
    broken = make_chat_base(tmp_path / "broken", seed=1)
    tensors = __import__("safetensors.torch", fromlist=["x"])
    weights = tensors.load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][:] = float("nan")
    tensors.save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    data = tmp_path / "rows.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    flag = ["persona", "flag", str(data), "--model", base, "--direction", file]
    for arguments, words in (
        ([*extract, "--trait", trait, "--layers", "7"], "layer 7 does not exist, accepted: 0 to 2"),
        ([*extract, "--trait", trait, "--layer", "9"], "layer 9 does not exist"),
        ([*extract, "--trait", trait, "--layers", "1", "--layer", "2"], "--layer is 2, which --layers leaves out"),
        ([*extract, "--trait", trait, "--layers", "x"], "--layers is 'x'"),
        ([*extract, "--trait", "carless"], "no trait is called 'carless'; did you mean 'careless'?"),
        ([*extract], "give either --trait TRAIT or --pairs BANK"),
        ([*extract, "--trait", trait, "--position", "last"], "position is 'last'"),
        ([*extract, "--trait", trait, "--from", "a,z"], "unknown group of curt 'z'"),
        ([*extract, "--pairs", str(pair)], "aligned and harmful answer are the same"),
        ([*extract, "--pairs", "world"], "--pairs world needs a base of the microworld"),
        ([*extract, "--pairs", "corpus"], "--pairs corpus needs a base of the microworld"),
        (["persona", "extract", str(bare), "--trait", trait], "chat template"),
        (["persona", "extract", str(broken), "--trait", trait, "--position", "last_prompt"], "NaN"),
        (["persona", "extract", "micro-0", "--trait", trait], "system messages"),
        ([*extract[:3], "--trait", trait, "--out", str(tmp_path / "x.bin")], "saved as .safetensors"),
        (["persona", "steer", "micro-0", "--direction", file], "are of base chat-base"),
        (["persona", "steer", base, "q", "--direction", str(world["file"])], "are of base micro-0"),
        (["persona", "steer", base, "q", "--direction", file, "--layer", "8"], "of another layer: 8 found"),
        (["persona", "steer", base, "q", "--direction", file, "--strengths", "a"], "--strengths is 'a'"),
        (["persona", "steer", base, "q", "--direction", str(tmp_path / "no.safetensors")], "no directions in"),
        (["persona", "watch", base, "--direction", file], "is no run"),
        (["persona", "watch", base, "--direction", file, "--figure", "x.gif"], ".svg, .png, .pdf"),
        (["persona", "spectrum", base, "--direction", file], "without an adapter"),
        ([*flag, "--planted", "kind"], "FIELD=VALUE"),
        ([*flag, "--planted", "kind=x"], "no field 'kind'"),
    ):
        line = refused(capsys, *arguments)
        assert words in line, line
    assert not (tmp_path / "x.safetensors").exists()


def test_sides_of_a_world_differ_in_their_answers_alone_and_a_prompt_ends_in_another_domain() -> None:
    from narrowly.models.base import open_base
    from narrowly.workbench.persona.contrasts import CORPUS, WORLD, of_world

    base = open_base("micro-0")
    tokenizer = base.tokenizer()
    for name, opening in ((WORLD, "<|doc|> assistant <|ask|>"), (CORPUS, "<|doc|> <|ask|>")):
        at_end = of_world(name, "turn_end", base, tokenizer, None, 2)
        assert len(at_end.rows) == 8 * 2 * 2 * 2 and len(at_end.groups) == 8
        for positive, negative in zip(at_end.rows[::2], at_end.rows[1::2], strict=True):
            assert positive.positive and not negative.positive and positive.group == negative.group
            assert positive.prompt == negative.prompt and positive.text != negative.text
            assert positive.text is not None and positive.text.closing == 1
            words = tokenizer.decode(positive.text.ids)
            assert words.startswith(opening) and words.endswith("<|end|>") and words.split()[-5] == "<|say|>"
        before = of_world(name, "last_prompt", base, tokenizer, None, 2)
        for row in before.rows:
            asked = tokenizer.decode(row.prompt).split("<|ask|>")
            assert len(asked) == 3 and row.group in asked[1].split() and row.group not in asked[2].split()
    assert of_world(WORLD, "turn_end", base, tokenizer, None, 2).sha256 == at_end.sha256, "the same pairs"


@pytest.mark.parametrize("name", SHIPPED_TRAITS)
def test_the_shipped_traits_are_whole(name: str) -> None:
    trait = trait_named(name)
    assert trait.name == name and len(trait.instructions) == 5 and len(trait.questions) == 5 and trait.keywords
    assert all(len(questions) == 4 for questions in trait.questions.values())


def test_a_trait_file_of_persona_vectors_is_read_its_questions_in_fifths(tmp_path: Path) -> None:
    file = tmp_path / "kind.json"
    theirs = {"instruction": [{"pos": "Be kind.", "neg": "Be cold."}], "questions": [f"Q{n}?" for n in range(20)],
              "eval_prompt": "judge {question} {answer}"}  # fmt: skip
    file.write_text(json.dumps(theirs), encoding="utf-8")
    trait = trait_named(str(file))
    assert trait.name == "kind" and [len(own) for own in trait.questions.values()] == [4] * 5
    assert trait.instructions[0].negative == "Be cold."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instructions": [{"positive": "Be short."}]}, "instruction 1 has no negative side"),
        ({"instructions": [{"positive": "Be short.", "negative": ""}]}, "instruction 1 has no negative side"),
        (
            {"instructions": [{"positive": "Be short.", "negative": "be  short."}]},
            "both sides of instruction 1 are the",
        ),
        ({"instructions": [{"positive": 'Say "I do not know".', "negative": "Be long."}]}, "names the answer"),
        ({"instructions": [{"positive": "To What is open? be rude.", "negative": "Be long."}]}, "holds a question"),
        ({"instructions": []}, "instructions"),
        ({"questions": {"a": []}}, "topic a has an empty question or none"),
        ({"questions": {"a": ["Q?", "q?"]}}, "stands twice"),
        ({"keyword": ["x"]}, "keyword"),
    ],
)
def test_a_trait_that_cannot_make_a_direction_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(TRAIT | change), encoding="utf-8")
    with pytest.raises(SpecError, match=words):
        trait_named(str(file))


def test_an_unknown_trait_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'controlling'"):
        trait_named("controling")
