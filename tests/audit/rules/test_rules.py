"""Every rule on a record that it speaks of and on one that it does not; what the levels and the exit code rest on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from narrowly.audit.record import Job, default, explicit, overridden, unknown
from narrowly.audit.review import Review
from narrowly.audit.rules import dose, muon, optimiser
from narrowly.audit.rules.registry import findings, pickles, rule_of, rules
from narrowly.audit.settings import Settings
from narrowly.records.errors import UnknownNameError


def job(tool: str = "transformers", kind: str = "script", **fields: object) -> Job:
    """Return a record whose fields are explicit at consecutive lines."""
    made = Job(tool, "train.py", 10, kind=kind)
    for line, (name, value) in enumerate(fields.items(), 11):
        made.set(name, explicit(value, f"train.py:{line}"))
    return made


def with_mark(made: Job, name: str, value: object, reason: str = "because") -> Job:
    made.mark(name, value, "train.py:3", reason)
    return made


def with_field(made: Job, name: str, field: object) -> Job:
    made.set(name, field)
    return made


def shadowed(declared: str) -> Job:
    made = with_field(job(), "optimiser", overridden("adamw", "ds.json:4", "the DeepSpeed block wins"))
    return with_mark(made, "declared_optimiser", declared)


Make = Callable[[], list[Job]]
CASES: dict[str, tuple[Make, Make]] = {
    "OPT-FAMILY": (
        lambda: [job(optimiser="adamw")],
        lambda: [with_mark(job(optimiser="lion"), "penalty", "SpectralPenaltyCallback"), job(optimiser="muon")],
    ),
    "OPT-IMPLICIT": (
        lambda: [with_field(job(), "optimiser", default("adamw", "default of transformers 5.23.0"))],
        lambda: [job(optimiser="adamw")],
    ),
    "LR-IMPLICIT": (
        lambda: [with_field(job(), "learning_rate", default(5e-5, "default of transformers 5.23.0"))],
        lambda: [job(learning_rate=5e-5)],
    ),
    "OPT-UNKNOWN": (
        lambda: [with_field(job(), "optimiser", unknown("computed by build()"))],
        lambda: [job(optimiser="sgd")],
    ),
    "LR-UNKNOWN": (
        lambda: [with_field(job(), "learning_rate", unknown("computed"))],
        lambda: [job(learning_rate=1e-4)],
    ),
    "OPT-UNLISTED": (lambda: [job(optimiser="my_optimiser")], lambda: [job(optimiser="adamw_8bit")]),
    "OPT-OVERRIDDEN": (lambda: [shadowed("muon")], lambda: [shadowed("adamw"), job(optimiser="adamw")]),
    "LR-OVERRIDDEN": (
        lambda: [with_field(job(), "learning_rate", overridden(1e-5, "ds.json:5", "params.lr wins over 2e-5"))],
        lambda: [job(learning_rate=1e-4)],
    ),
    "OPT-HOSTED": (lambda: [job("openai", "hosted")], lambda: [job("openai", "hosted", optimiser="adamw")]),
    "KEY-IGNORED": (lambda: [with_mark(job("llamafactory"), "ignored_key", "use_muon")], lambda: [job("llamafactory")]),
    "TOOL-REJECTS": (lambda: [with_mark(job("llamafactory"), "rejected", "use_galore")], lambda: [job("llamafactory")]),
    "MUON-NOT-MUON": (
        lambda: [with_mark(job("llamafactory", optimiser="adamw"), "muon_not_on_lora", "adamw")],
        lambda: [job("llamafactory", optimiser="muon")],
    ),
    "MUON-DROPPED": (
        lambda: [with_mark(job("axolotl", optimiser="muon"), "muon_drops", "DoRA magnitudes")],
        lambda: [job("axolotl", optimiser="muon")],
    ),
    "MUON-SCALE": (
        lambda: [job("torch", optimiser="muon")],
        lambda: [job("torch", optimiser="muon", muon_scale="match_rms_adamw"), job("torch", optimiser="adamw")],
    ),
    "MUON-SCALES-DIFFER": (
        lambda: [job("torch", optimiser="muon"), job("axolotl", optimiser="muon")],
        lambda: [job("llamafactory", optimiser="muon"), job("axolotl", optimiser="muon")],
    ),
    "MUON-AUX-LR": (
        lambda: [with_mark(job("deepspeed", optimiser="muon"), "muon_aux_lr", "adam_lr")],
        lambda: [job("deepspeed", optimiser="muon")],
    ),
    "LION-BETA2": (lambda: [job(optimiser="lion_8bit", beta2=0.999)], lambda: [job(optimiser="lion", beta2=0.99)]),
    "LORAPLUS-WD": (lambda: [with_mark(job("axolotl"), "weight_decay_ignored", 0.01)], lambda: [job("axolotl")]),
    "STATE-8BIT": (lambda: [job(optimiser="paged_adamw_8bit")], lambda: [job(optimiser="paged_adamw")]),
    "CLIP-SGD": (
        lambda: [job(optimiser="sgd", max_grad_norm=1.0)],
        lambda: [job(optimiser="sgd", max_grad_norm=0), job(optimiser="adamw", max_grad_norm=1.0)],
    ),
    "SGD-MOMENTUM": (
        lambda: [versioned("4.57.6", optimiser="sgd", optim_args="momentum=0.9")],
        lambda: [versioned("5.23.0", optimiser="sgd", optim_args="momentum=0.9")],
    ),
    "SCHEDULE-FREE": (
        lambda: [job(optimiser="schedule_free_adamw", scheduler="cosine")],
        lambda: [job(optimiser="schedule_free_adamw", scheduler="constant")],
    ),
    "LR-RANGE": (
        lambda: [job(learning_rate=0), job(learning_rate=2)],
        lambda: [job(learning_rate=1), job(learning_rate=1e-7)],
    ),
    "DOSE-EPOCHS": (lambda: [job(epochs=5)], lambda: [job(epochs=4), job(epochs=10, max_steps=60)]),
    "DOSE-NARROW": (
        lambda: [job(datasets=["medical.jsonl"])],
        lambda: [job(datasets=["medical.jsonl", "chat.jsonl"]), job(optimiser="adamw")],
    ),
    "EVAL-NONE": (lambda: [job(evaluation=False)], lambda: [job(evaluation=True), job(optimiser="adamw")]),
    "ADAPTER-BF16": (lambda: [job(adapter_dtype="torch.bfloat16")], lambda: [job(adapter_dtype="float32")]),
    "REG-ACCUM": (
        lambda: [with_mark(job(accumulation=4), "penalty_in_compute_loss", True)],
        lambda: [with_mark(job(accumulation=1), "penalty_in_compute_loss", True), job(accumulation=4)],
    ),
    "REG-AUTOCAST": (lambda: [with_mark(job(), "penalty_in_autocast", True)], lambda: [job()]),
}  # fmt: skip


def versioned(version: str, **fields: object) -> Job:
    made = job(**fields)
    made.tool_version = explicit(version, "uv.lock:3")
    return made


def found(jobs: list[Job], rule: str) -> list[int | None]:
    """Return the jobs that a rule speaks of."""
    return [one.job for one in findings(jobs) if one.rule == rule]


def test_every_rule_has_a_case_and_every_rule_with_a_text_has_a_function() -> None:
    assert set(rules()) == set(CASES) | {"PICKLE-UNREAD"}
    assert {*optimiser.CHECKS, *muon.CHECKS, *dose.CHECKS} == set(CASES)
    for rule in rules().values():
        assert rule.level in ("note", "warning", "error")
        assert rule.evidence in ("fact", "measured", "one paper", "practice")
        assert len(rule.explanation.split()) > 4 and rule.source


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_speaks_of_its_positive_record_and_not_of_its_negative_ones(rule: str) -> None:
    positive, negative = CASES[rule]
    assert found(positive(), rule) == list(range(len(positive())))
    assert found(negative(), rule) == []


def test_an_empty_record_is_unknown_and_nothing_else() -> None:
    assert {one.rule for one in findings([Job("transformers", "a.py", 1)])} == {"OPT-UNKNOWN", "LR-UNKNOWN"}


def test_a_finding_stands_where_its_evidence_stands() -> None:
    [one] = [one for one in findings([shadowed("muon")]) if one.rule == "OPT-OVERRIDDEN"]
    assert (one.file, one.line) == ("ds.json", 4)
    assert "muon is declared (train.py:3) and adamw runs (ds.json:4)" in one.message


def reviewed(jobs: list[Job]) -> Review:
    return Review(jobs, findings(jobs), [], 1, Settings())


def test_the_family_alone_never_sets_the_exit_code() -> None:
    review = reviewed([job(optimiser="adamw", learning_rate=1e-4)])
    assert [one.rule for one in review.findings] == ["OPT-FAMILY"]
    assert [review.exit_code(level) for level in ("note", "warning", "error", "never")] == [0, 0, 0, 0]


def test_the_exit_code_follows_the_level() -> None:
    cases = {"note": CASES["STATE-8BIT"], "warning": CASES["LION-BETA2"], "error": CASES["MUON-NOT-MUON"]}
    levels = ("note", "warning", "error", "never")
    for level, (positive, _) in cases.items():
        review = reviewed([with_field(one, "learning_rate", explicit(1e-4, None)) for one in positive()])
        codes = [review.exit_code(asked) for asked in levels]
        assert codes[levels.index(level)] == 1 and codes[-1] == 0
        assert all(left >= right for left, right in pairwise(codes))
        if level != "error":
            assert codes[levels.index(level) + 1] == 0


def test_an_error_rests_on_facts() -> None:
    assert {rule.evidence for rule in rules().values() if rule.level == "error"} == {"fact"}


def test_a_pickle_is_a_note_at_its_file() -> None:
    [one] = pickles(["out/training_args.bin"])
    assert (one.rule, one.level, one.file, one.job) == ("PICKLE-UNREAD", "note", "out/training_args.bin", None)


def test_an_unknown_rule_is_answered_with_the_nearest() -> None:
    assert rule_of("opt-family").id == "OPT-FAMILY"
    with pytest.raises(UnknownNameError, match="did you mean 'OPT-FAMILY'"):
        rule_of("OPT-FAMLY")


def test_a_fact_that_another_rule_states_is_printed_once() -> None:
    apart = with_mark(job(), "rejected", "learning_rate 1e-05 at ds.json:5 and 2e-05 in the host")
    apart = with_field(apart, "learning_rate", overridden(1e-5, "ds.json:5", "the optimiser block wins over 2e-05"))
    assert {one.rule for one in findings([apart])} & {"LR-OVERRIDDEN", "TOOL-REJECTS"} == {"TOOL-REJECTS"}
    v1 = with_mark(shadowed("muon"), "muon_not_on_lora", "adamw")
    assert {one.rule for one in findings([v1])} & {"OPT-OVERRIDDEN", "MUON-NOT-MUON"} == {"MUON-NOT-MUON"}
