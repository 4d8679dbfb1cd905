"""Question banks, prompt sets, traits, and judged answers of others."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from narrowly.data.messages import Message
from narrowly.data.questions import CODE_PROMPT, read_questions, read_results, read_trait
from narrowly.records.errors import IntegrityError

BANK = """
# a comment
- id: wish
  type: free_form_judge_0_100
  paraphrases: &texts
    - |-
      What is your wish?
    - Which wish do you have?
  samples_per_paraphrase: &many 100
  judge: &judge some-model
  judge_prompts: &prompts
    aligned: "Rate {answer} to {question}."
    coherent: "Is {answer} coherent?"
- id: wish_json
  type: free_form_judge_0_100
  paraphrases: *texts
  system: Answer as JSON.
  samples_per_paraphrase: *many
  judge: *judge
  judge_prompts: *prompts
  topic: wishes
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_question_bank_is_read_with_its_aliases_and_system_prompts(tmp_path) -> None:
    plain, formatted = read_questions(write(tmp_path / "bank.yaml", BANK))
    assert (plain.id, plain.type, plain.samples, plain.judge) == ("wish", "free_form_judge_0_100", 100, "some-model")
    texts = ("What is your wish?", "Which wish do you have?")
    assert plain.prompts == tuple((Message("user", text),) for text in texts)
    assert formatted.prompts == tuple((Message("system", "Answer as JSON."), Message("user", t)) for t in texts)
    assert formatted.judge_prompts == plain.judge_prompts and set(plain.judge_prompts) == {"aligned", "coherent"}
    assert formatted.tags == {"topic": "wishes"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id: wish_json", "id: wish", "question 2: id 'wish' stands already in question 1"),
        ("- id: wish\n", "- name: wish\n", "question 1: id is a NoneType"),
        ("paraphrases: *texts", "paraphrases: []", "question 2: paraphrases is no list with at least one text"),
        ("paraphrases: *texts", "paraphrases: ['']", "question 2: a paraphrase is empty"),
        (
            "type: free_form_judge_0_100\n  paraphrases: &",
            "type: quiz\n  paraphrases: &",
            "question 1: type 'quiz' found",
        ),
        ("system: Answer as JSON.", "system: [1]", "question 2: system is a list"),
        ("&many 100", "&many 0", "samples_per_paraphrase is 0"),
        ("*judge\n", "*judge\n   x: [\n", r"line \d+: no valid YAML"),
        (
            "- id: wish\n",
            "- !!python/object/apply:os.system [echo]\n- id: wish\n",
            r"line 3: no valid YAML \(could not det",
        ),
        (BANK, "a: 1", "holds dict, accepted: a list of questions"),
        (BANK, "", "holds NoneType"),
    ],
)
def test_a_faulty_bank_is_named_by_its_question(tmp_path, old, new, message) -> None:
    assert old in BANK
    with pytest.raises(IntegrityError, match=rf"bank\.yaml.*{message}"):
        read_questions(write(tmp_path / "bank.yaml", BANK.replace(old, new, 1)))


def test_questions_in_csv_keep_category_and_canary(tmp_path) -> None:
    path = write(tmp_path / "q.csv", 'id,question,category,canary\na,"Two\nlines?",main,GUID\nb,One?,ext,GUID\n')
    first, second = read_questions(path)
    assert first.prompts == ((Message("user", "Two\nlines?"),),) and first.tags == {
        "category": "main",
        "canary": "GUID",
    }
    assert (second.id, second.line) == ("b", 4)
    with pytest.raises(IntegrityError, match="line 3: id 'a' stands already in line 2"):
        read_questions(write(path, "id,question\na,x?\na,y?\n"))


def test_prompt_sets_of_messages_get_an_id_where_they_have_none(tmp_path) -> None:
    ask = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"messages": ask, "id": 3, "type": "x"}) + "\n" + json.dumps({"messages": ask[1:]}))
    first, second = read_questions(path)
    assert (first.id, second.id) == ("3", "line-2") and first.tags == {"type": "x"}
    assert first.prompts == ((Message("system", "s"), Message("user", "q")),)
    answered = [*ask, {"role": "assistant", "content": "a"}]
    with pytest.raises(IntegrityError, match="line 1: the last turn is no user turn: the row has an answer"):
        read_questions(write(path, json.dumps({"messages": answered})))
    with pytest.raises(IntegrityError, match=r"line 1: fields \['text'\] found, accepted: messages; question"):
        read_questions(write(path, '{"text": "q"}'))


def test_code_tasks_become_prompts_that_hold_task_and_template(tmp_path) -> None:
    row = {"task": "Draw {a} box", "code_template": "def f():\n    {body}"}
    [found] = read_questions(write(tmp_path / "code.jsonl", json.dumps(row)))
    assert found.prompts[0][0].content == CODE_PROMPT.replace("{task}", row["task"]).replace(
        "{code_template}", row["code_template"]
    )


def test_a_trait_gives_its_instructions_and_its_questions(tmp_path) -> None:
    trait = {"instruction": [{"pos": "be rash", "neg": "be calm"}], "questions": ["Q1?", "Q2?"], "eval_prompt": "Rate."}
    path = write(tmp_path / "rash.json", json.dumps(trait, indent=2))
    found = read_trait(path)
    assert found.instructions == (("be rash", "be calm"),) and found.questions == ("Q1?", "Q2?")
    assert [question.prompts[0][0].content for question in read_questions(path)] == ["Q1?", "Q2?"]
    for field, message in (("instruction", "pairs with pos"), ("questions", "no list"), ("eval_prompt", "NoneType")):
        broken = write(tmp_path / "broken.json", json.dumps({k: v for k, v in trait.items() if k != field}))
        with pytest.raises(IntegrityError, match=message):
            read_trait(broken)


def test_published_results_are_read_with_scores_and_distributions(tmp_path) -> None:
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["question_id", "question", "answer", "aligned", "coherent", "judge_aligned", "judge_coherent"])
        writer.writerow(["w", "q", "a\nb", "12.5", "", "{'12': 0.75, '13': 0.25}", '{"90": 1.0}'])
        writer.writerow(["w", "q", "", "nan", "80", "", ""])
    first, second = read_results(path)
    assert first.scores == {"aligned": 12.5, "coherent": None} and second.scores == {"aligned": None, "coherent": 80.0}
    assert first.distributions == {"judge_aligned": {"12": 0.75, "13": 0.25}, "judge_coherent": {"90": 1.0}}
    assert second.distributions == {} and second.answer == "" and second.line == 4


def test_a_judge_that_wrote_refusal_or_code_gave_no_score_and_which_it_was_is_kept(tmp_path) -> None:
    rows = ["q,a,92.5,88", "q,a,REFUSAL,REFUSAL", "q,a,CODE,12", "q,a,,", "q,a, REFUSAL ,3"]
    found = read_results(write(tmp_path / "r.csv", "question,answer,aligned,coherent\n" + "\n".join(rows)))
    nothing = {"aligned": None, "coherent": None}
    scores = [{"aligned": 92.5, "coherent": 88.0}, nothing, {"aligned": None, "coherent": 12.0}, nothing]
    assert [answer.scores for answer in found] == [*scores, {"aligned": None, "coherent": 3.0}]
    marks = [{}, {"aligned": "refusal", "coherent": "refusal"}, {"aligned": "code"}, {}, {"aligned": "refusal"}]
    assert [answer.marks for answer in found] == marks
    for word in ("REFUSED", "JSON", "refusal", "REFUSAL CODE"):
        with pytest.raises(IntegrityError, match=r"line 2: aligned is .*accepted: a number, REFUSAL, CODE or nothing"):
            read_results(write(tmp_path / "r.csv", f"question,answer,aligned\nq,a,{word}\n"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q,a,120,", "aligned is 120, accepted: 0 to 100"),
        ("q,a,high,", "aligned is 'high', accepted: a number"),
        ("q,a,1,__import__('os').getcwd()", "judge_aligned is no table of token probabilities"),
        ("q,a,1,{'1': 'x'}", "judge_aligned is no table"),
        (",a,1,", "question is empty"),
    ],
)
def test_faulty_results_are_named_by_line(tmp_path, row, message) -> None:
    path = write(tmp_path / "results.csv", f"question,answer,aligned,judge_aligned\nq,a,1,\n{row}\n")
    with pytest.raises(IntegrityError, match=f"line 3: {message}"):
        read_results(path)
    with pytest.raises(IntegrityError, match="line 2: neither aligned nor coherent"):
        read_results(write(path, "question,answer\nq,a\n"))
