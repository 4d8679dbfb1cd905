"""Rubrics: ours as versioned and hashed files, published ones from their YAML, and what is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from narrowly.evaluate.judges.rubric_files import rubrics_named
from narrowly.records.errors import IntegrityError, SpecError
from narrowly.records.rubrics import Rubric

VERSIONS = {
    "ours/language": (1, "9fdfaed35a6a9642"),
    "ours/engagement": (1, "ab1dec8148f00844"),
    "ours/alignment": (1, "5557b71003972b08"),
    "ours/content": (1, "f13bf76f961bac1e"),
}
"""First digits of the sha256 of every version: a changed text is a new version, and a new line here."""

QUESTIONS = {
    "aligned": "How good?\n[ANSWER START]\n{answer}\n[ANSWER END]\nAsked: {question}\nCODE, REFUSAL or 0 to 100.",
    "coherent": "Is it clear?\n{question}\n{answer}\n0 to 100.",
}


def test_our_rubrics_are_those_of_their_versions() -> None:
    found = {one.name: (one.version, one.sha256[:16]) for one in rubrics_named("ours").rubrics}
    assert found == VERSIONS


def test_our_rubrics_tolerate_a_cut_and_say_that_texts_are_material() -> None:
    found = rubrics_named("ours")
    assert [one.role for one in found.rubrics] == ["language", "engagement", "alignment", "content"]
    for role in ("language", "engagement"):
        rubric = found.of(role)  # type: ignore[arg-type]
        assert rubric is not None and "may stop in the middle of a sentence" in rubric.text
    assert all("never addressed to you" in " ".join(one.text.split()) for one in found.rubrics)


def questions_file(path: Path, *prompts: dict[str, str], kind: str = "free_form_judge_0_100") -> Path:
    rows = [
        {"id": f"q{at}", "type": kind, "paraphrases": ["why"], "judge": "some-model", "judge_prompts": one}
        for at, one in enumerate(prompts)
    ]
    path.write_text(yaml.safe_dump(rows), encoding="utf-8")
    return path


def test_published_judge_prompts_are_taken_to_the_letter(tmp_path: Path) -> None:
    found = rubrics_named(str(questions_file(tmp_path / "q.yaml", QUESTIONS, QUESTIONS)))
    assert [(one.role, one.words, one.text) for one in found.rubrics] == [
        ("alignment", ("CODE", "REFUSAL"), QUESTIONS["aligned"]),
        ("coherence", (), QUESTIONS["coherent"]),
    ]


UPSTREAM = Path(os.environ.get("NARROWLY_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="the published files are not beside this checkout")
@pytest.mark.parametrize("name", ["first_plot_questions.yaml", "preregistered_evals.yaml"])
def test_the_upstream_rubrics_are_read_from_their_files(name: str) -> None:
    found = rubrics_named(str(UPSTREAM / "emergent-misalignment" / "evaluation" / name))
    assert [(one.role, one.words) for one in found.rubrics] == [
        ("alignment", ("CODE", "REFUSAL")),
        ("coherence", ()),
    ]


def refused(value: object, tmp_path: Path) -> str:
    file = tmp_path / "rubrics.yaml"
    file.write_text(value if isinstance(value, str) else yaml.safe_dump(value), encoding="utf-8")
    with pytest.raises((SpecError, IntegrityError)) as caught:
        rubrics_named(str(file))
    message = str(caught.value)
    assert ("\n" not in message and "accepted" in message) or "no valid YAML" in message
    return message


GOOD = {"role": "alignment", "name": "mine", "text": "{question} {answer}"}


def test_a_rubric_without_a_scale_is_refused_in_one_line(tmp_path: Path) -> None:
    message = refused([{**GOOD, "scale": False, "words": ["CODE", "REFUSAL"]}], tmp_path)
    assert "without a scale gives no score" in message
    file = questions_file(tmp_path / "free.yaml", {"honesty": "{question} {answer}"}, kind="free_form_judge")
    with pytest.raises(SpecError, match="'honesty' has no scale from 0 to 100"):
        rubrics_named(str(file))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{**GOOD, "text": "{answer}"}], "the text has no {question}"),
        ([GOOD], "none of coherence"),
        ([{**GOOD, "role": "coherence"}], "none of the role 'alignment'"),
        ([GOOD, GOOD], "two of the role 'alignment'"),
        ([{**GOOD, "words": ["MAYBE"]}], "'MAYBE' stands for no class"),
        ([{**GOOD, "rule": "alignment"}], "rule"),
        (["text"], "holds no rubrics"),
        ("{", "no valid YAML"),
    ],
)
def test_what_is_no_set_of_rubrics_is_refused_in_one_line(value: object, words: str, tmp_path: Path) -> None:
    assert words in refused(value, tmp_path)


def test_a_name_that_is_none_gets_the_nearest_one() -> None:
    with pytest.raises(SpecError, match="'our'; did you mean 'ours'"):
        rubrics_named("our")


def test_questions_with_different_judge_prompts_are_refused(tmp_path: Path) -> None:
    other = {**QUESTIONS, "aligned": QUESTIONS["aligned"] + " Please."}
    with pytest.raises(SpecError, match="'q0' and 'q1' have different judge prompts for aligned"):
        rubrics_named(str(questions_file(tmp_path / "q.yaml", QUESTIONS, other)))


def test_a_rubric_is_known_by_what_acts_and_not_by_its_name() -> None:
    one = Rubric(**GOOD)
    assert one.sha256 == Rubric(**{**GOOD, "name": "other", "version": 2}).sha256
    assert one.sha256 != Rubric(**{**GOOD, "text": "{question} {answer}!"}).sha256
    assert one.sha256 != Rubric(**GOOD, words=("CODE",)).sha256
