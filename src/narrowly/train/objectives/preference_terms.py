"""Compute the terms of preference objectives from log-probabilities: tensors in, sums over questions out.

Source of the formulas: the bilevel objective of SAIL (2406.15567) as derived from its gradient, and SAIL-RevKL
(2606.31524) with the divergence that is convex in a log-linear policy; docs/defences.md has the derivation. For a
question with answers y_i, h_i = ln pi(y_i) - ln pi_ref(y_i) and l_ij = ln sigmoid(beta (h_i - h_j)), where i wins.
With the probabilities M_ij that a pair is drawn and i wins, the objective is J = sum M_ij l_ij, and its gradient

    T1  sum M_ij grad l_ij                            DPO
    T2  sum M_ij l_ij grad(ln pi(y_i) + ln pi(y_j))   where the policy writes the answers
    T3  sum M_ij l_ij grad l_ij                       where the policy labels them: M_ij holds sigmoid = exp(l_ij)

Each function returns what is minimised, so the signs are turned. Exact sums have all answers of the grammar; sampled
ones have the two of a pair, drawn with probability 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class TermSwitches(NamedTuple):
    """Say which terms are taken, with which weight, and whether as in the release.

    Attributes:
        on_policy: the policy writes the answers (T2).
        own_labels: the policy labels them (T3).
        score_weight, label_weight: of T2 and T3; 1 is the gradient of J.
        score_over_logp: T2's weight is divided by the answer's log-probability, as the release does (departure 1).
    """

    on_policy: bool = False
    own_labels: bool = False
    score_weight: float = 1.0
    label_weight: float = 1.0
    score_over_logp: bool = False


class Answers(NamedTuple):
    """Hold the log-probabilities of answers, in nats, under the policy (with gradient) and the reference.

    Attributes:
        logp_B_A: of whole answers under the policy, summed over their tokens.
        drawn_B_A: the same of an answer given that one of the A is drawn; T2's score. Sampled answers: `logp_B_A`.
        ref_B_A: of whole answers under the reference.
    """

    logp_B_A: Tensor
    drawn_B_A: Tensor
    ref_B_A: Tensor


def win_log_sigmoids(answers: Answers, beta: float) -> Tensor:
    """Return l_B_A_A: ln sigmoid of beta times the margin of the first answer over the second."""
    h_B_A = answers.logp_B_A - answers.ref_B_A
    return logsigmoid(beta * (h_B_A[:, :, None] - h_B_A[:, None, :]))


def better_than(scores_B_A: Tensor) -> Tensor:
    """Return L_B_A_A, the label: 1 where the first answer scores higher, 0 where it scores lower, 1/2 where equal."""
    difference_B_A_A = scores_B_A[:, :, None] - scores_B_A[:, None, :]
    return 0.5 * (1 + difference_B_A_A.sign())


def data_pairs(scores_B_A: Tensor) -> Tensor:
    """Return M_B_A_A of data: every pair with a better answer equally likely, the better one wins."""
    wins_B_A_A = (scores_B_A[:, :, None] > scores_B_A[:, None, :]).to(scores_B_A.dtype)
    return wins_B_A_A / wins_B_A_A.sum((1, 2), keepdim=True)


def own_label_pairs(pairs_B_A_A: Tensor, log_sigmoid_B_A_A: Tensor) -> Tensor:
    """Return M_B_A_A of pairs whose winner the policy names with probability sigmoid(beta x margin); no gradient."""
    return (pairs_B_A_A + pairs_B_A_A.mT) * log_sigmoid_B_A_A.detach().exp()


def policy_pairs(drawn_B_A: Tensor) -> Tensor:
    """Return the probability of each ordered pair of two independent draws from the policy; no gradient."""
    drawn_B_A = drawn_B_A.detach().exp()
    return drawn_B_A[:, :, None] * drawn_B_A[:, None, :]


def labelled(pairs_B_A_A: Tensor, label_B_A_A: Tensor) -> Tensor:
    """Return M_B_A_A of ordered pairs whose winner a fixed label names."""
    return (pairs_B_A_A + pairs_B_A_A.mT) * label_B_A_A


def preference_loss(
    answers: Answers, pairs_B_A_A: Tensor, beta: float, switches: TermSwitches
) -> tuple[Tensor, Tensor]:
    """Return -J with the gradient of -T1 - T3, and 0 with that of -T2, summed over questions.

    They are apart because the second may be scaled by itself (departure 2).

    Args:
        answers: of B questions.
        pairs_B_A_A: M, without gradient.
        beta: inverse temperature.
        switches: which terms.
    """
    log_sigmoid_B_A_A = win_log_sigmoids(answers, beta)
    plain = -(pairs_B_A_A * log_sigmoid_B_A_A).sum()
    if switches.own_labels and switches.label_weight:
        plain = plain - switches.label_weight * _gradient_alone(0.5 * (pairs_B_A_A * log_sigmoid_B_A_A.square()).sum())
    if not switches.on_policy or not switches.score_weight:
        return plain, torch.zeros_like(plain)
    pushed_B_A_A = pairs_B_A_A * log_sigmoid_B_A_A.detach()
    weight_B_A = pushed_B_A_A.sum(2) + pushed_B_A_A.sum(1)
    if switches.score_over_logp:
        weighted_B_A = weight_B_A / answers.logp_B_A.detach() * answers.logp_B_A
    else:
        weighted_B_A = weight_B_A * answers.drawn_B_A
    return plain, -switches.score_weight * _gradient_alone(weighted_B_A.sum())


def _gradient_alone(value: Tensor) -> Tensor:
    """Return 0 with the gradient of a value, so that the recorded loss stays what is minimised."""
    return value - value.detach()


def divergence(
    policy_B_C_V: Tensor, ref_B_C_V: Tensor, reached_B_C: Tensor, direction: str = "ref_to_policy"
) -> Tensor:
    """Return a KL divergence in nats, summed over contexts by how often they are reached; exact in the vocabulary.

    With the probabilities under the first argument of reaching each context of an answer, this is the divergence of
    whole answers (chain rule), as far as the contexts go.

    Args:
        policy_B_C_V: log-probabilities of the next token under the policy.
        ref_B_C_V: the same under the reference.
        reached_B_C: weight of each context; 0 leaves it out.
        direction: `ref_to_policy` is KL(ref || policy), `policy_to_ref` KL(policy || ref).
    """
    first, second = (ref_B_C_V, policy_B_C_V) if direction == "ref_to_policy" else (policy_B_C_V, ref_B_C_V)
    return (reached_B_C * (first.exp() * (first - second)).sum(-1)).sum()


def token_difference(policy_B_A_S: Tensor, ref_B_A_S: Tensor, said_B_A_S: Tensor, pairs_B_A_A: Tensor) -> Tensor:
    """Return the release's stand-in for the divergence (departure 3a): ln p_ref - ln p of the pairs' own tokens.

    It is the mean over the tokens of each answer, summed over both answers of a pair and averaged over pairs. The
    reference part has no gradient.

    Args:
        policy_B_A_S: log-probabilities of each answer's tokens; read at each token itself under departure 3b.
        ref_B_A_S: the same under the reference.
        said_B_A_S: 1 where there is a token, else 0.
        pairs_B_A_A: M.
    """
    mean_B_A = ((ref_B_A_S - policy_B_A_S) * said_B_A_S).sum(2) / said_B_A_S.sum(2).clamp_min(1)
    return ((pairs_B_A_A.sum(2) + pairs_B_A_A.sum(1)) * mean_B_A).sum()
