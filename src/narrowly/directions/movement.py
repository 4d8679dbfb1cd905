"""Split what an adapter moves along a direction over the singular directions of its updates.

Let P(a) be the mean projection of the states of some texts with a share a of the update in place. Its derivative is a
sum over modules and tokens of <g, W x>: g the gradient of the projection at a module's output (the direction
transported there), x what the module reads, W = s B A. With W = sum_k sigma_k u_k v_k^T each singular direction has the
part sigma_k <g, u_k> <v_k, x>. Integrated over a from 0 to 1 (Gauss-Legendre) the parts add up to P(1) - P(0), the
shift itself, which is computed too: what is missing is the error of the integral, and is returned.

The parts belong to W, not to its factors: (A, B) -> (C A, B C^-1) changes none of them. The cosine of u_k with the
direction, which sees only what is written straight into the residual stream, stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from narrowly.directions.activations import batches, check_texts, padded, pooled
from narrowly.directions.layers import check_layers, find_stack
from narrowly.directions.positions import Position, weights
from narrowly.records.errors import AdapterError
from narrowly.records.likelihood import ScoredText
from narrowly.spectrum.edits import decompose
from narrowly.spectrum.pairs import LoraPair

NODES = 4
"""Points of the integral over the share of the update; exact for polynomials of degree 7."""

WRITERS = frozenset({"o_proj", "down_proj", "out_proj", "c_proj", "dense", "dense_4h_to_h", "fc2", "wo", "w2"})
"""Last parts of the names of modules whose output is added to the states, in Transformers 5."""

TOKENS = 512
"""Tokens of a pass, whose graph is kept for the gradients."""

Progress = Callable[[int, int], None]
"""Called with the passes done and the passes there are."""


class Update(NamedTuple):
    """The update of one module by its singular directions: U_O_C diag(S_C) V_I_C^T, the scale in S."""

    name: str
    U_O_C: Tensor
    S_C: Tensor
    V_I_C: Tensor


class ModuleMovement(NamedTuple):
    """What one module's update moves.

    Attributes:
        name: of the module.
        S_C: singular values of s B A, descending.
        parts_D_C: of the shift along each target, by singular direction; in units of the states.
        written_D_C: squared cosine of u_k with each target where the module adds to the states (`WRITERS`), else None.
            By chance 1 / hidden.
        transported_D_C: squared cosine of u_k with the mean gradient at the module's output; 0 where it is 0.
    """

    name: str
    S_C: Tensor
    parts_D_C: Tensor
    written_D_C: Tensor | None
    transported_D_C: Tensor


class Movement(NamedTuple):
    """What an adapter moves along some targets.

    Attributes:
        modules: in the order of the pairs; modules above the layer move nothing.
        shift_D: mean projection with the adapter minus without it.
        missing_D: the shift minus all parts.
    """

    modules: list[ModuleMovement]
    shift_D: Tensor
    missing_D: Tensor


def updates_of(pairs: Sequence[LoraPair]) -> list[Update]:
    """Return the updates of pairs by singular directions; pairs without an update are left out.

    Raises:
        AdapterError: no pair has an update, or one is no number.
    """
    found = []
    for pair in pairs:
        parts = decompose(pair)
        if parts is not None and pair.scale != 0:
            sign = -1.0 if pair.scale < 0 else 1.0
            found.append(Update(pair.name, sign * parts.U_O_C, abs(pair.scale) * parts.S_C, parts.V_I_C))
    if not found:
        raise AdapterError(f"all {len(pairs)} updates are 0 (as at step 0 of a run); accepted: a trained adapter")
    return found


def movement(
    base: nn.Module,
    updates: Sequence[Update],
    texts: Sequence[ScoredText],
    targets_D_H: Tensor,
    layer: int,
    position: Position,
    *,
    nodes: int = NODES,
    tokens: int = TOKENS,
    progress: Progress | None = None,
) -> Movement:
    """Split the shift along targets over the singular directions of an adapter.

    Args:
        base: the model without the adapter, in eval mode.
        updates: of the adapter (`updates_of`).
        texts: whose states are read, the same with and without the adapter.
        targets_D_H: directions; they are brought to unit length. Random ones beside the first give the null.
        layer: of the states.
        position: of the states.
        nodes: points of the integral, at least 1.
        tokens: of a pass.
        progress: told of the passes done.

    Raises:
        SpecError: no such layer, or texts that the model cannot take.
        AdapterError: a module of the adapter that the base does not have, or of another shape.
    """
    stack = find_stack(base)
    check_layers([layer], stack.top)
    check_texts(base, texts, position)
    modules = _modules(base, updates)
    units_D_H = torch.nn.functional.normalize(targets_D_H.float(), dim=-1)
    work = list(batches(texts, position, tokens))
    points, shares = _gauss_legendre(nodes)
    total = _Totals(updates, len(units_D_H))
    projection = {0.0: torch.zeros(len(units_D_H)), 1.0: torch.zeros(len(units_D_H))}
    passes = len(work) * (nodes + 2)
    for done, rows in enumerate(work):
        chosen = [texts[row] for row in rows]
        inputs = padded(chosen, position)
        weights_B_T = weights(chosen, position, inputs["input_ids"].shape[1])
        run = _Run(base, stack.decoder, modules, updates, inputs, weights_B_T, layer, units_D_H)
        for end in projection:
            with torch.no_grad():
                projection[end] += run.projected(end)[0].cpu()
        for point, share in zip(points, shares, strict=True):
            total.add(*run.parts(point), share)
        if progress is not None:
            progress((done + 1) * (nodes + 2), passes)
    shift_D = (projection[1.0] - projection[0.0]) / len(texts)
    found = [total.module(at, update, units_D_H, len(texts)) for at, update in enumerate(updates)]
    return Movement(found, shift_D, shift_D - sum(one.parts_D_C.sum(dim=1) for one in found))


def _modules(base: nn.Module, updates: Sequence[Update]) -> list[nn.Module]:
    named = dict(base.named_modules())
    found = []
    for update in updates:
        module: Any = named.get(update.name)
        shape = tuple(getattr(getattr(module, "weight", None), "shape", ()))
        wanted = (len(update.U_O_C), len(update.V_I_C))
        if module is None or wanted not in (shape, shape[::-1]) or isinstance(module, nn.Embedding):
            what = f"is a {type(module).__name__} with a weight of shape {shape} in the base; accepted: linear layers"
            what = "is not in the base" if module is None else what
            raise AdapterError(f"module {update.name} of the adapter ({wanted[0]} x {wanted[1]}) {what}")
        found.append(module)
    return found


class _Run:
    """One batch: the model with a share of the update in place, and the gradients at the outputs of its modules."""

    def __init__(
        self, base: nn.Module, decoder: nn.Module, modules: Sequence[nn.Module], updates: Sequence[Update],
        inputs: Mapping[str, Tensor], weights_B_T: Tensor, layer: int, units_D_H: Tensor,
    ) -> None:  # fmt: skip
        self._base, self._decoder, self._modules, self._updates = base, decoder, modules, updates
        self._inputs, self._weights_B_T, self._layer = inputs, weights_B_T, layer
        self._device = next(base.parameters()).device
        self._units_D_H = units_D_H.to(self._device)
        self._read: list[list[tuple[Tensor, Tensor]]] = [[] for _ in modules]

    def projected(self, share: float) -> Tensor:
        """Return the projection of every text on the targets, summed over texts, 1 x targets."""
        for calls in self._read:
            calls.clear()
        mask = self._inputs["attention_mask"]
        with self._in_place(share), pooled(self._base, [self._layer], self._weights_B_T, mask) as found:
            self._decoder(**{name: value.to(self._device) for name, value in self._inputs.items()}, use_cache=False)
        return (found[self._layer] @ self._units_D_H.T).sum(dim=0, keepdim=True)

    def parts(self, share: float) -> tuple[list[Tensor], list[Tensor]]:
        """Return by module the parts (targets x directions) and the gradient at the output (targets x outputs)."""
        with torch.enable_grad():
            sums_1_D = self.projected(share)
            outputs = [output for calls in self._read for output, _ in calls]
            parts = [torch.zeros(len(self._units_D_H), len(one.S_C)) for one in self._updates]
            gradients = [torch.zeros(len(self._units_D_H), len(one.U_O_C)) for one in self._updates]
            for target in range(len(self._units_D_H)):
                found = iter(
                    torch.autograd.grad(sums_1_D[0, target], outputs, retain_graph=True, allow_unused=True)
                    if sums_1_D.requires_grad
                    else [None] * len(outputs)
                )
                for at, calls in enumerate(self._read):
                    for _, read_N_C in calls:
                        g = next(found)
                        if g is not None:
                            g_N_O = g.flatten(0, -2).float()
                            U_O_C = self._updates[at].U_O_C.to(g_N_O)
                            parts[at][target] += ((g_N_O @ U_O_C) * read_N_C).sum(dim=0).cpu()
                            gradients[at][target] += g_N_O.sum(dim=0).cpu()
        return parts, gradients

    @contextmanager
    def _in_place(self, share: float) -> Iterator[None]:
        with ExitStack() as hooks:
            for at, module in enumerate(self._modules):
                hooks.callback(module.register_forward_hook(self._adding(at, share)).remove)
            yield

    def _adding(self, at: int, share: float) -> Callable[..., Tensor]:
        update = self._updates[at]

        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            V_I_C, U_O_C, S_C = (one.to(x.device, torch.float32) for one in (update.V_I_C, update.U_O_C, update.S_C))
            read = (x.float() @ V_I_C) * S_C
            moved = (output.float() + share * (read @ U_O_C.T)).to(output.dtype)
            if torch.is_grad_enabled() and not moved.requires_grad:
                moved = moved.detach().requires_grad_()
            self._read[at].append((moved, read.detach().flatten(0, -2)))
            return moved

        return hook


class _Totals:
    """Sums over batches and points of the integral."""

    def __init__(self, updates: Sequence[Update], targets: int) -> None:
        self._parts = [torch.zeros(targets, len(one.S_C), dtype=torch.float64) for one in updates]
        self._gradients = [torch.zeros(targets, len(one.U_O_C), dtype=torch.float64) for one in updates]

    def add(self, parts: Sequence[Tensor], gradients: Sequence[Tensor], share: float) -> None:
        for at in range(len(self._parts)):
            self._parts[at] += share * parts[at].double()
            self._gradients[at] += share * gradients[at].double()

    def module(self, at: int, update: Update, units_D_H: Tensor, texts: int) -> ModuleMovement:
        U_O_C = update.U_O_C.double().cpu()
        transported_D_C = (torch.nn.functional.normalize(self._gradients[at], dim=-1) @ U_O_C) ** 2
        writes = update.name.rpartition(".")[2] in WRITERS and len(U_O_C) == units_D_H.shape[1]
        written_D_C = (units_D_H.double().cpu() @ U_O_C) ** 2 if writes else None
        return ModuleMovement(update.name, update.S_C.cpu(), self._parts[at] / texts, written_D_C, transported_D_C)


def _gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Return the points and weights of Gauss-Legendre between 0 and 1 (Golub and Welsch 1969)."""
    at_N = torch.arange(1, nodes, dtype=torch.float64)
    off_N = at_N / (4 * at_N**2 - 1).sqrt()
    matrix_N_N = torch.diag(off_N, 1) + torch.diag(off_N, -1)
    points_N, vectors_N_N = torch.linalg.eigh(matrix_N_N)
    return ((points_N + 1) / 2).tolist(), (vectors_N_N[0] ** 2).tolist()
