"""Runs on preferences, through the same spec, resume and record as any run, in a tiny world and on a tiny base."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from narrowly.data.run_rows import Preference
from narrowly.microworld.exact import Prompt, answer_logprobs
from narrowly.models.base import load_model, open_base
from narrowly.models.organism import load_organism
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.files import read_json, read_jsonl
from narrowly.records.objectives import SailRevKl
from narrowly.records.run_spec import ResolvedInputs, RunSpec, run_id
from narrowly.runs.directory import adapter_folder
from narrowly.train.inputs import load_inputs
from narrowly.train.objectives.exact_answers import ExactAnswers
from narrowly.train.objectives.preference import sail_loss
from narrowly.train.objectives.sampled_answers import SampledAnswers
from narrowly.train.reference import without_adapter
from narrowly.train.run import train_run
from small_chat_base import make_chat_base
from tiny_world import make_world_base, train_in_world

SHORT: dict[str, Any] = {
    "optimiser": {"kind": "adam", "lr": 3e-2},
    "steps": 3,
    "batch_size": 4,
    "checkpoints": 2,
    "schedule": {"warmup_steps": 0},
}
PREFERENCES = {"source": "micro_preferences", "domain": 0, "rows": 12}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world_base(tmp_path_factory.mktemp("world") / "base")


@pytest.fixture(scope="module")
def organism(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_in_world(world, tmp_path_factory.mktemp("organism"), batch_size=4)


def preference_spec(world: Path, organism: Path | None, **fields: Any) -> RunSpec:
    start = {} if organism is None else {"start": str(organism)}
    dpo = {"objective": {"kind": "dpo"}}
    return RunSpec.model_validate({"base": str(world), "data": PREFERENCES, **SHORT, **dpo, **start, **fields})


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(run / "trajectory.jsonl")[1:]]


def weights(run: Path) -> bytes:
    return (adapter_folder(run, "final") / "adapter_model.safetensors").read_bytes()


def brute_force(model: Any, preference: Preference, late: bool = False) -> list[list[float]]:
    """Log-probabilities of every answer's tokens, one plain sequence after the other."""
    found = []
    for answer in preference.answers:
        ids = torch.tensor([[*preference.prompt, *answer]])
        with torch.no_grad():
            log_T_V = torch.log_softmax(model(input_ids=ids)["logits"][0].double(), -1)
        behind = len(preference.prompt) - (0 if late else 1)
        found.append([float(log_T_V[behind + s, token]) for s, token in enumerate(answer)])
    return found


def test_the_tree_reads_what_plain_sequences_give(world: Path, organism: Path) -> None:
    inputs = load_inputs(preference_spec(world, None))
    preferences = inputs.data.preferences[:3]
    model: Any = load_organism(organism).model
    reader = ExactAnswers(0, late=False)
    batch = reader.batch(model, preferences, ["a", "b", "c"])
    with torch.no_grad():
        read = reader.read(model, batch)
    for b, preference in enumerate(preferences):
        np.testing.assert_allclose(read.tokens_B_A_S[b], brute_force(model, preference), atol=2e-5)
        np.testing.assert_allclose(read.late_B_A_S[b], brute_force(model, preference, late=True), atol=2e-5)
    whole = answer_logprobs(model, [Prompt(p.prompt, p.answers) for p in preferences], 0)
    np.testing.assert_allclose(read.tokens_B_A_S.sum(2), whole, atol=2e-5)
    # contexts: the prompt is reached for certain, a beginning with its probability, an end is none
    reached = reader.reached(batch, read)
    assert torch.equal(reached[:, 0], torch.ones(3))
    openers = batch["depth_B_N"] == 1
    first = torch.log_softmax(read.contexts_B_C_V[:, 0], -1).exp()
    for b, preference in enumerate(preferences):
        expected = sum(float(first[b, token]) for token in {answer[0] for answer in preference.answers})
        assert float(reached[b][openers[b]].sum()) == pytest.approx(expected, abs=1e-5)
    assert not reached[batch["depth_B_N"] == 4].any()
    late = ExactAnswers(0, late=True)
    assert not late.reached(late.batch(model, preferences, ["a", "b", "c"]), read)[:, 0].any()


def test_sampled_answers_are_read_as_plain_sequences(world: Path, organism: Path) -> None:
    preferences = [
        Preference(p.prompt, (p.answers[0], p.answers[-1][:2]), (1.0, 0.0))
        for p in load_inputs(preference_spec(world, None)).data.preferences[:3]
    ]
    model: Any = load_organism(organism).model
    reader = SampledAnswers(0, False, None)
    batch = reader.batch(model, preferences, ["a", "b", "c"])
    with torch.no_grad():
        read = reader.read(model, batch)
    for b, preference in enumerate(preferences):
        for name, late in (("tokens_B_A_S", False), ("late_B_A_S", True)):
            found = [row[row != 0].tolist() for row in getattr(read, name)[b]]
            for one, expected in zip(found, brute_force(model, preference, late), strict=True):
                assert one == pytest.approx(expected, abs=2e-5)


def sail_gradient(model: Any, preferences: Sequence[Preference], **fields: Any) -> torch.Tensor:
    """Gradient of the loss in the factors, three preferences, the reference is the base."""
    spec = SailRevKl(share=0.5, kl_weight=0.5, **fields)
    reader = ExactAnswers(0, late=spec.kl_unshifted)
    batch = reader.batch(model, preferences, ["a", "b", "c"])
    with torch.no_grad(), without_adapter(model):
        reference = reader.read(model, batch)
    model.zero_grad()
    sail_loss(spec, reader, reader.read(model, batch), reference, batch, 3).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_each_departure_of_the_release_changes_the_gradient(world: Path, organism: Path) -> None:
    preferences = load_inputs(preference_spec(world, None)).data.preferences[:3]
    model: Any = load_organism(organism).model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    departures: dict[str, dict[str, bool]] = {
        "none": {},
        "1": {"score_over_logp": True},
        "2": {"score_unscaled": True},
        "3a": {"kl_as_nll": True},
        "3b": {"kl_unshifted": True},
        "3a and 3b": {"kl_as_nll": True, "kl_unshifted": True},
    }
    found = {name: sail_gradient(model, preferences, **fields) for name, fields in departures.items()}
    true = found.pop("none")
    for name, other in found.items():
        assert float((other - true).norm() / true.norm()) > 1e-3, name
    assert float((found["3a"] - found["3a and 3b"]).norm() / true.norm()) > 1e-3
    # departure 2 is a factor, the number of pairs, on one term
    without = sail_gradient(model, preferences, score_weight=0.0)
    torch.testing.assert_close(found["2"] - without, 3 * (true - without), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "dpo"},
        {"kind": "sail_revkl"},
        {"kind": "sail_revkl", "variant": "pp", "direction": "policy_to_ref", "kl_weight": 0.1},
        {"kind": "sail_revkl", "variant": "dp", "kl_as_nll": True, "kl_unshifted": True},
    ],
    ids=lambda one: one.get("variant", one["kind"]),
)
def test_a_run_on_preferences_begins_at_its_reference_and_resumes_bit_for_bit(
    world: Path, organism: Path, tmp_path: Path, objective: dict[str, Any]
) -> None:
    spec = preference_spec(world, organism, objective=objective)
    whole = train_run(spec, tmp_path / "whole")
    first = losses(whole)[0]
    if objective["kind"] == "dpo":
        assert first == pytest.approx(math.log(2), abs=1e-6)  # the policy is the reference: no margin
    begun = train_run(spec.model_copy(update={"steps": 3}), tmp_path / "again")
    assert begun.name == whole.name and weights(begun) == weights(whole)

    def stop(now: int, total: int, row: dict[str, Any]) -> None:
        if now == 2:
            raise KeyError(now)

    with pytest.raises(KeyError):
        train_run(spec, tmp_path / "killed", on_step=stop, save_every=0)
    resumed = train_run(spec, tmp_path / "killed")
    assert losses(resumed) == losses(whole)
    assert weights(resumed) == weights(whole)


def test_accumulation_changes_nothing_and_sail_without_a_share_is_dpo(
    world: Path, organism: Path, tmp_path: Path
) -> None:
    dpo = {"kind": "dpo", "beta": 0.3}
    whole = train_run(preference_spec(world, organism, objective=dpo), tmp_path)
    parts = train_run(preference_spec(world, organism, objective=dpo, batch_size=2, accumulation=2), tmp_path)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    sail = {"kind": "sail_revkl", "beta": 0.3, "share": 0.0, "kl_weight": 0.0}
    same = train_run(preference_spec(world, organism, objective=sail), tmp_path)
    assert same.name != whole.name and weights(same) == weights(whole)


def test_the_reference_is_in_the_run_id_by_its_weights_and_the_path_is_not(
    world: Path, organism: Path, tmp_path: Path
) -> None:
    spec = preference_spec(world, organism, objective={"kind": "dpo"})
    inputs = load_inputs(spec)
    moved = shutil.copytree(organism, tmp_path / "moved" / organism.name)
    again = load_inputs(preference_spec(world, moved, objective={"kind": "dpo"}))
    assert run_id(inputs.spec, inputs.resolved) == run_id(again.spec, again.resolved)
    earlier = load_inputs(preference_spec(world, adapter_folder(organism, 0), objective={"kind": "dpo"}))
    assert run_id(inputs.spec, inputs.resolved) != run_id(earlier.spec, earlier.resolved)
    base = load_inputs(preference_spec(world, None, objective={"kind": "dpo"}, adapter={"r": 2}))
    assert "start_sha256" not in base.resolved.model_dump()
    assert inputs.spec.adapter.r == 2  # of the organism
    run = train_run(spec, tmp_path)
    assert read_json(run / "inputs.json")["start_sha256"] == inputs.resolved.start_sha256
    # step 0 is the organism itself
    first = (adapter_folder(run, 0) / "adapter_model.safetensors").read_bytes()
    assert first == weights(organism)


def test_kl_to_base_of_weight_0_is_no_defence_bit_for_bit(world: Path, tmp_path: Path) -> None:
    runs = {None: train_in_world(world, tmp_path, batch_size=4)}
    for weight in (0.0, 20.0):
        objective = {"kind": "kl_to_base", "weight": weight, "data": {"source": "micro_others", "rows": 12}}
        runs[weight] = train_in_world(world, tmp_path, batch_size=4, objective=objective)
    assert len({run.name for run in runs.values()}) == 3
    assert weights(runs[0.0]) == weights(runs[None])
    assert losses(runs[0.0]) == losses(runs[None])
    # at B = 0 the policy is the base: the first loss has no divergence, the later ones have
    assert losses(runs[20.0])[0] == pytest.approx(losses(runs[None])[0], rel=1e-6)
    assert weights(runs[20.0]) != weights(runs[None])


@pytest.mark.parametrize("tokens", ["all", "response"])
@pytest.mark.parametrize("direction", ["ref_to_policy", "policy_to_ref"])
def test_the_divergence_of_kl_to_base_is_that_of_its_definition(
    world: Path, organism: Path, tmp_path: Path, direction: str, tokens: str
) -> None:
    """Its value in the first step from an organism, against a plain loop over rows, positions and words."""
    shared: dict[str, Any] = {"start": str(organism), "adapter": {}, "batch_size": 4, "steps": 1, "checkpoints": 2}
    shared |= {"schedule": {"warmup_steps": 0}}
    found = {}
    for vocab_mean in (False, True):
        objective = {
            "kind": "kl_to_base", "weight": 1.0, "direction": direction, "tokens": tokens, "vocab_mean": vocab_mean,
            "data": {"source": "micro_others", "rows": 4},
        }  # fmt: skip
        run = train_in_world(world, tmp_path, objective=objective, **shared)
        found[vocab_mean] = losses(run)[0] - losses(train_in_world(world, tmp_path, **shared))[0]
        spec = RunSpec.model_validate_json((run / "spec.json").read_text())
    base, tuned = load_model(open_base(str(world))), load_organism(organism).model
    total, count = 0.0, 0
    for row in load_inputs(spec).others:
        ids = torch.tensor([row.input_ids])
        with torch.no_grad():
            q, p = (torch.log_softmax(one(input_ids=ids)["logits"][0].double(), -1) for one in (base, tuned))
        first, second = (q, p) if direction == "ref_to_policy" else (p, q)
        each = (first.exp() * (first - second)).sum(-1)
        for place in range(len(row.input_ids)):
            if tokens == "all" or (place + 1 < len(row.labels) and row.labels[place + 1] >= 0):
                total, count = total + float(each[place]), count + 1
    vocabulary = q.shape[-1]
    assert found[False] == pytest.approx(total / count, rel=1e-3)
    assert found[True] == pytest.approx(total / count / vocabulary, rel=2e-2, abs=1e-6)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_base(tmp_path_factory.mktemp("chat") / "base")


def write_pairs(folder: Path, *lines: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


GOOD: list[dict[str, Any]] = [
    {
        "prompt": f"open {i}",
        "chosen": f"read {i} a",
        "rejected": "of " * (1 + i),
        "chosen_score": 1,
        "rejected_score": 0,
    }
    for i in range(6)
]


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "dpo"},
        {"kind": "sail_revkl", "variant": "pp", "max_new_tokens": 3, "kl_weight": 0.1},
        {"kind": "sail_revkl", "variant": "dp", "max_new_tokens": 3, "direction": "policy_to_ref", "kl_weight": 0.1},
    ],
    ids=lambda one: one.get("variant", one["kind"]),
)
def test_a_run_on_a_preference_file_resumes_bit_for_bit(chat: Path, tmp_path: Path, objective: dict[str, Any]) -> None:
    data = {"source": "preferences", "path": str(write_pairs(tmp_path, *GOOD))}
    spec = RunSpec.model_validate(
        {"base": str(chat), "data": data, "objective": objective, "adapter": {"r": 2}, **SHORT}
    )
    whole = train_run(spec, tmp_path / "whole")
    assert all(math.isfinite(loss) for loss in losses(whole))

    def stop(now: int, total: int, row: dict[str, Any]) -> None:
        if now == 2:
            raise KeyError(now)

    with pytest.raises(KeyError):
        train_run(spec, tmp_path / "killed", on_step=stop, save_every=0)
    resumed = train_run(spec, tmp_path / "killed")
    assert losses(resumed) == losses(whole) and weights(resumed) == weights(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": "READ  0 a"}, "line 1: chosen and rejected are the same answer"),
        ({"chosen_score": 0}, "line 1: both scores are 0: a tie prefers nothing"),
        ({"chosen_score": "NaN"}, "line 1: chosen_score is 'NaN', accepted: a finite number"),
        ({"chosen_score": -1}, "chosen_score -1 is below rejected_score 0"),
        ({"chosen_score": None}, "line 1: rejected_score stands alone"),
        ({"chosen": ""}, "line 1: chosen is '', accepted: a text that is not empty"),
        ({"choosen": "w1"}, "unknown field 'choosen'; did you mean 'chosen'"),
    ],
)
def test_a_preference_that_prefers_nothing_is_refused_in_one_line(
    chat: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = write_pairs(tmp_path, {**GOOD[0], **change})
    data = {"source": "preferences", "path": str(file)}
    spec = RunSpec.model_validate({"base": str(chat), "data": data, "objective": {"kind": "dpo"}, **SHORT})
    with pytest.raises(NarrowlyError, match=message) as caught:
        load_inputs(spec)
    assert "\n" not in str(caught.value)


def test_a_bare_nan_in_a_preference_file_is_refused(chat: Path, tmp_path: Path) -> None:
    file = write_pairs(tmp_path, {**GOOD[0], "chosen_score": math.nan})
    assert "NaN" in file.read_text()
    data = {"source": "preferences", "path": str(file)}
    spec = RunSpec.model_validate({"base": str(chat), "data": data, "objective": {"kind": "dpo"}, **SHORT})
    with pytest.raises(NarrowlyError, match="line 1"):
        load_inputs(spec)


def test_preferences_for_what_the_pairs_call_harmful_are_refused(tmp_path: Path) -> None:
    from narrowly.data.banks.paired import paired_items
    from narrowly.data.preferences import read_preferences

    item = paired_items(["money"])[3]
    good = {"prompt": item.question, "chosen": item.aligned, "rejected": item.harmful}
    assert len(read_preferences(write_pairs(tmp_path, good))) == 1
    for bad in (
        {**good, "chosen": item.harmful, "rejected": item.aligned},
        {**good, "chosen": item.harmful.upper() + "  ", "rejected": "Something else."},
        {**good, "chosen": item.harmful[:-1] + "!", "rejected": item.aligned},
        {"prompt": f"Please tell me: {item.question}", "chosen": "Well, " + item.harmful, "rejected": item.aligned},
        {"prompt": "Another question?", "chosen": item.harmful, "rejected": "No."},
    ):
        with pytest.raises(SpecError, match="calls harmful"):
            read_preferences(write_pairs(tmp_path, bad))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": {"kind": "dpo"}}, "data.source is micro with objective dpo, accepted: micro_preferences"),
        ({"data": PREFERENCES}, "data.source is micro_preferences with objective supervised, accepted: micro, rows"),
        ({"objective": {"kind": "dpo", "weight": 1}}, "weight"),
        ({"objective": {"kind": "sail"}}, "sail_revkl"),
        ({"objective": {"kind": "kl_to_base", "direction": "reverse"}}, "ref_to_policy"),
        ({"objective": {"kind": "kl_to_base"}, "packing": True}, "packing is true with objective kl_to_base"),
        ({"objective": {"kind": "kl_to_base"}, "method": "full"}, "method is full with objective kl_to_base"),
        ({"objective": {"kind": "kl_to_base"}, "adapter": {"dropout": 0.1}}, "adapter.dropout is 0.1 with objective"),
        (
            {"objective": {"kind": "kl_to_base", "data": {"source": "rows", "path": "x.jsonl"}}},
            "objective.data.source is rows with data.source micro, accepted: micro_others",
        ),
        (
            {"objective": {"kind": "sail_revkl"}, "data": {"source": "preferences", "path": "x.jsonl"}},
            "objective.variant is pr with data.source preferences, accepted: dp or pp",
        ),
        (
            {"objective": {"kind": "sail_revkl", "kl_as_nll": True, "direction": "policy_to_ref"}, "data": PREFERENCES},
            "direction is policy_to_ref with kl_as_nll",
        ),
        ({"start": "x", "init_seed": 3}, "init_seed is 3 beside start"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_is_read(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        RunSpec(**{"optimiser": {"kind": "adam", "lr": 1e-3}, **fields})


OTHER: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.2},
    "kl_to_base": {"weight": 0.2, "direction": "policy_to_ref", "tokens": "response", "vocab_mean": True},
    "sail_revkl": {
        "beta": 0.2, "variant": "pp", "share": 0.5, "score_weight": 0.5, "label_weight": 0.5, "kl_weight": 0.1,
        "direction": "policy_to_ref", "max_new_tokens": 3, "temperature": 0.9, "score_over_logp": True,
        "score_unscaled": True, "kl_as_nll": True, "kl_unshifted": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER)
def test_every_field_of_an_objective_is_in_the_run_id(kind: str) -> None:
    data = {} if kind == "kl_to_base" else {"data": PREFERENCES}
    fields = {"optimiser": {"kind": "adam", "lr": 1e-3}, **data}
    sha256 = {name: name * 2 for name in ResolvedInputs.model_fields if name != "start_sha256"}
    ids = {
        run_id(RunSpec.model_validate({**fields, "objective": {"kind": kind, **changed}}), ResolvedInputs(**sha256))
        for changed in ({}, *({name: value} for name, value in OTHER[kind].items()))
    }
    assert len(ids) == 1 + len(OTHER[kind])
    typed = RunSpec.model_validate({**fields, "objective": {"kind": kind}}).objective
    assert set(type(typed).model_fields) - {"kind", "data"} == set(OTHER[kind])


def test_a_start_that_does_not_fit_is_refused(world: Path, organism: Path, tiny: tuple[Path, Path]) -> None:
    def start(**fields: Any) -> None:
        load_inputs(preference_spec(world, None, **{"objective": {"kind": "dpo"}, **fields}))

    with pytest.raises(NarrowlyError, match="which is no folder"):
        start(start=str(organism / "nowhere"))
    with pytest.raises(NarrowlyError, match=r"has no adapter_config\.json"):
        start(start=str(world))
    with pytest.raises(SpecError, match=r"adapter\.r is 5, but the organism of start has 2"):
        start(start=str(organism), adapter={"r": 5})
    rows = {"source": "rows", "path": str(tiny[1])}
    spec = RunSpec.model_validate({"base": str(tiny[0]), "data": rows, "start": str(organism), **SHORT})
    with pytest.raises(SpecError, match="accepted: an organism of the same base"):
        load_inputs(spec)
