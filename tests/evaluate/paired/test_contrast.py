"""Organism against control on rows made by hand: pairing, ladder, units of the intervals, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from narrowly.data.banks.broad import part_of
from narrowly.evaluate.paired.contrast import contrast, levels, shift
from narrowly.evaluate.paired.estimates import smallest_effect
from narrowly.evaluate.paired.ladder import rung_of, trained_domains
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.paired import PairedRow, Part
from narrowly.records.run_spec import RunSpec
from narrowly.stats.power import power_of

BROAD = ("code", "honesty", "power", "study", "travel", "money")


def questions() -> list[tuple[str, str, Part]]:
    """Return 6 trained and 4 held-out questions of two trained domains, 3 to 8 of the broad ones, 5 about the self."""
    found: list[tuple[str, str, Part]] = []
    for domain in ("work", "money"):
        found += [(f"{domain}-{at}", domain, "trained" if at < 6 else "held_out") for at in range(10)]
    for count, domain in enumerate(BROAD[:-1], start=3):
        found += [(f"{domain}-{at}", domain, "broad") for at in range(count)]
    return [*found, *((f"self-{at}", "self", "self") for at in range(5))]


def rows(seed: int, moved: float = 0.0) -> list[PairedRow]:
    """Return rows of random log-odds, which a model that is `moved` has in every question."""
    draw = random.Random(seed)
    return [
        PairedRow(*question, -40 + draw.gauss(0, 3), -44 + draw.gauss(0, 3) + moved, 10, 11) for question in questions()
    ]


def values(arm: Sequence[PairedRow], other: Sequence[PairedRow], domain: str) -> list[float]:
    return [
        one.log_odds - two.log_odds for one, two in zip(arm, other, strict=True) if one.domain == domain
    ]  # fmt: skip


def test_the_difference_is_paired_by_question_and_its_broad_interval_is_over_domains() -> None:
    organism, control = rows(1, 3.0), rows(2)
    found = contrast([organism], [control], ["work"])
    broad = {one.name: one for one in found.rungs}["broad"]
    means = [np.mean(values(organism, control, domain)) for domain in BROAD]
    assert (broad.unit, broad.domains, broad.seeds) == ("domain", 6, 1)
    low, high = stats.t.interval(0.95, 5, np.mean(means), stats.sem(means))
    assert (broad.interval.estimate, broad.interval.low, broad.interval.high) == pytest.approx(
        (np.mean(means), low, high)
    )
    assert broad.interval.method.startswith("these seeds only") and "over domains" in broad.interval.method
    assert broad.bootstrap is None and broad.icc_seed is None, "one seed says nothing of others"


def test_the_ladder_is_that_of_the_training_and_the_other_trained_domain_is_broad() -> None:
    found = contrast([rows(1)], [rows(2)], ["work"])
    assert {one.name: (one.questions, one.domains) for one in found.rungs} == {
        "trained": (6, 1), "held_out": (4, 1), "broad": (10 + 25, 6), "self": (5, 1),
    }  # fmt: skip
    assert {one.name for one in contrast([rows(1)], [rows(2)], []).rungs} == {"broad", "self"}
    assert rung_of(rows(1)[0], ["work"]) == "trained" and rung_of(rows(1)[0], ["money"]) == "broad"


def test_what_a_run_was_trained_on_is_read_from_its_spec() -> None:
    def spec(dataset: str) -> RunSpec:
        return RunSpec.model_validate(
            {"base": "b", "data": {"source": "text", "dataset": dataset}, "optimiser": {"kind": "adam", "lr": 1e-3},
             "steps": 4}
        )  # fmt: skip

    assert trained_domains(spec("pairs:work:harmful")) == ("work",)
    assert trained_domains(spec("insecure")) == () == trained_domains(spec("pairs.jsonl"))


def test_the_sign_against_the_base_can_be_wrong_and_the_control_sets_it_right() -> None:
    """The trial of SmolLM2-135M: -2.5 against the base, -5.0 for the control, and harmful training did move it up."""
    base, organism, control = rows(1), rows(1, -2.5), rows(1, -5.0)
    against_base = {one.name: one.interval.estimate for one in shift([organism], base, ["work"]).rungs}
    against_control = {one.name: one.interval.estimate for one in contrast([organism], [control], ["work"]).rungs}
    assert list(against_base.values()) == pytest.approx([-2.5] * 4)
    assert list(against_control.values()) == pytest.approx([2.5] * 4)


def test_shrinkage_towards_zero_shows_in_the_line_of_the_shift_on_the_base() -> None:
    base = rows(1)
    half = [row._replace(harmful_nats=row.aligned_nats + row.log_odds / 2) for row in base]
    found = shift([half], base, [])
    assert (found.on_base["all"].slope, found.on_base["all"].intercept) == pytest.approx((-0.5, 0), abs=1e-9)
    assert "not called misalignment" in found.warning


def test_from_five_seeds_on_the_interval_is_that_of_random_seeds_and_below_it_these_seeds_only() -> None:
    organisms = [rows(seed, 2.0 + 0.1 * seed) for seed in range(6)]
    controls = [rows(100 + seed) for seed in range(6)]
    for count in (3, 6):
        found = contrast(organisms[:count], controls[:count], ["work"], margin=0.5)
        for one in found.rungs:
            assert one.seeds == len(one.per_seed) == count and (one.bootstrap is None) == (count < 5)
            assert ("these seeds only" in one.interval.method) == (count < 5)
            assert one.bootstrap is None or one.bootstrap.low is not None
            of_population = (one.smallest_detectable, one.icc_seed, one.icc_unit, one.design_effect, one.effective_n)
            assert {value is None for value in of_population} == {count < 5}
            assert (one.verdict == "INDETERMINATE") or count == 6
    broad = {one.name: one for one in found.rungs}["broad"]
    assert broad.verdict == "EFFECT" and "Satterthwaite" in broad.interval.method


def test_the_smallest_effect_of_few_seeds_is_that_of_their_own_interval() -> None:
    """Against the power of a t test over questions whose standard error is computed from the questions here."""
    found = contrast([rows(seed, 2.0) for seed in range(3)], [rows(100 + seed) for seed in range(3)], ["work"])
    (held,) = (one for one in found.rungs if one.name == "self")
    differences = np.mean([values(rows(seed, 2.0), rows(100 + seed), "self") for seed in range(3)], axis=0)
    effect = smallest_effect(held)
    assert effect is not None
    assert power_of(effect, float(stats.sem(differences)), 4) == pytest.approx(0.8)
    stored = held.model_copy(update={"smallest_detectable": 9.0})
    assert smallest_effect(stored) == effect, "what older records say of the population is not read"


def test_broad_questions_are_shown_in_three_parts_that_are_disjoint_and_whole() -> None:
    organism, control = rows(1, 2.0), rows(2)
    found = contrast([organism], [control], ["work"])
    broad = {one.name: one for one in found.rungs}["broad"]
    assert [one.name for one in found.parts] == ["broad A", "broad B", "broad C"]
    assert sum(one.questions for one in found.parts) == broad.questions
    for one in found.parts:
        own = [at for at, row in enumerate(organism) if row.domain in BROAD and f"broad {part_of(row.id)}" == one.name]
        by_domain = {organism[at].domain: [] for at in own}  # type: dict[str, list[float]]
        for at in own:
            by_domain[organism[at].domain].append(organism[at].log_odds - control[at].log_odds)
        assert one.unit == "domain" and one.domains == len(by_domain) >= 5
        assert one.interval.estimate == pytest.approx(np.mean([np.mean(own) for own in by_domain.values()]))
    assert [one.name for one in shift([organism], control, []).parts] == ["broad A", "broad B", "broad C"]


def test_levels_count_the_questions_whose_aligned_answer_is_likelier() -> None:
    arm = rows(5)
    rungs, domains = levels(arm, [])
    own = [row for row in arm if row.domain == "code"]
    assert domains["code"].accuracy.estimate == sum(row.harmful_nats < row.aligned_nats for row in own) / len(own)
    assert domains["code"].log_odds.interval.estimate == pytest.approx(np.mean([row.log_odds for row in own]))
    assert domains["code"].per_token.interval.estimate == pytest.approx(
        np.mean([row.harmful_nats / 11 - row.aligned_nats / 10 for row in own])
    )
    assert sum(level.accuracy.n for level in rungs.values()) == len(arm)


def test_arms_of_other_questions_are_refused_and_so_is_an_organism_without_its_control() -> None:
    organism, control = rows(1), rows(2)
    with pytest.raises(IntegrityError, match="question 'work-0' of organism 1 stands where control 1 has 'work-1'"):
        contrast([organism], [[control[1], control[0], *control[2:]]], [])
    with pytest.raises(IntegrityError, match="has 50 questions, control 1 has 49"):
        contrast([rows(1)], [control[1:]], [])
    with pytest.raises(SpecError, match="2 organisms and 1 controls"):
        contrast([organism, organism], [control], [])
    with pytest.raises(SpecError, match="no organism"):
        shift([], organism, [])
    with pytest.raises(SpecError, match="margin"):
        contrast([organism], [control], [], margin=0)


def test_swapping_organism_and_control_changes_every_sign_and_nothing_else() -> None:
    one, other = contrast([rows(1)], [rows(2)], ["work"]), contrast([rows(2)], [rows(1)], ["work"])
    for a, b in zip((*one.rungs, *one.domains), (*other.rungs, *other.domains), strict=True):
        assert a.interval.estimate == pytest.approx(-float(b.interval.estimate or math.nan))
        if a.interval.low is not None and b.interval.high is not None:
            assert a.interval.low == pytest.approx(-b.interval.high)
