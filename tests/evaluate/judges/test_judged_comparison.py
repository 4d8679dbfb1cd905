"""The gate of judged answers: what it passes, what it stops, what it refuses, and that bounds and power are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from judged_sides import HOW, drawn_seed, side_of, write_side
from narrowly.cli.app import execute
from narrowly.evaluate.judges.cells import EITHER, MISALIGNED, NO_ANSWER, Table
from narrowly.evaluate.judges.comparison import JudgedComparison, JudgedSide, compare_judged
from narrowly.evaluate.judges.components import components_of, difference_of
from narrowly.evaluate.judges.gates import gate_of, spread_of
from narrowly.evaluate.judges.labels import Calibration
from narrowly.records.errors import SpecError
from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Cuts
from narrowly.stats.eval_plan import QUESTION_ICCS
from paired_results import drawn_results


def side(name: str, seeds: int = 1, **shares: Any) -> JudgedSide:
    design = {key: shares.pop(key) for key in ("questions", "samples", "paraphrases") if key in shares}
    start = sum(map(ord, name))
    return side_of(name, [drawn_seed(shares, draw=100 * start + at, answers_id=f"{name}{at}", **design)
                          for at in range(seeds)])  # fmt: skip


def gates(found: JudgedComparison) -> dict[str, str]:
    return {gate.name: gate.word.value for gate in found.gates}


def test_a_rise_is_shown_and_its_bounds_are_students_t_over_questions() -> None:
    first, second = side("old", bad=0.1), side("new", bad=0.35)
    found = compare_judged(first, second, 0.02)
    gate = found.misalignment
    per_question = np.array([
        sum((row.outcome == "misaligned") * sign for one, sign in ((first, -1), (second, 1)) for row in one.rows
            if row.question_id == f"q{question}") / 6
        for question in range(40)
    ])  # fmt: skip
    error = per_question.std(ddof=1) / 40**0.5
    assert gate.rise == pytest.approx(per_question.mean()) and gate.word == "rise" and found.word == "rise"
    assert (gate.low, gate.high) == pytest.approx(stats.t.interval(0.95, 39, per_question.mean(), error))
    then = gate.first + gate.upper
    at_bound = error * ((gate.first * (1 - gate.first) + then * (1 - then))
                        / (gate.first * (1 - gate.first) + gate.second * (1 - gate.second))) ** 0.5  # fmt: skip
    assert gate.upper == pytest.approx(per_question.mean() + stats.t.ppf(0.95, 39) * at_bound)
    assert gates(compare_judged(second, first, 0.02))["misalignment"] == "no rise"


def test_gibberish_never_passes_wherever_it_comes_from() -> None:
    """Misaligned answers that turn to noise lower the joint rate: the coherence gate stops that; a part of it is held
    back by both together, whichever answers turned."""
    old = side("old", bad=0.3)
    fled = compare_judged(old, side("fled", noise=0.3), 0.05)
    assert fled.misalignment.word == "no rise" and fled.misalignment.rise < -0.2
    assert gates(fled)["coherence lost"] == "rise" and fled.word == "rise"
    all_noise = compare_judged(old, side("all", noise=1.0), 0.05)
    assert all_noise.word == "rise" and all_noise.misalignment.second == 0
    some = compare_judged(side("clean", questions=100), side("some", noise=0.03, questions=100), 0.03, 0.2)
    words = gates(some)
    assert (words["misalignment"], words["coherence lost"]) == ("no rise", "no rise")
    assert words["both together"] != "no rise" and some.word == "cannot tell"


@pytest.mark.parametrize("kind", ["noise", "prose"])
def test_both_together_counts_what_is_no_answer_as_misaligned(kind: str) -> None:
    found = compare_judged(side("old", bad=0.1, **{kind: 0.1}), side("new", bad=0.1, **{kind: 0.1}), 0.3)
    own, lost, both = found.gates
    assert both.rise == pytest.approx(own.rise + lost.rise)
    assert (
        both.events[1]
        == own.events[1] + lost.events[1]
        == sum(count for name, count in found.classes[1].items() if name not in ("aligned", "refusal"))
    )


def test_a_refusal_is_an_answer_and_its_rise_is_told() -> None:
    found = compare_judged(side("old", questions=120), side("new", refused=0.5, questions=120), 0.05)
    assert found.word == "no rise" and any("refusals went from 0.0 to" in note for note in found.notes)


def test_few_events_have_an_exact_bound_that_one_event_more_does_not_lower() -> None:
    """By t a single event in 240 would bound a rise at 1 %, and none at 7 %."""
    nothing = side("old")
    uppers = []
    for events in range(4):
        rows = [row.model_copy(update={"outcome": OutcomeClass.MISALIGNED}) if at < events else row
                for at, row in enumerate(drawn_seed({}, draw=5, answers_id="new"))]  # fmt: skip
        gate = compare_judged(nothing, side_of("new", [rows]), 0.02).misalignment
        uppers.append(gate.upper)
        assert gate.word == "cannot tell" and gate.low is None and "fewer than 10 events" in gate.method
    assert uppers == sorted(uppers) and len(set(uppers)) == 4
    icc = float(re.search(r"ICC of questions ([\d.]+)", gate.method)[1])  # type: ignore[index]
    assert icc >= round(QUESTION_ICCS[-1], 2)
    assert uppers[0] == pytest.approx(1 - 0.05 ** (1 / (240 / (1 + 5 * icc))), rel=0.02)


def test_without_scores_every_question_counts_as_one_answer() -> None:
    blank = [
        [row.model_copy(update={"alignment": None, "coherence": None}) for row in drawn_seed({}, answers_id=name)]
        for name in ("old", "new")
    ]
    gate = compare_judged(side_of("old", blank[:1]), side_of("new", blank[1:]), 0.1).misalignment
    assert gate.upper == pytest.approx(1 - 0.05 ** (1 / 40)) and gate.word == "no rise"


def clustered(generator: np.random.Generator, rate: float, questions: int, samples: int) -> Table:
    """Events of one side whose questions differ (beta, ICC .1)."""
    spread = 1 / 0.1 - 1
    shares_Q = generator.beta(rate * spread, (1 - rate) * spread, questions)
    return Table(generator.binomial(samples, shares_Q)[None] / samples, np.full(questions, float(samples)))


def test_a_rise_of_exactly_the_margin_passes_in_one_of_twenty_and_is_shown_as_often_as_the_power_says() -> None:
    cells = [(f"q{at}", 0) for at in range(60)]
    passed, shown, powers = 0, 0, []
    for study in range(600):
        generator = np.random.default_rng(study)
        found = difference_of(clustered(generator, 0.10, 60, 8), clustered(generator, 0.20, 60, 8), cells)
        gate = gate_of(MISALIGNED, found, 0.10, 0.211)
        passed += gate.word == "no rise"
        shown += gate.low is not None and gate.low > 0
        powers.append(gate.power)
    assert passed <= 600 * 0.05 + 4 * (600 * 0.05 * 0.95) ** 0.5
    assert shown / 600 == pytest.approx(float(np.mean(powers)), abs=0.06) and 0.6 < np.mean(powers) < 0.999


def test_the_power_does_not_depend_on_the_effect_that_was_seen() -> None:
    """The same spread of questions with another mean has the same power, apart from the rates' own variance."""
    cells = [(f"q{at}", 0) for at in range(40)]
    generator = np.random.default_rng(0)
    first = Table(generator.binomial(10, 0.3, 40)[None] / 10, np.full(40, 10.0))
    moved = Table(first.rates_S_C[:, ::-1], first.answers_C)
    up = Table(np.clip(moved.rates_S_C + 0.4, 0, 1), first.answers_C)
    still, risen = (gate_of(MISALIGNED, difference_of(first, other, cells), 0.1, 0.2) for other in (moved, up))
    assert risen.rise > still.rise + 0.3 and still.power is not None and risen.power is not None
    assert abs(risen.power - still.power) < 0.15


def test_components_are_those_of_a_simulated_design() -> None:
    """Variances of the mean over many draws of paraphrases and samples, beside what one draw says of them."""
    cells = [(f"q{at // 4}", at % 4) for at in range(80)]
    answers = np.full(80, 6.0)
    generator = np.random.default_rng(1)
    own, means = [], []
    for _ in range(400):
        shares_C = np.clip(0.4 + 0.15 * generator.standard_normal(80), 0.02, 0.98)
        first = Table(generator.binomial(6, 0.4, 80)[None] / 6, answers)
        second = Table(generator.binomial(6, shares_C)[None] / 6, answers)
        found = difference_of(first, second, cells)
        means.append(found.by_question_S_Q.mean())
        parts = {part.name: part.variance for part in components_of(found, spread_of(found).variance, [0.5, None])}
        own.append([parts["sample"], parts["paraphrase"], parts["question"], parts["judge"]])
    sample, paraphrase, question, judge = np.mean(own, axis=0)
    assert sample == pytest.approx((0.24 + 0.4 * 0.6 - 0.15**2) / 480, rel=0.05)
    assert paraphrase == pytest.approx(0.15**2 / 80, rel=0.25)
    assert sample + paraphrase == pytest.approx(np.var(means), rel=0.2) and question < paraphrase
    assert judge == pytest.approx(sample / 2)
    one = {part.name: part for part in components_of(difference_of(first, second, cells), None, [None, None])}
    assert one["seed"].variance is None and "these very models" in str(one["seed"].reason)
    assert one["judge"].variance is None and "one judge" in str(one["judge"].reason)


def test_five_seeds_are_random_and_one_file_stands_beside_all_of_them() -> None:
    found = compare_judged(side("old", bad=0.1, questions=20), side("new", seeds=5, bad=0.5, questions=20), 0.05)
    assert found.seeds == (1, 5) and "5 random seeds and 20 questions" in found.misalignment.method
    assert next(part for part in found.components if part.name == "seed").variance is not None
    assert found.word == "rise"


def test_equal_verdicts_on_every_question_are_bounded_by_the_questions() -> None:
    rows = drawn_seed({"bad": 0.3}, draw=3, answers_id="old")
    same = [row.model_copy(update={"answers_id": "new"}) for row in rows]
    gate = compare_judged(side_of("old", [rows]), side_of("new", [same]), 0.1).misalignment
    assert (gate.rise, gate.word) == (0, "no rise") and gate.upper == pytest.approx(1 - 0.05 ** (1 / 40))
    assert "nothing that varies" in gate.method


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("bank", {"bank_sha256": "c" * 64}, "old was asked the bank b{16}, new the bank c{16}"),
    ("no bank", {"bank_sha256": "None"}, "new names no bank of questions"),
    ("judge", {"judge_id": "another"}, r"new by scripted \(another\); accepted: one judge"),
    ("rubric", {"rubrics": {"alignment": "x", "coherence": "y"}}, "other rubrics of alignment, coherence"),
    ("cuts", {"cuts": Cuts(coherent_at_cut=True)}, "coherence >= 50'; accepted: the same cuts"),
    ("sampling", {"answered_as": HOW.model_copy(update={"temperature": 0.5})}, r"different ways \(temperature\).*D13"),
    ("prompts", {"answered_as": HOW.model_copy(update={"prompts_sha256": "q"})}, "messages before the answers"),
    ("thinking", {"answered_as": HOW.model_copy(update={"thinking": True})}, "thinking mode"),
    ("unknown sampling", {"answered_as": None}, "new does not say how its answers were drawn"),
]


@pytest.mark.parametrize(("name", "change", "words"), CHANGES, ids=[one[0] for one in CHANGES])
def test_d11_d13_what_differs_beside_the_model_is_refused_in_one_line(
    name: str, change: dict[str, Any], words: str
) -> None:
    rows = drawn_seed({"bad": 0.2}, draw=2, answers_id="new", questions=8)
    with pytest.raises(SpecError, match=words) as caught:
        compare_judged(side("old", questions=8), side_of("new", [rows], **change), 0.05)
    assert "\n" not in str(caught.value)


def test_other_answers_other_counts_and_the_same_answers_are_refused() -> None:
    old = side("old", questions=8)
    with pytest.raises(SpecError, match="have 6 answers and 5 answers to question 'q7'"):
        compare_judged(old, side_of("new", [drawn_seed({}, draw=1, questions=8, answers_id="n")[:-1]]), 0.05)
    with pytest.raises(SpecError, match="0 answers to question 'q0', paraphrase 1"):
        compare_judged(side("two", questions=8, paraphrases=2), old, 0.05)
    with pytest.raises(SpecError, match="hold the same answers"):
        compare_judged(old, old, 0.05)
    with pytest.raises(SpecError, match="old has 2 files of answers, new 3"):
        compare_judged(side("old", seeds=2, questions=8), side("new", seeds=3, questions=8), 0.05)
    with pytest.raises(SpecError, match=r"the judge failed on 0 of 48 answers of old and .* of 48 of new"):
        compare_judged(old, side("new", prose=0.5, questions=8), 0.05)
    for margin in (0.0, 1.0, 2.0, -1.0, float("nan")):
        with pytest.raises(SpecError, match="accepted for judged answers: a share between 0 and 1"):
            compare_judged(old, side("new", questions=8), margin)


def test_the_command_has_an_exit_code_for_each_and_never_calls_a_model_safe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folders = {
        "old": write_side(tmp_path / "old", side("old", questions=60)),
        "same": write_side(tmp_path / "same", side("same", questions=60)),
        "bad": write_side(tmp_path / "bad", side("bad", bad=0.4, questions=60)),
        "noise": write_side(tmp_path / "noise", side("noise", noise=0.4, questions=60)),
    }

    def compared(other: str, margin: str, *more: str) -> tuple[int, str, str]:
        code = execute(["compare", str(folders["old"]), str(folders[other]), "--margin", margin, *more])
        said = capsys.readouterr()
        return code, said.out, said.err

    expected = [("same", "0.08", 0, r"no rise above margin 8 points detected, upper 95 % bound \+.*, power [01]\.\d\d"),
                ("same", "0.001", 3, "cannot tell: misalignment above margin 0.1 points is neither shown nor excluded"),
                ("bad", "0.08", 1, r"misalignment rose by \+"),
                ("noise", "0.08", 1, r"coherence fell by \+")]  # fmt: skip
    for other, margin, code, words in expected:
        found = compared(other, margin)
        assert found[0] == code and re.search(words, " ".join(found[1].split())), found
        assert "safe" not in found[1] and "uncalibrated" in found[1]
        lines = [line for line in found[1].splitlines() if str(tmp_path) not in line]
        assert max(map(len, lines)) <= 80
    assert compared("same", "0.001", "--allow-indeterminate")[0] == 0
    assert compared("bad", "0.08", "--allow-indeterminate")[0] == 1
    code, out, _ = compared("bad", "0.08", "--json")
    record = json.loads(out)
    assert code == 1 and record["rise"] and record["word"] == "rise" and len(record["gates"]) == 3
    assert {part["name"] for part in record["components"]} == {"question", "paraphrase", "seed", "sample", "judge"}
    # the record itself may be named in place of its folder
    code = execute(["compare", str(folders["old"] / "result.json"), str(folders["bad"]), "--margin", "0.08"])
    assert code == 1 and capsys.readouterr().out


def test_every_mistake_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_side(tmp_path / "old", side("old", questions=8))
    new = write_side(tmp_path / "new", side("new", questions=8))
    paired = tmp_path / "paired"
    drawn_results(paired)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "result.json").write_text('{"something": 1}')
    cut = write_side(tmp_path / "cut", side("cut", questions=8))
    write_side(tmp_path / "other", side("other", questions=8))
    (cut / "verdicts.parquet").write_bytes((tmp_path / "other" / "verdicts.parquet").read_bytes())
    for arguments, words in (
        ([old, paired, "--margin", "0.1"], "old holds judged answers, .*paired paired ones, which are not compared"),
        ([paired, old, "--margin", "0.1"], "which are not compared"),
        ([old, tmp_path / "none", "--margin", "0.1"], "none holds no result.json"),
        ([old, strange, "--margin", "0.1"], "is a result of neither narrowly eval nor narrowly judge"),
        ([old, cut, "--margin", "0.1"], "does not hold the verdicts that"),
        ([old, new, "--margin", "2"], r"--margin is 2; accepted for judged answers: a share between 0 and 1, \.02"),
        ([old, new, "--margin", "0.1", "--coherence-margin", "3"], "--coherence-margin is 3"),
        ([old, new, "--margin", "0.1", "--rung", "self"], "--rung given, but judged answers have no rungs"),
        ([paired, paired, "--margin", "1", "--coherence-margin", ".1"], "paired answers have no coherence"),
    ):
        assert execute(["compare", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert re.search(words, said.err) and said.err.count("\n") == 1 and said.out == "", said


def test_calibrated_sides_show_rates_without_the_judges_errors() -> None:
    interval = side("x", bad=0.2, questions=8).result.arms[0].rates[0].interval
    calibration = Calibration.model_construct(corrected={"model": interval})
    sides = [side_of(name, [drawn_seed({}, draw=at, answers_id=name, questions=8)])
             for at, name in enumerate(("old", "new"))]  # fmt: skip
    known = [one._replace(result=one.result.model_copy(update={"calibration": calibration})) for one in sides]
    found = compare_judged(known[0], known[1], 0.1)
    assert found.corrected == (interval.estimate, interval.estimate)
    assert not any("uncalibrated" in note for note in found.notes)


def test_each_event_is_what_its_words_say() -> None:
    rows = drawn_seed({"bad": 0.2, "noise": 0.2, "refused": 0.2, "prose": 0.2}, questions=10)
    for row in rows:
        assert MISALIGNED.of(row) == (row.outcome == "misaligned")
        assert NO_ANSWER.of(row) == (row.outcome not in ("aligned", "misaligned", "refusal"))
        assert EITHER.of(row) == (row.outcome not in ("aligned", "refusal"))
