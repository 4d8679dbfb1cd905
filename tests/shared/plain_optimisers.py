"""Slow twins of the library optimisers: the published algorithms as plain loops over one parameter, in float64.

Written from the papers (numbers below are their equations and algorithms), with the departures of the library that
the specs' docstrings name. A twin takes the start and a list of gradients and returns the parameter after every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Path_ = list[Tensor]


def ademamix(
    W: Tensor, gradients: list[Tensor], *, lr: float, betas: tuple[float, float, float], alpha: float,
    warmup: int | None, eps: float, decay: float,
) -> Path_:  # fmt: skip
    """Pagliardini et al., algorithm 1; beta3 warms up linearly in its half-life (appendix A.1)."""

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta)

    beta1, beta2, beta3 = betas
    fast, slow, square = (torch.zeros_like(W) for _ in range(3))
    path = []
    for t, G in enumerate(gradients, start=1):
        share = 1.0 if warmup is None else min(1.0, t / warmup)
        beta_slow = 0.5 ** (1 / ((1 - share) * half_life(beta1) + share * half_life(beta3)))
        fast = beta1 * fast + (1 - beta1) * G
        slow = beta_slow * slow + (1 - beta_slow) * G
        square = beta2 * square + (1 - beta2) * G**2
        direction = (fast / (1 - beta1**t) + share * alpha * slow) / ((square / (1 - beta2**t)).sqrt() + eps)
        W = W - lr * (direction + decay * W)
        path.append(W)
    return path


def adafactor(
    W: Tensor, gradients: list[Tensor], *, lr: float, beta2_decay: float, eps1: float, eps2: float, clip: float,
    decay: float,
) -> Path_:  # fmt: skip
    """Shazeer and Stern, algorithms 4 and 5, with torch's eps1 (a floor of the root of the finished estimate)."""
    rows, columns = W.shape
    R, C = torch.zeros(rows), torch.zeros(columns)
    R, C = R.double(), C.double()
    path = []
    for t, G in enumerate(gradients, start=1):
        beta2 = 1 - t**beta2_decay
        R = beta2 * R + (1 - beta2) * (G**2).mean(1)
        C = beta2 * C + (1 - beta2) * (G**2).mean(0)
        V = torch.outer(R, C) / max(float(R.mean()), eps1)
        U = G / V.sqrt().clamp(min=eps1)
        U = U / max(1.0, float((U**2).mean().sqrt()) / clip)
        alpha = max(eps2, float((W**2).mean().sqrt())) * min(lr, 1 / math.sqrt(t))
        W = W - lr * decay * W - alpha * U
        path.append(W)
    return path


def adafactor_vector(w: Tensor, gradients: list[Tensor], *, lr: float, beta2_decay: float, eps2: float) -> Path_:
    """The same for a vector, which is not factored (algorithm 4), without decay and with clip 1."""
    V = torch.zeros_like(w)
    path = []
    for t, g in enumerate(gradients, start=1):
        beta2 = 1 - t**beta2_decay
        V = beta2 * V + (1 - beta2) * g**2
        u = g / V.sqrt()
        u = u / max(1.0, float((u**2).mean().sqrt()))
        w = w - max(eps2, float((w**2).mean().sqrt())) * min(lr, 1 / math.sqrt(t)) * u
        path.append(w)
    return path


def prodigy(
    start: list[Tensor], gradients: list[list[Tensor]], *, lr: float, betas: tuple[float, float],
    beta3: float | None, d0: float, d_coef: float, growth: float, decay: float, bias_correction: bool,
    safeguard: bool, eps: float,
) -> tuple[list[Path_], list[float]]:  # fmt: skip
    """Mishchenko and Defazio, algorithm 4, over several parameters with one d; also the d after every step.

    As in the authors' code, the sums r and s are kept divided by d0 (same ratio), and the step uses the d of before.
    """
    beta1, beta2 = betas
    root = math.sqrt(beta2) if beta3 is None else beta3
    W = list(start)
    m, v, s = ([torch.zeros_like(w) for w in W] for _ in range(3))
    r, d = 0.0, d0
    best = d0
    paths: list[Path_] = [[] for _ in W]
    ds = []
    for t, Gs in enumerate(gradients, start=1):
        gamma = lr * (math.sqrt(1 - beta2**t) / (1 - beta1**t) if bias_correction else 1.0)
        r = root * r
        for i, G in enumerate(Gs):
            r += gamma * d / d0 * d * float((G * (start[i] - W[i])).sum())
            s[i] = root * s[i] + (1.0 if safeguard else gamma) * d / d0 * d * G
            m[i] = beta1 * m[i] + (1 - beta1) * d * G
            v[i] = beta2 * v[i] + (1 - beta2) * d**2 * G**2
        estimate = d_coef * r / sum(float(x.abs().sum()) for x in s)
        before = d
        if d == d0:
            d = max(d, estimate)
        best = max(best, estimate)
        d = min(best, d * growth)
        for i in range(len(W)):
            W[i] = W[i] - before * gamma * decay * W[i] - before * gamma * m[i] / (v[i].sqrt() + d * eps)
            paths[i].append(W[i])
        ds.append(d)
    return paths, ds


def schedule_free_adamw(
    W: Tensor, gradients: list[Tensor], *, lrs: list[float], betas: tuple[float, float], eps: float, decay: float,
    r: float, power: float,
) -> tuple[Path_, Path_, Path_]:  # fmt: skip
    """Defazio et al., algorithm 1, with x, y and z written out; the second moment is bias-corrected by itself."""
    beta1, beta2 = betas
    x = z = W
    square, weights, largest = torch.zeros_like(W), 0.0, 0.0
    xs, ys, zs = [], [], []
    for t, (G, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        y = (1 - beta1) * z + beta1 * x
        square = beta2 * square + (1 - beta2) * G**2
        direction = G / ((square / (1 - beta2**t) + 1e-15).sqrt() + eps) + decay * y
        z = z - lr * direction
        largest = max(largest, lr)
        weight = t**r * largest**power
        weights += weight
        share = weight / weights if weights else 0.0
        x = (1 - share) * x + share * z
        xs.append(x)
        ys.append((1 - beta1) * z + beta1 * x)
        zs.append(z)
    return xs, ys, zs


def soap(
    W: Tensor, gradients: list[Tensor], *, lr: float, betas: tuple[float, float], shampoo_beta: float, eps: float,
    decay: float, frequency: int, first_bases: tuple[Tensor | None, Tensor | None],
) -> Path_:  # fmt: skip
    """Vyas et al., algorithm 3 (and 4 for the bases), with the authors' first step that moves nothing.

    `first_bases` are eigenbases of the first G G^T and G^T G, by falling eigenvalue; None keeps a side as it is. They
    are given because one of the two has a null space, in which every basis is one.
    """
    beta1, beta2 = betas
    rows, columns = W.shape
    L, R = torch.zeros(rows, rows).double(), torch.zeros(columns, columns).double()
    M, V = torch.zeros_like(W), torch.zeros_like(W)
    QL, QR = torch.eye(rows).double(), torch.eye(columns).double()
    turn_rows, turn_columns = (Q is not None for Q in first_bases)

    def refreshed(P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.diagonal(Q.T @ P @ Q).argsort(descending=True)
        return torch.linalg.qr((P @ Q)[:, order]).Q, order

    path = []
    for t, G in enumerate(gradients):
        if t > 0:
            M = beta1 * M + (1 - beta1) * G
            V = beta2 * V + (1 - beta2) * (QL.T @ G @ QR) ** 2
            correction = math.sqrt(1 - beta2**t) / (1 - beta1**t)
            W = W - lr * correction * QL @ ((QL.T @ M @ QR) / (V.sqrt() + eps)) @ QR.T
            W = W - lr * decay * W
        path.append(W)
        L = shampoo_beta * L + (1 - shampoo_beta) * G @ G.T
        R = shampoo_beta * R + (1 - shampoo_beta) * G.T @ G
        if t == 0:
            QL = QL if first_bases[0] is None else first_bases[0]
            QR = QR if first_bases[1] is None else first_bases[1]
        elif t % frequency == 0:
            if turn_rows:
                QL, order = refreshed(L, QL)
                V = V[order]
            if turn_columns:
                QR, order = refreshed(R, QR)
                V = V[:, order]
    return path


def lora_rite(
    pairs: list[tuple[Tensor, Tensor]], gradients: list[list[tuple[Tensor, Tensor]]], *, lr: float,
    betas: tuple[float, float], eps: float, clip: float, decay: float, escape: bool, skip: float = 0.0,
    cap: float = 0.0, relative: bool = False, balance: bool = False,
) -> list[list[tuple[Tensor, Tensor]]]:  # fmt: skip
    """Yen et al., algorithm 1, on factors as tall matrices, with polar bases where the library takes those of QR.

    Moments are running means with corrected decays; unmagnified gradients are clipped over all pairs.
    """

    def polar(X: Tensor) -> tuple[Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
        return U @ Vh, Vh.T @ torch.diag(S) @ Vh

    def mean_decay(beta: float, t: int) -> float:
        return beta * (1 - beta ** (t - 1)) / (1 - beta**t)

    # factors[k][0] = A transposed, factors[k][1] = B: both (long, rank)
    factors = [[A.T, B] for A, B in pairs]
    rank = [A.shape[0] for A, _ in pairs]
    basis = [[torch.zeros_like(X) for X in pair] for pair in factors]
    V = [[torch.zeros(n, n).double() for _ in range(2)] for n in rank]
    M = [[torch.zeros_like(X) for X in pair] for pair in factors]
    lost = [[0.0, 0.0] for _ in pairs]
    path = []
    for t, step_gradients in enumerate(gradients, start=1):
        split = [[polar(X) for X in pair] for pair in factors]
        unmagnified = []
        for k, (GA, GB) in enumerate(step_gradients):
            both = [G @ torch.linalg.inv(split[k][1 - side][1]) for side, G in enumerate((GA.T, GB))]
            unmagnified.append([torch.zeros_like(G) if skip and (G**2).mean().sqrt() > skip else G for G in both])
        joint = math.sqrt(sum(float((G**2).sum()) for pair in unmagnified for G in pair))
        scale = min(1.0, clip / joint) if clip else 1.0
        for k in range(len(factors)):
            new = []
            for side in range(2):
                G = scale * unmagnified[k][side]
                P = split[k][1 - side][0].T @ basis[k][1 - side]
                carried = P @ V[k][side] @ P.T
                if escape:
                    gone = torch.linalg.eigvalsh(V[k][side]) - torch.linalg.eigvalsh(carried)
                    trace = float(torch.trace(V[k][side]) - torch.trace(carried))
                    more = min(max(float(gone.max()), 0.0), max(trace, 0.0))
                    lost[k][side] = mean_decay(betas[1], t) * (lost[k][side] + more)
                keep = mean_decay(betas[1], t)
                V[k][side] = keep * carried + (1 - keep) * G.T @ G / G.shape[0]
                values, vectors = torch.linalg.eigh(V[k][side])
                floor = eps**2 * (float(values.max()) if relative else 1.0)
                roots = (values.clamp(min=0) + lost[k][side] + floor).sqrt() + eps
                S = G @ vectors @ torch.diag(1 / roots) @ vectors.T
                keep = mean_decay(betas[0], t)
                M[k][side] = keep * M[k][side] @ P.T + (1 - keep) * S
                if cap:
                    M[k][side] = M[k][side] / max(1.0, float((M[k][side] ** 2).mean().sqrt()) / cap)
                inverse = torch.linalg.inv(split[k][1 - side][1])
                new.append(factors[k][side] - lr * (M[k][side] @ inverse.T + decay * factors[k][side]))
            if balance:
                norms = [float(X.norm()) + 1e-6 for X in new]
                new = [X * math.sqrt(norms[0] * norms[1]) / norm for X, norm in zip(new, norms, strict=True)]
            factors[k] = new
            basis[k] = [part[0] for part in split[k]]
        path.append([(X.T, Y) for X, Y in factors])
    return path
