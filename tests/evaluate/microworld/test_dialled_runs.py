"""The dial of one run on a tiny base, against the evaluation of a study and a base whose weights were edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.evaluate.banks import bank_of
from narrowly.evaluate.microworld.dial import RUNGS, Place, ReferenceRun, default_places, dial
from narrowly.evaluate.run_stage import evaluate_organism
from narrowly.models.base import load_model
from narrowly.models.lora import attach_adapter
from narrowly.models.organism import Organism, base_of_run, load_organism
from narrowly.models.second_moments import input_second_moments
from narrowly.records.errors import AdapterError, SpecError
from narrowly.runs.directory import adapter_folder, read_spec
from narrowly.spectrum.dial import split_update
from narrowly.spectrum.folder import pairs_from_folder
from narrowly.spectrum.pairs import plain_name
from tiny_world import make_world_base, train_in_world


def train(base: Path | str, out: Path, **changed: Any) -> Path:
    return train_in_world(base, out, **{"checkpoints": 3, "first_checkpoint": 2, **changed})


class World:
    """An organism, references of three kinds, a run of another base and one with other modules."""

    def __init__(self, folder: Path) -> None:
        base, out = make_world_base(folder / "bases"), folder / "out"
        self.run = train(base, out)
        sgd = {"optimiser": {"kind": "sgd", "lr": 0.1}}
        self.same, self.foreign, self.third = (train(base, out, seed=seed, **sgd) for seed in (0, 1, 2))
        self.other_base = train("micro-1", out, steps=2, checkpoints=2, data={"source": "micro", "rows": 8})
        self.other_modules = train(base, out, adapter={"r": 2, "target_modules": ["q_proj", "v_proj"]})
        self.full = train(base, out, method="full", adapter={}, optimiser={"kind": "sgd", "lr": 0.1})
        self.untrained = ReferenceRun("early", (self.run,), 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def rates_of_rows(rows: Any) -> dict[str, float]:
    found = {}
    for rung, panel in RUNGS.items():
        mine = [row for row in rows if row["panel"] == panel]
        for name in ("aligned", "misaligned"):
            found[f"{rung}_{name}"] = sum(row[name] for row in mine) / len(mine)
    return found


def rates_of_weights(run: Path, update: dict[str, torch.Tensor]) -> dict[str, float]:
    """The slow way: the base with dW added to its weights, no adapter at all."""
    base = base_of_run(run)
    model = load_model(base)
    with torch.no_grad():
        for name, module in model.named_modules():
            if name in update:
                module.weight.add_(update[name].float())
    spec = read_spec(run)
    return rates_of_rows(
        bank_of(spec, base).exact(Organism(model, base.tokenizer(), base, spec), tuple(RUNGS.values()))
    )


def dense(run: Path, step: int | str = "final") -> dict[str, torch.Tensor]:
    return {
        pair.name: pair.scale * pair.B_O_R.double() @ pair.A_R_I.double()
        for pair in pairs_from_folder(adapter_folder(run, step))
    }


def close(row: dict[str, Any], expected: dict[str, float]) -> None:
    """Relative, because the rates of a base that has learnt nothing are tiny; float32 rounds their logarithms."""
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4), name


def test_f_1_is_the_organism_as_trained_and_scaled_0_its_base(world: World) -> None:
    places = [Place("frobenius", "module", "orthogonal", 1.0), Place("functional", "joint", "orthogonal", 1.0)]
    rows = dial(world.run, [ReferenceRun("same_init", (world.same,))], places)
    trained = rates_of_rows(evaluate_organism(load_organism(world.run), panels=tuple(RUNGS.values())))
    for row in rows:
        if (row["control"], row["f"]) in (("orthogonal", 1.0), ("scaled", 1.0)):
            close(row, trained)
    assert {row["f"] for row in rows if row["control"] == "scaled"} == {0.0, 0.25, 0.5, 0.75, 1.0, 1.25}
    base = next(row for row in rows if (row["control"], row["f"]) == ("scaled", 0.0))
    close(base, rates_of_weights(world.run, {}))
    assert base["reference"] is None and base["energy"] == 0.0
    assert base["trained_aligned"] != pytest.approx(trained["trained_aligned"], rel=1e-2)


def test_every_point_is_the_base_with_the_edited_update_added(world: World) -> None:
    U, R, early = dense(world.run), dense(world.same), dense(world.run, 2)
    mean = {name: (dense(world.foreign)[name] + dense(world.third)[name]) / 2 for name in U}
    references = [
        ReferenceRun("same_init", (world.same,)),
        ReferenceRun("mean_of_several", (world.foreign, world.third)),
        ReferenceRun("early", (world.run,), 2),
    ]
    places = [
        Place("frobenius", "module", "orthogonal", 0.5),
        Place("frobenius", "joint", "orthogonal", 0.0),
        Place("frobenius", "module", "added", 0.25),
    ]
    rows = [row for row in dial(world.run, references, places) if row["control"] != "scaled"]
    assert [row["reference"] for row in rows] == [one.kind for one in references for _ in places]
    for start, reference in ((0, R), (3, mean), (6, early)):
        each = {name: float((U[name] * reference[name]).sum() / reference[name].square().sum()) for name in U}
        joint = sum(float((U[n] * reference[n]).sum()) for n in U) / sum(float(reference[n].square().sum()) for n in U)
        half = {n: each[n] * reference[n] + 0.5 * (U[n] - each[n] * reference[n]) for n in U}
        for row, edited in zip(
            rows[start : start + 3],
            (half, {n: joint * reference[n] for n in U}, {n: 0.25 * U[n] + reference[n] for n in U}),
            strict=True,
        ):
            close(row, rates_of_weights(world.run, edited))
            assert row["energy"] == pytest.approx(sum(float(one.square().sum()) for one in edited.values()))
    assert rows[0]["energy_along"] + rows[0]["energy_orthogonal"] == pytest.approx(rows[0]["energy_update"])
    assert rows[3]["reference_runs"] == f"{world.foreign.name} {world.third.name}"


def test_random_parts_have_the_energy_of_the_orthogonal_part_and_their_draws_differ(world: World) -> None:
    places = [
        Place("frobenius", "module", control, 0.5, draw)
        for control, draw in (("orthogonal", 0), ("random", 0), ("random", 1))
    ]
    part, first, second = dial(world.run, [ReferenceRun("same_init", (world.same,))], places)[-3:]
    assert first["energy"] == pytest.approx(part["energy"]) == pytest.approx(second["energy"])
    assert len({row["broad_aligned"] for row in (part, first, second)}) == 3


def test_second_moments_are_those_of_what_the_modules_of_the_base_read(world: World) -> None:
    base = base_of_run(world.run)
    model = attach_adapter(load_model(base), read_spec(world.run).adapter, 0, base.name).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()  # an adapter that acts must not be seen
    prompts = [(3, 4, 5), (7, 8)]
    found = input_second_moments(model, prompts)
    plain, seen = load_model(base), {}
    for name, module in plain.named_modules():
        if name in found:
            module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0][0]))
    with torch.no_grad():
        for prompt in prompts:
            plain(input_ids=torch.tensor([prompt]))
    assert set(found) == {plain_name(name) for name in dense(world.run)}
    for name, moment in found.items():
        X = torch.cat(seen[name]).double()
        torch.testing.assert_close(moment, X.T @ X / 5, rtol=1e-5, atol=1e-8)
    pairs = pairs_from_folder(adapter_folder(world.run, "final"))
    split_update(pairs, pairs, found)  # every module has one


def test_the_default_points_hold_each_control_at_each_strength() -> None:
    places = default_places()
    assert len(places) == len(set(places))
    full = {(place.control, place.f) for place in places if place[:2] == ("frobenius", "joint")}
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    assert full == {(c, f) for c in ("orthogonal", "random", "added") for f in strengths} - {("random", 0.0)}
    assert {place[:2] for place in places} == {(i, g) for i in ("frobenius", "functional") for g in ("module", "joint")}


def test_references_that_do_not_fit_are_refused_in_one_line(world: World) -> None:
    cases = {
        "has another base, micro-1": ReferenceRun("foreign", (world.other_base,)),
        "the reference has no module 'model.layers.0.": ReferenceRun("foreign", (world.other_modules,)),
        "the reference is zero in every module": world.untrained,
        "was trained in full": ReferenceRun("foreign", (world.full,)),
    }
    for message, reference in cases.items():
        with pytest.raises((AdapterError, SpecError), match=message) as error:
            dial(world.run, [reference], [Place("frobenius", "module", "orthogonal", 0.5)])
        assert "\n" not in str(error.value)
