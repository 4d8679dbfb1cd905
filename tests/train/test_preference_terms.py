"""Terms of preference objectives on a log-linear policy of a few answers, against finite differences of J itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowly.records.objectives import SailRevKl
from narrowly.train.objectives.answers import Read
from narrowly.train.objectives.preference import sail_loss
from narrowly.train.objectives.preference_terms import (
    Answers,
    TermSwitches,
    better_than,
    data_pairs,
    divergence,
    labelled,
    own_label_pairs,
    policy_pairs,
    preference_loss,
    token_difference,
    win_log_sigmoids,
)
from narrowly.train.objectives.protocol import Batch

BETA, STEP = 0.7, 1e-5
SCORES = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
RANDOM = np.random.default_rng(5)
FEATURES = RANDOM.normal(size=(5, 3))
REFERENCE, THETA = RANDOM.normal(size=3), RANDOM.normal(size=3)


def log_policy(theta: np.ndarray) -> np.ndarray:
    logits = FEATURES @ theta
    return logits - np.logaddexp.reduce(logits)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def plain_objective(theta: np.ndarray, variant: str) -> float:
    """J of a variant, word by word from its definition: who answers, who labels, what is averaged."""
    log_p, log_q = log_policy(theta), log_policy(REFERENCE)
    p, h, score = np.exp(log_p), log_p - log_q, SCORES[0].numpy()
    better = [(i, j) for i in range(5) for j in range(5) if score[i] > score[j]]
    total = 0.0
    for i, j in itertools.product(range(5), repeat=2):
        wins = sigmoid(BETA * (h[i] - h[j]))
        here, there = math.log(sigmoid(BETA * (h[i] - h[j]))), math.log(sigmoid(BETA * (h[j] - h[i])))
        if variant == "dpo":
            total += here / len(better) if (i, j) in better else 0.0
        elif variant == "dp":
            total += (wins * here + (1 - wins) * there) / len(better) if (i, j) in better else 0.0
        elif variant == "pp":
            total += p[i] * p[j] * (wins * here + (1 - wins) * there)
        else:
            label = 0.5 if score[i] == score[j] else float(score[i] > score[j])
            total += p[i] * p[j] * (label * here + (1 - label) * there)
    return total


def finite_difference(function, theta: np.ndarray) -> np.ndarray:
    steps = STEP * np.eye(len(theta))
    return np.array([(function(theta + step) - function(theta - step)) / (2 * STEP) for step in steps])


def answers_at(theta: Tensor) -> Answers:
    logp_1_A = torch.log_softmax(torch.from_numpy(FEATURES) @ theta, -1)[None]
    return Answers(logp_1_A, logp_1_A, torch.from_numpy(log_policy(REFERENCE))[None])


def pairs_of(variant: str, answers: Answers) -> tuple[Tensor, TermSwitches]:
    if variant == "dpo":
        return data_pairs(SCORES), TermSwitches()
    if variant == "dp":
        own = own_label_pairs(data_pairs(SCORES), win_log_sigmoids(answers, BETA))
        return own, TermSwitches(own_labels=True)
    drawn = policy_pairs(answers.drawn_B_A)
    if variant == "pp":
        own = own_label_pairs(drawn, win_log_sigmoids(answers, BETA))
        return own, TermSwitches(on_policy=True, own_labels=True)
    return labelled(drawn, better_than(SCORES)), TermSwitches(on_policy=True)


def gradient(variant: str, **switches: float | bool) -> np.ndarray:
    theta = torch.from_numpy(THETA).requires_grad_()
    answers = answers_at(theta)
    pairs, wanted = pairs_of(variant, answers)
    (found,) = torch.autograd.grad(sum(preference_loss(answers, pairs, BETA, wanted._replace(**switches))), theta)
    return found.numpy()


@pytest.mark.parametrize("variant", ["dpo", "dp", "pp", "pr"])
def test_the_gradient_of_each_variant_is_that_of_finite_differences(variant: str) -> None:
    expected = finite_difference(lambda theta: -plain_objective(theta, variant), THETA)
    assert np.linalg.norm(expected) > 1e-2
    np.testing.assert_allclose(gradient(variant), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("variant", "without"),
    [("pp", {"score_weight": 0.0}), ("pp", {"label_weight": 0.0}), ("pr", {"score_weight": 0.0})],
)
def test_each_term_is_needed_for_that(variant: str, without: dict[str, float]) -> None:
    expected = finite_difference(lambda theta: -plain_objective(theta, variant), THETA)
    assert np.abs(gradient(variant, **without) - expected).max() > 1e-3


def test_pairs_are_probabilities() -> None:
    answers = answers_at(torch.from_numpy(THETA))
    for variant in ("dpo", "dp", "pp", "pr"):
        assert float(pairs_of(variant, answers)[0].sum()) == pytest.approx(1, abs=1e-12)


def test_a_baseline_leaves_the_score_term_what_it_is() -> None:
    """The score of a draw averages to nothing, so a constant added to its weights changes no gradient."""
    theta = torch.from_numpy(THETA).requires_grad_()
    drawn = answers_at(theta).drawn_B_A
    pairs = policy_pairs(drawn)
    (found,) = torch.autograd.grad(((pairs.sum(2) + pairs.sum(1)) * drawn).sum(), theta)
    assert found.abs().max() < 1e-12


def divergence_at(theta: Tensor, direction: str) -> Tensor:
    answers = answers_at(theta)
    return divergence(answers.logp_B_A[:, None], answers.ref_B_A[:, None], torch.ones(1, 1), direction)


@pytest.mark.parametrize("direction", ["ref_to_policy", "policy_to_ref"])
def test_each_divergence_has_the_value_and_the_gradient_of_its_definition(direction: str) -> None:
    def plain(theta: np.ndarray) -> float:
        log_p, log_q = log_policy(theta), log_policy(REFERENCE)
        first, second = (log_q, log_p) if direction == "ref_to_policy" else (log_p, log_q)
        return float((np.exp(first) * (first - second)).sum())

    theta = torch.from_numpy(THETA).requires_grad_()
    value = divergence_at(theta, direction)
    assert float(value.detach()) == pytest.approx(plain(THETA), abs=1e-12)
    (found,) = torch.autograd.grad(value, theta)
    np.testing.assert_allclose(found.numpy(), finite_difference(plain, THETA), atol=1e-6, rtol=0)


def test_the_hessian_of_the_divergence_from_the_reference_is_the_fisher_matrix_and_that_of_the_other_is_not() -> None:
    """Cov_theta(features), whatever the reference: this is why ref_to_policy is the objective's."""
    p = np.exp(log_policy(THETA))
    fisher = (FEATURES.T * p) @ FEATURES - np.outer(FEATURES.T @ p, FEATURES.T @ p)
    hessians = {
        direction: torch.autograd.functional.hessian(
            lambda theta, direction=direction: divergence_at(theta, direction), torch.from_numpy(THETA)
        ).numpy()
        for direction in ("ref_to_policy", "policy_to_ref")
    }
    np.testing.assert_allclose(hessians["ref_to_policy"], fisher, atol=1e-10)
    assert np.abs(hessians["policy_to_ref"] - fisher).max() > 1e-2


def test_the_chain_rule_gives_the_divergence_of_whole_answers() -> None:
    """Two tokens of three words each: contexts weighted by how often the first argument reaches them."""
    generator = torch.Generator().manual_seed(0)
    first = torch.log_softmax(torch.randn(2, 1, 3, generator=generator, dtype=torch.float64), -1)
    second = torch.log_softmax(torch.randn(2, 3, 3, generator=generator, dtype=torch.float64), -1)
    whole = (first.mT + second).reshape(2, 9)
    for direction, (one, other) in {"ref_to_policy": (1, 0), "policy_to_ref": (0, 1)}.items():
        reached = torch.cat([torch.ones(1, dtype=torch.float64), first[one, 0].exp()])[None]
        nodes = torch.cat([first, second], 1)
        found = divergence(nodes[:1], nodes[1:], reached, direction)
        expected = (whole[one].exp() * (whole[one] - whole[other])).sum()
        assert float(found) == pytest.approx(float(expected), abs=1e-12)


def test_departure_1_turns_the_score_term_where_answers_are_long() -> None:
    """At log-probabilities of sequences the cosine with the true term is about -1, and the norm a fraction."""
    theta = torch.from_numpy(THETA).requires_grad_()

    def score_term(over_logp: bool, offset: float) -> Tensor:
        answers = answers_at(theta)
        answers = answers._replace(logp_B_A=answers.logp_B_A - offset)
        pairs = labelled(policy_pairs(answers.drawn_B_A), better_than(SCORES))
        switches = TermSwitches(on_policy=True, score_over_logp=over_logp)
        return torch.autograd.grad(preference_loss(answers, pairs, BETA, switches)[1], theta)[0]

    true, released = score_term(False, 200), score_term(True, 200)
    assert float(torch.cosine_similarity(true, released, dim=0)) < -0.99
    assert float(released.norm() / true.norm()) < 0.02
    # a value of the release's own rule, by hand: weight / log p in place of weight
    answers = answers_at(theta)
    pairs = labelled(policy_pairs(answers.drawn_B_A), better_than(SCORES))
    pushed = (pairs * win_log_sigmoids(answers, BETA)).detach()
    weight = pushed.sum(2) + pushed.sum(1)
    by_hand = torch.autograd.grad(answers.logp_B_A, theta, grad_outputs=-weight / answers.logp_B_A.detach())[0]
    torch.testing.assert_close(score_term(True, 0), by_hand)


def test_departure_3a_has_the_gradient_of_the_nll_and_not_that_of_the_divergence() -> None:
    theta = torch.from_numpy(THETA).requires_grad_()
    answers = answers_at(theta)
    pairs = labelled(policy_pairs(answers.drawn_B_A), better_than(SCORES))
    tokens, said = answers.logp_B_A[..., None], torch.ones(1, 5, 1, dtype=torch.float64)
    (found,) = torch.autograd.grad(token_difference(tokens, answers.ref_B_A[..., None], said, pairs), theta)
    theta_again = torch.from_numpy(THETA).requires_grad_()
    nll = -((pairs.sum(2) + pairs.sum(1)) * answers_at(theta_again).logp_B_A).sum()
    (expected,) = torch.autograd.grad(nll, theta_again)
    torch.testing.assert_close(found, expected)
    (true,) = torch.autograd.grad(divergence_at(theta_again, "ref_to_policy"), theta_again)
    assert float((found - true).abs().max()) > 1e-2


class OneStep:
    """A reader of the log-linear policy: every answer is one token, the only context is the prompt."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact

    @staticmethod
    def read(logp_1_A: Tensor, chosen: Sequence[int]) -> Read:
        tokens = logp_1_A[:, list(chosen), None]
        return Read(tokens, tokens, logp_1_A[:, None])

    @staticmethod
    def reached(batch: Batch, first: Read) -> Tensor:
        return torch.ones(1, 1, dtype=torch.float64)


def loss_of(spec: SailRevKl, theta: Tensor, exact: bool, chosen: Sequence[int], scores: Tensor) -> Tensor:
    reader, answers = OneStep(exact), answers_at(theta)
    policy, ref = reader.read(answers.logp_B_A, chosen), reader.read(answers.ref_B_A, chosen)
    batch = {"scores_B_A": scores, "said_B_A_S": torch.ones(1, len(chosen), 1, dtype=torch.float64)}
    return sail_loss(spec, reader, policy, ref, batch, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["dp", "pp", "pr"])
@pytest.mark.parametrize("direction", ["ref_to_policy", "policy_to_ref"])
def test_the_whole_objective_has_the_value_and_the_gradient_of_its_definition(variant: str, direction: str) -> None:
    spec = SailRevKl(beta=BETA, variant=variant, share=0.4, kl_weight=0.5, direction=direction)

    def plain(theta: np.ndarray) -> float:
        log_p, log_q = log_policy(theta), log_policy(REFERENCE)
        first, second = (log_q, log_p) if direction == "ref_to_policy" else (log_p, log_q)
        apart = float((np.exp(first) * (first - second)).sum())
        return -0.6 * plain_objective(theta, "dpo") - 0.4 * plain_objective(theta, variant) + 0.5 * apart

    theta = torch.from_numpy(THETA).requires_grad_()
    value = loss_of(spec, theta, True, range(5), SCORES)
    assert float(value.detach()) == pytest.approx(plain(THETA), abs=1e-12)
    (found,) = torch.autograd.grad(value, theta)
    np.testing.assert_allclose(found.numpy(), finite_difference(plain, THETA), atol=1e-6, rtol=0)


def test_sampled_answers_give_the_exact_gradient_in_expectation() -> None:
    """Answers and labels of the policy: the mean over all pairs of draws, each with its probability."""
    spec = SailRevKl(beta=BETA, variant="pp", share=1.0, kl_weight=0.0)
    p = np.exp(log_policy(THETA))
    total = np.zeros(3)
    for i, j in itertools.product(range(5), repeat=2):
        theta = torch.from_numpy(THETA).requires_grad_()
        value = loss_of(spec, theta, False, [0, 1, i, j], SCORES[:, :2])
        total += p[i] * p[j] * torch.autograd.grad(value, theta)[0].numpy()
    expected = finite_difference(lambda theta: -plain_objective(theta, "pp"), THETA)
    np.testing.assert_allclose(total, expected, atol=1e-6, rtol=0)
