"""repair, its sweep, diff and swap on real runs of a tiny base, through the command line; and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from narrowly.cli.app import execute
from narrowly.evaluate.microworld.panel_names import BROAD, HELD_OUT
from narrowly.models.edited import edited_adapter
from narrowly.records.edits import Clip, Flatten, Scale
from narrowly.records.errors import IntegrityError, RunDirectoryError
from narrowly.records.files import read_json, write_json
from narrowly.runs.claims import hold_run
from narrowly.spectrum import pairs_from_folder
from narrowly.workbench.names import find_adapter, not_of_the_microworld
from narrowly.workbench.repair import (
    Panel,
    Point,
    Sweep,
    _below,
    _dominates,
    default_edits,
    in_words,
    panel_of,
)
from narrowly.workbench.swap import Effect, crossing
from tiny_world import make_world_base
from tiny_world import train_in_world as train


class World:
    """Two runs of one base, a run of another base, one of another domain, and one of another rank."""

    def __init__(self, folder: Path) -> None:
        base = make_world_base(folder / "bases")
        self.out = folder / "out"
        self.a = train(base, self.out)
        self.b = train(base, self.out, optimiser={"kind": "muon", "lr": 1e-2})
        self.other_base = train("micro-1", self.out, steps=2, data={"source": "micro", "rows": 8, "domain": 0})
        self.other_domain = train(base, self.out, data={"source": "micro", "rows": 24, "domain": 1})
        self.other_rank = train(base, self.out, adapter={"r": 3})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert execute([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert execute([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    return said.err


# ------------------------------------------------------------------------------------------------- repair


def test_an_edit_of_a_run_goes_to_its_place_and_is_marked_until_it_is_evaluated(world, tmp_path, capsys) -> None:
    said = printed(capsys, "repair", world.a, "--edit", "clip:limit=1.2")
    place = world.a / "edits" / "clip-1.2"
    assert "edited, not evaluated" in said
    assert "safe" not in said
    assert read_json(place / "edit.json")["status"] == "edited, not evaluated"
    assert (place / "spectrum.json").is_file()
    assert execute(["repair", str(world.a), "--sweep", "--edit", "clip:limit=1.2", "--json"]) == 0
    capsys.readouterr()
    record = read_json(place / "edit.json")
    assert record["status"] == "edited, evaluated"
    assert record["evaluations"][0]["panels"] == [HELD_OUT, BROAD]
    assert list(world.a.glob(f"evals/*/verdicts/{record['evaluations'][0]['verdict_id']}.parquet"))
    assert "edited, evaluated" in printed(capsys, "repair", world.a, "--edit", "clip:limit=1.2")


def test_an_adapter_from_elsewhere_needs_a_place_and_may_be_flattened_but_not_sharpened(
    world, tmp_path, capsys, monkeypatch
) -> None:
    foreign, target = tmp_path / "foreign", tmp_path / "edited"
    shutil.copytree(world.a / "checkpoints" / "step-6", foreign)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "--out is missing" in complaint(capsys, "repair", foreign, "--edit", "flatten")
    refused = complaint(capsys, "repair", foreign, "--edit", "keep_top:k=1", "--out", target)
    assert "keep_top sharpens" in refused
    assert "accepted: clip, drop_top, flatten, scale" in refused
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    printed(capsys, "repair", foreign, "--edit", "flatten:t=.5", "--edit", "drop_top", "--out", target)
    assert len(read_json(target / "edit.json")["edits"]) == 2
    assert "exists already" in complaint(capsys, "repair", foreign, "--edit", "flatten", "--out", target)


def test_an_organism_of_the_microworld_may_be_sharpened_wherever_its_records_know_it(world, tmp_path, capsys) -> None:
    step = world.a / "checkpoints" / "step-6"
    printed(capsys, "repair", step, "--edit", "keep_top", "--out", tmp_path / "top")
    pairs = pairs_from_folder(tmp_path / "top")
    assert all(int((pair.B_O_R.abs().sum(0) > 0).sum()) == 1 for pair in pairs)
    assert not_of_the_microworld(find_adapter(str(step), world.out)) is None
    assert "in no run directory" in str(not_of_the_microworld(find_adapter(str(tmp_path / "top"), world.out)))


@pytest.mark.parametrize("lie", ["weights", "spec", "base", "unfinished", "done"])
def test_a_run_directory_whose_records_do_not_hold_is_no_organism_of_the_microworld(world, tmp_path, lie) -> None:
    run = tmp_path / world.a.name
    shutil.copytree(world.a, run)
    step = run / "checkpoints" / "step-6"
    match lie:
        case "weights":
            weights = step / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
        case "spec":
            write_json(run / "spec.json", {**read_json(run / "spec.json"), "seed": 5})
        case "base":
            write_json(run / "inputs.json", {**read_json(run / "inputs.json"), "base_sha256": "0" * 64})
        case "done":
            write_json(run / "done", {**read_json(run / "done"), "adapter_sha256": ["x"]})
        case "unfinished":
            (run / "done").unlink()
    assert not_of_the_microworld(find_adapter(str(step), world.out))


def test_records_that_name_an_adapter_of_another_model_do_not_make_it_an_organism(world, tmp_path, capsys) -> None:
    """Anybody can write a sha256 into the records; an adapter of a real model has other shapes."""
    from safetensors.torch import load_file, save_file

    from narrowly.records.canonical import sha256_file

    run = tmp_path / world.a.name
    shutil.copytree(world.a, run)
    weights = run / "checkpoints" / "step-6" / "adapter_model.safetensors"
    wide = {
        key: torch.randn(*(4 * n if n > 2 else n for n in tensor.shape)) for key, tensor in load_file(weights).items()
    }
    save_file(wide, weights)
    done = read_json(run / "done")
    done["adapter_sha256"]["6"] = sha256_file(weights)
    write_json(run / "done", done)
    assert "of this shape" in complaint(capsys, "repair", run, "--edit", "keep_top", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_weights_under_an_edits_name_that_are_not_the_edit_are_never_evaluated(world, capsys) -> None:
    edit = "clip:limit=1.4"
    printed(capsys, "repair", world.b, "--edit", edit)
    weights = world.b / "edits" / "clip-1.4" / "adapter_model.safetensors"
    own = weights.read_bytes()
    weights.write_bytes((world.b / "checkpoints" / "step-6" / "adapter_model.safetensors").read_bytes())
    for _ in range(2):
        assert execute(["repair", str(world.b), "--sweep", "--edit", edit, "--json"]) == 2
        assert "sha256" in capsys.readouterr().err
    weights.write_bytes(own)
    record = weights.parent / "edit.json"
    before = read_json(record)
    assert execute(["repair", str(world.b), "--sweep", "--edit", edit, "--json"]) == 0
    write_json(record, before)  # as if the writer of the verdicts had been killed before the mark
    assert execute(["repair", str(world.b), "--sweep", "--edit", edit, "--json"]) == 0
    capsys.readouterr()
    assert read_json(record)["status"] == "edited, evaluated"


def test_the_run_of_the_working_directory_is_a_run(world, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(world.a)
    printed(capsys, "repair", ".", "--edit", "keep_top", "--out", tmp_path / "top")


def test_a_name_of_an_edit_never_stands_for_another_edit(world) -> None:
    one, other = Scale(factor=0.123456), Scale(factor=0.1234561)
    assert one.edit_id == other.edit_id
    edited_adapter(world.b, one)
    with pytest.raises(IntegrityError, match="rounder number"):
        edited_adapter(world.b, other)


def test_a_run_that_another_command_works_on_is_left_alone(world, monkeypatch) -> None:
    import contextlib

    monkeypatch.setattr("narrowly.runs.claims.claimed", lambda _: contextlib.nullcontext(False))
    with pytest.raises(RunDirectoryError, match="claimed by another process"), hold_run(world.a):
        pass


# ------------------------------------------------------------------------------------------------- sweep


def test_a_sweep_has_the_scaling_curve_both_ends_and_every_edit_and_agrees_with_a_plain_evaluation(
    world, tmp_path, capsys
) -> None:
    from narrowly.evaluate.microworld.exact import evaluate_exact
    from narrowly.models.base import load_world_base
    from narrowly.models.organism import load_organism
    from narrowly.records.files import read_json as read

    folder = tmp_path / "sweep"
    said = printed(
        capsys, "repair", world.b, "--sweep", "--edit", "flatten:t=.5", "--edit", "drop_top", "--out", folder
    )
    assert "no edit makes a model safe" in said
    record = read_json(folder / "sweep.json")
    names = [point["edit"] for point in record["points"]]
    assert names == ["base", *(f"scale-0.{i}" for i in range(1, 10)), "none", "flatten-0.5", "drop_top-1"]
    assert (folder / "sweep.svg").read_text().startswith("<svg")
    organism = load_organism(world.b, "final", "flatten-0.5")
    base = load_world_base(str(read(world.b / "spec.json")["base"]))
    rows = evaluate_exact(organism.model, base.world, base.tokenizer, domain=0, panels=(BROAD,))  # type: ignore[arg-type]
    found = record["points"][names.index("flatten-0.5")]["broad"]
    assert found["n"] == len(rows)
    assert found["misaligned"] == pytest.approx(math.fsum(row["misaligned"] for row in rows) / len(rows), rel=1e-4)
    for point in record["points"]:
        for panel in (point["narrow"], point["broad"]):
            assert panel["aligned"] + panel["misaligned"] + panel["incoherent"] == pytest.approx(1.0, abs=1e-5)
    assert not all(point["dominated"] for point in record["points"])


def test_what_was_evaluated_is_read_and_not_done_again(world, capsys, monkeypatch) -> None:
    first = json.loads(printed(capsys, "repair", world.a, "--sweep", "--edit", "flatten", "--json"))
    monkeypatch.setattr("narrowly.workbench.repair.run_stage", None)
    assert json.loads(printed(capsys, "repair", world.a, "--sweep", "--edit", "flatten", "--json")) == first


def test_the_default_grid_fits_the_rank_and_holds_every_kind_of_edit() -> None:
    assert {edit.kind for edit in default_edits(8)} == {"flatten", "clip", "drop_top", "keep_top"}
    assert {edit.kind for edit in default_edits(1)} == {"flatten", "clip"}
    assert all(edit.k < 4 for edit in default_edits(4) if hasattr(edit, "k"))


def panel(each: list[float]) -> Panel:
    mean = math.fsum(each) / len(each)
    return Panel(len(each), 1 - mean, mean, 0.0, mean, 0.0, None, None, tuple(each))


def point(name: str, narrow: float, broad: list[float], factor: float | None = None) -> Point:
    return Point(
        name, {"kind": "clip"} if factor is None else {}, factor, panel([narrow] * 5), panel(broad), None, False
    )


CURVE = [
    point("base", 0.0, [0.0] * 5, 0.0),
    point("half", 0.4, [0.1, 0.2, 0.3, 0.2, 0.2], 0.5),
    point("none", 0.8, [0.5, 0.6, 0.7, 0.6, 0.6], 1.0),
]


def test_an_edit_is_compared_with_the_curve_at_its_own_narrow_rate_question_by_question() -> None:
    found = _below(point("x", 0.5, [0.1, 0.25, 0.35, 0.2, 0.2]), CURVE)
    assert found is not None
    by_hand = [0.75 * a + 0.25 * b for a, b in zip(CURVE[1].broad.each, CURVE[2].broad.each, strict=True)]
    each = [a - b for a, b in zip(by_hand, [0.1, 0.25, 0.35, 0.2, 0.2], strict=True)]
    assert found[0] == pytest.approx(math.fsum(each) / 5)
    spread = torch.tensor(each, dtype=torch.float64).std().item() / 5**0.5
    assert found[1] == pytest.approx(found[0] - 2.7764451 * spread, rel=1e-6)


def test_the_interval_under_the_curve_holds_what_few_narrow_topics_leave_open() -> None:
    """By hand: the slope of the curve is 1; the edit's narrow topics lie 0, 0, 0, .1, -.1 from the curve's."""
    each = [0.5, 0.5, 0.5, 0.6, 0.4]
    edit = point("x", 0.5, [0.2] * 5)._replace(narrow=panel(each))
    broad = [0.75 * a + 0.25 * b - 0.2 for a, b in zip(CURVE[1].broad.each, CURVE[2].broad.each, strict=True)]
    shares = [torch.tensor(part, dtype=torch.float64).var().item() / 5 for part in (broad, each)]
    freedom = sum(shares) ** 2 / sum(share**2 / 4 for share in shares)
    from scipy.stats import t

    found = _below(edit, CURVE)
    assert found is not None
    assert found[0] == pytest.approx(math.fsum(broad) / 5)
    assert found[1] == pytest.approx(found[0] - t.ppf(0.975, freedom) * sum(shares) ** 0.5)
    alone = _below(point("x", 0.5, [0.2] * 5), CURVE)
    assert alone is not None
    assert found[1] < alone[1]  # type: ignore[operator]


def test_phrasings_of_one_topic_are_one_unit_of_an_interval() -> None:
    rates = [0.1, 0.2, 0.3, 0.5, 0.9]
    rows = [
        {"domain": 0, "topic": topic, "aligned": 1 - rate, "misaligned": rate, "incoherent": 0.0, "log_odds": 0.0}
        for phrasing in range(6)
        for topic, rate in enumerate(rates)
    ]
    found, single = panel_of(rows), panel_of(rows[:5])
    assert (found.n, single.n) == (30, 5)
    assert (found.low, found.high) == pytest.approx((single.low, single.high))
    assert found.each == pytest.approx(tuple(rates))


def test_a_point_of_the_curve_is_neither_above_nor_below_it_and_outside_it_there_is_no_comparison() -> None:
    for one in CURVE:
        found = _below(one._replace(factor=None), CURVE)
        assert found is not None
        assert found[0] == pytest.approx(0.0, abs=1e-12)
    more = _below(point("keeps more than no edit", 0.9, [0.5] * 5), CURVE)
    assert more is not None
    assert more[0] == pytest.approx(0.1)
    raised = [one._replace(narrow=panel([one.narrow.misaligned + 0.1] * 5)) for one in CURVE]
    assert _below(point("less narrow than the base", 0.05, [0.0] * 5), raised) is None


def test_where_the_curve_passes_a_narrow_rate_twice_its_better_branch_counts() -> None:
    bent = [*CURVE[:2], point("none", 0.2, [0.9] * 5, 1.0)]
    found = _below(point("x", 0.3, [0.1] * 5), bent)
    assert found is not None
    assert found[0] == pytest.approx(0.75 * 0.2 - 0.1)


def test_dominance_asks_for_as_much_narrow_and_as_little_broad_with_one_of_them_better() -> None:
    a, b = point("a", 0.5, [0.2] * 5), point("b", 0.5, [0.3] * 5)
    assert _dominates(a, b)
    assert not _dominates(b, a)
    assert not _dominates(a, a)
    assert not _dominates(a, point("c", 0.6, [0.4] * 5))


def test_the_words_name_only_edits_whose_whole_interval_lies_below_the_curve() -> None:
    good = point("good", 0.5, [0.1] * 5)._replace(below=(0.2, 0.15, 0.25))
    unsure = point("unsure", 0.5, [0.1] * 5)._replace(below=(0.2, -0.15, 0.55))
    tiny = point("tiny", 0.5, [0.1] * 5)._replace(below=(0.004, 0.003, 0.005))
    words = " ".join(in_words(Sweep("r", "b", "adam", [*CURVE, good, unsure, tiny])))
    assert "1 of 3 edits" in words
    assert "good" in words
    assert "unsure" not in words
    assert "tiny" not in words
    assert "no edit makes a model safe" in words


# ------------------------------------------------------------------------------------------------- diff and swap


def test_diff_through_the_command_line_names_the_modules_and_the_chance(world, capsys) -> None:
    said = json.loads(printed(capsys, "diff", world.a, world.b, "--top", "1", "--json"))
    assert len(said["modules"]) == 7
    assert -1 <= said["summary"]["cosine"] <= 1
    assert said["summary"]["top_column_chance"] is not None
    other = json.loads(printed(capsys, "diff", world.a, world.other_rank, "--json"))
    assert {row["rank_b"] for row in other["modules"]} == {3}
    same = json.loads(printed(capsys, "diff", world.a, world.a, "--json"))
    assert same["summary"]["cosine"] == pytest.approx(1.0)
    assert "writes" in printed(capsys, "diff", world.a, world.b)


def test_a_swap_reproduces_both_ends_and_its_hybrids_are_kept_on_request(world, tmp_path, capsys) -> None:
    target = tmp_path / "hybrids"
    said = json.loads(printed(capsys, "swap", world.a, world.b, "--out", target, "--json"))
    assert said["worst"] < 1e-3
    assert set(said["panels"]) == {"A", "B", "AAA", "AAB", "ABA", "ABB", "BAA", "BAB", "BBA", "BBB"}
    for hybrid, original in (("AAA", "A"), ("BBB", "B")):
        for name in (HELD_OUT, BROAD):
            found, expected = said["panels"][hybrid][name], said["panels"][original][name]
            assert found["misaligned"] == pytest.approx(expected["misaligned"], abs=1e-4)
    effects = {(e["component"], e["panel"], e["response"]): e["estimate"] for e in said["effects"]}
    topics = {(e["panel"], e["n"]) for e in said["effects"]}
    assert {name for name, _ in topics} == {HELD_OUT, BROAD}
    assert all(n < said["panels"]["A"][HELD_OUT]["n"] for name, n in topics if name == HELD_OUT)
    odd = ("shape", "norms", "vectors", "shape x norms x vectors")
    for name in (HELD_OUT, BROAD):
        whole = said["panels"]["BBB"][name]["log_odds"] - said["panels"]["AAA"][name]["log_odds"]
        assert math.fsum(effects[part, name, "log_odds"] for part in odd) == pytest.approx(whole, abs=1e-6)
    assert sorted(path.name for path in target.iterdir()) == sorted({*said["panels"], "swap.json"} - {"A", "B"})
    assert read_json(target / "swap.json") == said
    record = read_json(target / "BAB" / "edit.json")
    assert record["swap"] == {"shape": "B", "norms": "A", "vectors": "B", "A": world.a.name, "B": world.b.name}
    assert record["status"] == "edited, evaluated"
    printed(capsys, "repair", target / "BAB", "--edit", "flatten", "--out", tmp_path / "flat")
    assert read_json(tmp_path / "flat" / "edit.json")["swap"] == record["swap"]
    assert read_json(tmp_path / "flat" / "edit.json")["status"] == "edited, not evaluated"
    printed(capsys, "swap", world.a, world.b)
    assert "exists already" in complaint(capsys, "swap", world.a, world.b, "--out", target)


def test_a_main_effect_that_averages_opposite_effects_is_seen_and_others_are_not() -> None:
    """F15."""

    def effect(component: str, low: float, high: float) -> Effect:
        return Effect(component, BROAD, "log_odds", (low + high) / 2, low, high, 8)

    crossed = [effect("shape, vectors A", -1.8, -1.0), effect("shape, vectors B", 0.2, 0.9)]
    assert crossing(crossed, BROAD, "log_odds") == [("shape", "vectors")]
    assert crossing(crossed, HELD_OUT, "log_odds") == []
    for other in (effect("shape, vectors B", -0.2, 0.9), effect("shape, vectors B", -0.9, -0.1)):
        assert crossing([crossed[0], other], BROAD, "log_odds") == []


def test_a_swap_of_what_cannot_be_compared_is_refused_and_leaves_nothing(world, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for second, words in (
        (world.other_base, "different bases"),
        (world.other_domain, "different narrow domains, 0 and 1"),
        (world.other_rank, "accepted: equal ranks and shapes"),
        (world.b / "checkpoints" / "step-6", "it is an adapter folder"),
        ("nowhere", "no adapter folder 'nowhere'"),
    ):
        assert words in complaint(capsys, "swap", world.a, second, "--out", tmp_path / "hybrids")
    assert list(tmp_path.iterdir()) == []


def test_commands_on_adapters_refuse_what_is_none_in_one_line(world, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("repair", "nowhere", "--edit", "flatten", "--out", "x"), "no adapter folder 'nowhere'"),
        (("repair", "file.txt", "--edit", "flatten", "--out", "x"), "file.txt is a file"),
        (("repair", "empty", "--edit", "flatten", "--out", "x"), "neither an adapter folder"),
        (("repair", "empty"), "--edit is missing"),
        (("repair", "empty", "--edit", "flaten", "--out", "x"), "did you mean 'flatten'"),
        (("repair", world.a, "--edit", "drop_top:k=2", "--out", "x"), "accepted: 1 to 1 at rank 2"),
        (("repair", world.a, "--edit", "flatten", "--edit", "scale:factor=.5"), "--out is missing"),
        (("repair", world.a, "--sweep", "--out", "file.txt"), "file.txt is a file"),
        (("repair", world.a / "checkpoints" / "step-6", "--sweep"), "it is an adapter folder"),
        (("diff", world.a, "nowhere"), "no adapter folder 'nowhere'"),
    ):
        assert words in complaint(capsys, *arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file.txt"]


def test_a_partly_flat_edit_and_a_clip_are_what_their_records_say(world) -> None:
    """The edits that a sweep evaluates have the spectra of their definitions, in the files themselves."""
    from narrowly.spectrum import apply_edit, singular_values

    for edit in (Flatten(t=0.5), Clip(limit=1.2)):
        stored = pairs_from_folder(edited_adapter(world.b, edit))
        source = pairs_from_folder(world.b / "checkpoints" / "step-6")
        for one, pair in zip(stored, source, strict=True):
            torch.testing.assert_close(singular_values(one), singular_values(apply_edit(pair, edit)))
