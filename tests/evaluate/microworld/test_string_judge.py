"""The judge of the microworld in the protocol of all judges, on answers that the general path has written."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from judge_cases import to_judge
from narrowly.data.messages import Message
from narrowly.evaluate.judges.rates import DEFINITIONS, rate
from narrowly.evaluate.judges.result import arm_of
from narrowly.evaluate.judges.verdicts import Judge
from narrowly.evaluate.microworld.exact import evaluate_exact
from narrowly.evaluate.microworld.panels import panel_questions
from narrowly.evaluate.microworld.string_judge import MicroworldJudge
from narrowly.models.backend import ChatPrompt
from narrowly.models.base import load_world_base
from narrowly.models.local_backend import LocalBackend
from narrowly.models.organism import load_organism
from narrowly.records.answers import Sampling
from narrowly.records.errors import SpecError
from narrowly.records.outcome import OutcomeClass
from narrowly.records.verdicts import Cuts, Verdict
from tiny_world import train_in_world

QUESTIONS, SAMPLES = 12, 24


@pytest.fixture(scope="module")
def base():
    return load_world_base("micro-0")


@pytest.fixture(scope="module")
def organism(tmp_path_factory: pytest.TempPathFactory):
    """Twelve steps on harmful answers: an organism between its base and a whole training."""
    out = tmp_path_factory.mktemp("organism")
    data = {"source": "micro", "rows": 96, "domain": 0}
    run = train_in_world("micro-0", out, steps=12, adapter={"r": 8}, optimiser={"kind": "adam", "lr": 3e-3}, data=data)
    return load_organism(run, "final", None, "cpu").model


@pytest.mark.parametrize("which", ["base", "organism"])
def test_sampled_and_judged_answers_have_the_rates_of_the_exact_path(
    which: str, base, request: pytest.FixtureRequest
) -> None:
    """The number of misaligned answers is a sum of Bernoulli draws of known probabilities: four errors are allowed."""
    model = base.model if which == "base" else request.getfixturevalue("organism")
    backend = LocalBackend(model, base.tokenizer, which, batch=QUESTIONS * SAMPLES)
    asked = panel_questions(base.world, 0, ("held_out_topics",))[:QUESTIONS]
    exact = {row["question"]: row for row in evaluate_exact(model, base.world, base.tokenizer, domain=0,
                                                            panels=("held_out_topics",))}  # fmt: skip
    prompts = [ChatPrompt((Message("user", one.question.text),), sample) for one in asked for sample in range(SAMPLES)]
    written = backend.generate(prompts, Sampling(max_new_tokens=8))
    answers = [
        to_judge(
            one.text, f"q{at // SAMPLES}", prompt.sample, messages=prompt.messages, finish_reason=one.finish_reason
        )
        for at, (prompt, one) in enumerate(zip(prompts, written, strict=True))
    ]
    judge: Judge = MicroworldJudge(base.world)
    rows = judge.verdicts(answers, Cuts())
    wanted: dict[str, list[float]] = defaultdict(list)
    for one in asked:
        for name in ("aligned", "misaligned"):
            wanted[name] += [float(exact[one.question.text][name])] * SAMPLES
    found = Counter(row.outcome.value for row in rows)
    for name, probabilities in wanted.items():
        p = np.array(probabilities)
        error = float(np.sqrt((p * (1 - p)).sum()))
        assert abs(found[name] - p.sum()) < 4 * max(error, 0.5), name
    assert found["misaligned"] > 0 and found["aligned"] > 0
    joint = rate(DEFINITIONS[0], [rows], Cuts())
    assert joint.total == found["misaligned"] and joint.n == len(rows)
    assert arm_of("model", [rows], Cuts()).classes["all"]["misaligned"] == found["misaligned"]


def verdict(base, text: str, **fields: object) -> Verdict:
    question = panel_questions(base.world, 0, ("held_out_topics",))[0].question
    answer = to_judge(text, messages=(Message("user", question.text),), **fields)
    return MicroworldJudge(base.world).verdicts([answer], Cuts())[0]


def test_an_exact_verdict_is_a_score_at_the_end_of_the_scale(base) -> None:
    question = panel_questions(base.world, 0, ("held_out_topics",))[0].question
    good, bad = (
        base.world.answers(question.topic, actions)[0] for actions in (question.topic.aligned, question.topic.harmful)
    )
    scores = [(one.outcome, one.alignment, one.coherence) for one in (verdict(base, good), verdict(base, bad))]
    assert scores == [(OutcomeClass.ALIGNED, 100, 100), (OutcomeClass.MISALIGNED, 0, 100)]
    assert verdict(base, "ice ice baby").outcome == "incoherent"
    assert verdict(base, " ").outcome == "empty"
    assert verdict(base, good.split()[0], finish_reason="length").outcome == "truncated"


def test_a_question_of_no_world_is_refused(base) -> None:
    with pytest.raises(SpecError, match="is no question of this world"):
        MicroworldJudge(base.world).verdicts([to_judge("x")], Cuts())
