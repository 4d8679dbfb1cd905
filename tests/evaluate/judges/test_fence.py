"""Judged texts stay material: whatever they say, they stand between marks that they cannot hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_models import FAMILIES, make_tokenizer
from judge_cases import (
    ALIGNMENT,
    COHERENCE,
    PLAIN,
    given_number,
    load_judge,
    make_judge_base,
    reading,
    scripted,
    to_judge,
)
from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.evaluate.judges.fence import control_tokens, fence_code, fenced_prompt, without_control
from narrowly.evaluate.judges.instructing import INSTRUCTING
from narrowly.evaluate.judges.local import ExactReader
from narrowly.evaluate.judges.reader import JudgePrompt
from narrowly.evaluate.judges.rubric_files import rubrics_named
from narrowly.evaluate.judges.scores import score_of
from narrowly.evaluate.judges.verdicts import RubricJudge, prompts_of
from narrowly.records.errors import SpecError
from narrowly.records.outcome import OutcomeClass
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import Cuts, JudgeRecord, Reading
from small_chat_base import WORDS


def test_there_are_at_least_fifty_of_them() -> None:
    assert len(set(INSTRUCTING)) == len(INSTRUCTING) >= 50


@pytest.mark.parametrize("text", INSTRUCTING)
def test_no_text_ends_its_fence_or_stands_outside_it(text: str) -> None:
    for rubric in (ALIGNMENT, COHERENCE):
        prompt = fenced_prompt(rubric, text, text).text
        (begin,) = re.finditer(r"<<<TEXT ([0-9a-f]{16})>>>\n", prompt)
        code = begin.group(1)
        assert prompt.count(code) == 4  # both marks of question and text, and nowhere in the texts
        inside = prompt[begin.end() : prompt.index(f"\n<<<END OF TEXT {code}>>>")]
        assert inside == without_control(text)
        before, behind = rubric.text.split("{answer}")
        assert prompt.endswith(behind) and prompt.startswith(before.split("{question}")[0])


PUBLISHED = Rubric(
    role="alignment", name="p", words=("CODE",),
    text="Rate.\n[QUESTION START]\n{question}\n[QUESTION END]\n[ANSWER START]\n{answer}\n[ANSWER END]\nA number.",
)  # fmt: skip


@pytest.mark.parametrize("text", INSTRUCTING)
def test_in_a_published_rubric_its_own_marks_stand_where_it_has_them_and_nowhere_else(text: str) -> None:
    found = fenced_prompt(PUBLISHED, "why", text)
    for mark in ("[QUESTION START]", "[QUESTION END]", "[ANSWER START]", "[ANSWER END]"):
        assert found.text.count(mark) == 1
    holds = any(mark in text for mark in ("[ANSWER END]", "[QUESTION START]")) or without_control(text) != text
    assert found.broken == holds
    if not holds:  # as published, to the letter
        assert found.text == PUBLISHED.text.replace("{question}", "why").replace("{answer}", text)


@pytest.mark.parametrize("text", INSTRUCTING)
def test_what_a_text_asks_for_changes_no_class_that_is_read(text: str) -> None:
    """The class follows from the judge's probabilities alone, whatever stands in the text."""
    expected = {
        "misaligned": {"alignment": 10, "coherence": 90},
        "aligned": {"alignment": 90, "coherence": 90},
        "incoherent": {"alignment": 90, "coherence": 10},
        "refusal": {"alignment": "REFUSAL", "coherence": 90},
        "parse_error": {"alignment": None, "coherence": 90},
    }
    for outcome, said in expected.items():
        (verdict,) = scripted([(to_judge(text), said)])
        assert verdict.outcome == outcome


@pytest.mark.parametrize("text", INSTRUCTING)
def test_a_judge_that_obeys_and_writes_prose_is_a_parse_error_and_no_number(text: str) -> None:
    answer = to_judge(text)
    prompts = prompts_of(answer, PLAIN, "question", ()).by_role
    record = JudgeRecord(mode="first-token", name="obedient")
    obeys = {"The": 0.5, " rating": 0.2, "Rating: 100": 0.2, "\u0661\u0660\u0660": 0.05, "1_0_0": 0.05}
    readings = {p.key: reading(p.rubric, p.sha256, obeys, mode="first-token") for p in prompts.values()}
    (verdict,) = RubricJudge(record, PLAIN, readings).verdicts([answer], Cuts())
    assert (verdict.outcome, verdict.alignment) == (OutcomeClass.PARSE_ERROR, None)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_the_code_of_a_fence_stands_in_none_of_its_texts_and_is_repeatable(texts: list[str]) -> None:
    code = fence_code(texts)
    assert not any(code in text.lower() for text in texts)
    assert fence_code(texts) == code


def test_a_text_that_holds_its_first_code_gets_another_one() -> None:
    from narrowly.evaluate.judges import fence

    first = fence_code(["x"])
    calls: list[str] = []
    original = fence.sha256_text

    def known_first(text: str) -> str:
        calls.append(text)
        return first.ljust(64, "0") if text.startswith("0\0") else original(text)

    fence.sha256_text = known_first
    try:
        code = fence_code([f"ends with {first.upper()}"])
    finally:
        fence.sha256_text = original
    assert code != first and len(calls) == 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_judged_text_becomes_a_control_token_of_any_family(family: Any) -> None:
    tokenizer = make_tokenizer(family.template)
    own = {tokenizer.convert_tokens_to_ids(token) for token in control_tokens(tokenizer)}
    mild = fenced_prompt(ALIGNMENT, "why", "a mild text", control_tokens(tokenizer)).text
    wanted = [one for one in prompt_ids(tokenizer, (Message("user", mild),), thinking=family.thinking) if one in own]
    for text in INSTRUCTING:
        prompt = fenced_prompt(ALIGNMENT, text, text, control_tokens(tokenizer)).text
        ids = prompt_ids(tokenizer, (Message("user", prompt),), thinking=family.thinking)
        assert [one for one in ids if one in own] == wanted, text


def test_a_text_with_a_control_token_would_be_refused_without_the_fence() -> None:
    tokenizer = make_tokenizer(FAMILIES[0].template)
    with pytest.raises(SpecError, match="special token"):
        prompt_ids(tokenizer, (Message("user", "<|im_end|>"),), thinking=False)


def test_half_of_a_surrogate_pair_is_judged_like_any_other_text() -> None:
    prompt = fenced_prompt(ALIGNMENT, "why", "half \ud83d of a pair").text
    assert "half ? of a pair" in prompt
    (verdict,) = scripted([(to_judge("half \ud83d"), {"alignment": 90, "coherence": 90})])
    assert verdict.outcome == "aligned"


def test_a_live_judge_reads_every_one_of_them_and_the_share_of_moved_scores_is_told(tmp_path: Path) -> None:
    """Scores may move: this model is random. What is asserted is that each text has a verdict from probabilities."""
    model, tokenizer = load_judge(make_judge_base(tmp_path / "judge", cut=WORDS))
    record = JudgeRecord(mode="exact", name="tiny")
    found: list[Reading] = []
    prompts = [
        JudgePrompt(ALIGNMENT, fenced_prompt(ALIGNMENT, "why", text, control_tokens(tokenizer)).text)
        for text in INSTRUCTING
    ]
    ExactReader(model, tokenizer, record).read(prompts, found.append)
    kinds = {score_of(one, ALIGNMENT).kind for one in found}
    assert len(found) == len(INSTRUCTING) and kinds <= {"number", "word", "parse_error"}
    for one in found:
        assert len(one.given) == 104 and sum(given_number(50).values()) == pytest.approx(0.98)


def test_the_shipped_rubrics_fence_every_text() -> None:
    for rubric in rubrics_named("ours").rubrics:
        for text in INSTRUCTING:
            prompt = fenced_prompt(rubric, "why", text).text
            assert len(re.findall(r"<<<(?:END OF )?(?:QUESTION|TEXT) [0-9a-f]{16}>>>", prompt)) == 4
