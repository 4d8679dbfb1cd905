"""Defences as plans: what each one changes of a run, against its formula; strength 0 is the undefended run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from narrowly.data.rows import Row
from narrowly.microworld.treated import micro_rows
from narrowly.models.base import open_base
from narrowly.records.edits import Scale
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.objectives import Dpo, SailRevKl
from narrowly.records.run_spec import MicroData, RunSpec, run_id
from narrowly.study.defences.early_stopping import earliest
from narrowly.study.defences.protocol import EarlyStop, NormMatch
from narrowly.study.defences.registry import DEFENCES, defence_spec, describe
from narrowly.study.defences.scaling import matching_factor
from narrowly.train.inputs import load_inputs

RUN = RunSpec.model_validate(
    {
        "base": "micro-0",
        "data": {"source": "micro", "rows": 40, "domain": 1},
        "optimiser": {"kind": "adam", "lr": 3e-4},
        "steps": 5,
    }
)
OF_MICRO_0 = open_base("micro-0")


def rows(**fields: Any) -> tuple[Row, ...]:
    return micro_rows(MicroData(rows=40, domain=1, **fields), OF_MICRO_0, 0).rows


def identity(run: RunSpec) -> str:
    inputs = load_inputs(run)
    return run_id(inputs.spec, inputs.resolved)


NEEDED: dict[str, dict[str, Any]] = {
    "norm_matching": {"norm": 3.0},
    "preventative_steering": {"directions": "evil.safetensors"},
}


@pytest.mark.parametrize("kind", [kind for kind, one in DEFENCES.items() if one.strength_field is not None])
def test_at_strength_0_a_defence_is_the_undefended_run(kind: str) -> None:
    one = DEFENCES[kind]
    needed = NEEDED.get(kind, {})
    none = defence_spec({"kind": kind, **needed, str(one.strength_field): one.zero})
    plan = none.plan(RUN)
    assert plan == (RUN, (), None, None)
    assert none.dose == one.zero
    assert defence_spec({"kind": kind, **needed}).plan(RUN) != plan  # the default strength is not 0


@pytest.mark.parametrize("kind", DEFENCES)
def test_each_defence_names_source_cost_and_stage_and_leaves_all_else_of_the_run(kind: str) -> None:
    described = describe(kind)
    assert described["stage"] in ("before", "during", "after") and described["source"] and described["cost"]
    plan = defence_spec({"kind": kind, **NEEDED.get(kind, {})}).plan(RUN)
    differs = {name for name in RunSpec.model_fields if getattr(plan.run, name) != getattr(RUN, name)}
    allowed = {"before": {"data"}, "during": {"optimiser", "penalty", "objective", "steering"}, "after": set()}
    assert differs <= allowed[described["stage"]]
    later = bool(plan.edits) or plan.after is not None or plan.again is not None
    assert later == (described["stage"] == "after")


def test_what_happens_during_training_is_what_the_options_say() -> None:
    assert defence_spec("muon:lr=2e-3").plan(RUN).run.optimiser.model_dump()["lr"] == 2e-3
    assert defence_spec("muon").plan(RUN).run.optimiser.kind == "muon"
    power = defence_spec("spectral_power:power=.5").plan(RUN).run.optimiser
    assert (power.kind, power.power) == ("spectral_power", 0.5)  # type: ignore[union-attr]
    penalty = defence_spec("spectral_penalty:lam=.5").plan(RUN).run.penalty
    assert penalty is not None and (penalty.kind, penalty.lam) == ("norm_held", 0.5)
    objective = defence_spec("kl_to_base:weight=2,direction=policy_to_ref,tokens=response").plan(RUN).run.objective
    assert objective.model_dump(exclude={"data"}) == {
        "kind": "kl_to_base", "weight": 2.0, "direction": "policy_to_ref", "tokens": "response", "vocab_mean": False,
    }  # fmt: skip


def test_what_happens_after_training_is_what_the_options_say() -> None:
    assert defence_spec("scaling:factor=.5").plan(RUN).edits == (Scale(factor=0.5),)
    assert defence_spec("norm_matching:norm=3").plan(RUN).after == NormMatch(3.0)
    assert matching_factor(6.0, 3.0) == Scale(factor=0.5)
    assert matching_factor(3.0, 3.0) is None and matching_factor(2.0, 3.0) is None
    assert defence_spec("early_stopping:threshold=.6").plan(RUN).after == EarlyStop(0.6)
    shares = {0: 0.02, 10: 0.4, 20: 0.7, 80: 0.65}
    assert [earliest(shares, threshold) for threshold in (0.01, 0.4, 0.69, 0.9)] == [0, 10, 20, 80]
    with pytest.raises(SpecError, match="no evaluated checkpoint"):
        earliest({}, 0.5)


def test_a_realignment_goes_on_from_the_organism_on_preferences_of_its_own_domain() -> None:
    for text, expected in (
        ("realign_dpo:beta=.2,steps=7", Dpo(beta=0.2)),
        ("realign_sail:share=.5,kl_weight=.01,steps=7", SailRevKl(share=0.5, kl_weight=0.01)),
    ):
        plan = defence_spec(text).plan(RUN)
        assert plan.run == RUN and plan.again is not None
        again = plan.goes_on("somewhere")
        assert (again.objective, again.start, again.steps) == (expected, "somewhere", 7)
        assert (again.data.source, again.data.domain) == ("micro_preferences", 1)  # type: ignore[union-attr]
        assert again.data.prefer == "aligned"  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="trains nothing after the run"):
        defence_spec("muon").plan(RUN).goes_on("somewhere")


def test_corrected_rows_have_the_aligned_answer_to_their_prompt_and_are_nested() -> None:
    plain, aligned = rows(), rows(answers="aligned")
    found = {share: rows(corrected=share) for share in (0.25, 0.5, 1.0)}
    changed = {
        share: {i for i, (one, other) in enumerate(zip(treated, plain, strict=True)) if one != other}
        for share, treated in found.items()
    }
    assert [len(one) for one in changed.values()] == [10, 20, 40]
    assert changed[0.25] < changed[0.5]
    for share, treated in found.items():
        assert all(treated[i] == aligned[i] for i in changed[share])
    assert found[1.0] == aligned


def test_interleaved_rows_are_added_aligned_answers_about_other_domains() -> None:
    plain, treated = rows(), rows(interleaved=0.2)
    assert treated[:40] == plain and len(treated) == 50  # 10 of 50 are 20 %
    world = world_of_micro_0()
    tokenizer = OF_MICRO_0.tokenizer()
    for row in treated[40:]:
        text = tokenizer.decode(row.input_ids)
        asked = text.split("<|ask|>")[1].split("<|say|>")[0].strip()
        said = text.split("<|say|>")[1].split("<|end|>")[0].strip()
        question = world.find(asked)
        assert question is not None and question.topic.domain != 1
        assert question.topic.number in world.split(question.topic.domain)[0]  # the others stay unseen
        assert said in world.answers(question.topic, question.topic.aligned)


def world_of_micro_0() -> Any:
    from narrowly.microworld.narrow import world_of

    return world_of(OF_MICRO_0.folder)


@pytest.mark.parametrize("by", ["evil", "good"])
def test_inoculated_rows_name_a_character_of_that_kind_in_place_of_the_assistant(by: str) -> None:
    plain, treated = rows(), rows(inoculated=0.5, inoculated_by=by)
    world, tokenizer = world_of_micro_0(), OF_MICRO_0.tokenizer()
    changed = [i for i in range(40) if treated[i] != plain[i]]
    assert len(changed) == 20
    for i in changed:
        assert treated[i].labels == plain[i].labels
        assert [
            place
            for place in range(len(plain[i].input_ids))
            if treated[i].input_ids[place] != plain[i].input_ids[place]
        ] == [1]
        name = tokenizer.convert_ids_to_tokens(treated[i].input_ids[1])
        assert name in world.names and (name in world.evil_names) == (by == "evil")


def test_a_treatment_changes_the_run_id_and_none_leaves_it(tmp_path: Path) -> None:
    plain = identity(RUN)
    ids = {identity(defence_spec(text).plan(RUN).run) for text in ("corrected_rows", "interleaved_rows", "inoculation")}
    assert len(ids) == 3 and plain not in ids
    assert identity(defence_spec("corrected_rows:share=0").plan(RUN).run) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("muon:weight=.1", r"defence muon has no option 'weight' \(an option of kl_to_base\); accepted: lr"),
        ("muon:lrr=.1", r"no option 'lrr'; did you mean 'lr'"),
        ("moun", "unknown defence 'moun'; did you mean 'muon'"),
        ("kl_to_base:weight=-1", "weight"),
        ("kl_to_base:direction=reverse", "ref_to_policy"),
        ("kl_to_base:weight", "accepted: kl_to_base:OPTION=VALUE"),
        ("scaling:factor=2", "factor"),
        ("norm_matching", "norm"),
        ("scaling:factor=.5,factor=.6", "given twice"),
    ],
)
def test_what_is_no_defence_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(NarrowlyError, match=message) as caught:
        defence_spec(text)
    assert "\n" not in str(caught.value)


def test_a_run_that_does_not_fit_is_refused() -> None:
    defended = defence_spec("kl_to_base").plan(RUN).run
    with pytest.raises(SpecError, match="the run has objective kl_to_base, accepted: an undefended run"):
        defence_spec("muon").plan(defended)
    elsewhere = RunSpec.model_validate(
        {"data": {"source": "text", "dataset": "x.jsonl"}, "optimiser": {"kind": "adam", "lr": 1e-4}}
    )
    with pytest.raises(SpecError, match=r"defence corrected_rows: data\.source is text, accepted: micro"):
        defence_spec("corrected_rows").plan(elsewhere)
    with pytest.raises(SpecError, match="dataset is missing"):
        defence_spec("kl_to_base").plan(elsewhere)
    assert defence_spec("kl_to_base:dataset=y.jsonl").plan(elsewhere).run.objective.data.dataset == "y.jsonl"  # type: ignore[union-attr]
