"""Say what Muon and Lion are in other packages, and which settings there take the steps of ours.

`experiments/rosetta.py` runs what installs, compares it with our optimisers step by step and refuses a `same` or a
`norm` of this table that does not hold; `docs/muon-elsewhere.md` is what it writes. Texts are facts about the version
named, from those runs or, where `established` is "read", from the package's source.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from narrowly.records.errors import SpecError, unknown_name
from narrowly.records.optimisers.scale_rules import SCALE_RULES, ScaleRule


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Hold what one optimiser is in one package.

    Attributes:
        package: as `--in` takes it.
        version: of which the texts speak.
        established: "ran" by experiments/rosetta.py, or "read" in the source.
        same: the call or keys whose first steps are those of ours at our defaults; `{lr}`, `{lr_A}` and `{lr_B}` stand
            for rates.
        rule: scale rule of `same` in our words; another than "original" gives A and B rates of their own.
        norm: length of its step over that of ours at equal rates and scale, from its orthogonaliser.
        apart: largest relative distance from our step, in the first and in the next two: rounding to bfloat16 in
            Newton-Schulz is .05.
        defaults: what it does where nothing is given.
        A, B, vectors, stacks: what it does to LoRA A (rank x in), LoRA B (out x rank), one-dimensional parameters and
            stacks of matrices.
        silently: where it does something else without a word.
    """

    package: str
    version: str
    established: Literal["ran", "read"]
    same: str
    defaults: str
    A: str
    B: str
    vectors: str
    stacks: str
    silently: tuple[str, ...] = ()
    rule: ScaleRule = "original"
    norm: float = 1.0
    apart: tuple[float, float] = (0.06, 0.06)


_BY_ITSELF = "as A, times sqrt(out / rank)"
_ELEMENTWISE = "sign of the interpolated momentum, elementwise"

MUON = (
    Elsewhere(
        "torch",
        "2.13.0",
        "ran",
        "torch.optim.Muon(factors, lr={lr}, weight_decay=0.0)",
        "lr 1e-3, weight_decay 0.1, Nesterov, scale rule original",
        "orthogonalised momentum, factor 1",
        _BY_ITSELF,
        "ValueError in the constructor",
        "ValueError in the constructor",
        ("weight_decay is 0.1 where nothing is given, ten times AdamW's",),
    ),
    Elsewhere(
        "muon-optimizer",
        "0.1.0",
        "ran",
        "muon.SingleDeviceMuon(factors, lr={lr}, momentum=0.95, weight_decay=0)",
        "lr .02, no decay, Nesterov, scale rule original, in bfloat16",
        "orthogonalised momentum, factor 1",
        _BY_ITSELF,
        "AssertionError in step",
        "each matrix of the stack by itself",
        ("p.grad is overwritten in step: a norm logged afterwards is another",),
    ),
    Elsewhere(
        "pytorch-optimizer",
        "4.1.0",
        "ran",
        'pytorch_optimizer.Muon([{{"params": factors, "use_muon": True}}], lr={lr}, weight_decay=0.0)',
        "lr .02, no decay, Nesterov, scale rule original; use_adjusted_lr=True is match_rms_adamw",
        "orthogonalised momentum, factor 1",
        _BY_ITSELF,
        "a matrix of one column: the normalised gradient at Muon's rate, whatever its length",
        "flattened to one matrix",
        (
            "p.grad is overwritten in step",
            "create_optimizer trains vectors with AdamW at 3e-4, not at your rate",
        ),
    ),
    Elsewhere(
        "heavyball",
        "3.2.1",
        "ran",
        "heavyball.Muon(factors, lr={lr}, betas=(0.95, 0.99), heavyball_momentum=True)",
        "lr .0025, momentum .9, gradient plus mean, scale rule original, a quintic list of coefficients",
        "orthogonalised momentum, factor 1; singular values nearer 1 than ours",
        _BY_ITSELF,
        "plain gradient step at Muon's rate",
        "flattened to one matrix",
        ("p.grad is None after step", "vectors are trained by SGD"),
        norm=1.15,
        apart=(0.18, 0.2),
    ),
    Elsewhere(
        "timm",
        "1.0.31",
        "ran",
        'timm.optim.Muon([{{"params": factors, "use_muon": True}}], lr={lr}, nesterov=True, '
        'ns_coefficients="original", adjust_lr_fn="original")',
        "lr .02, no decay, no Nesterov, match_rms_adamw, a quintic list of coefficients",
        "orthogonalised momentum, times 0.2 sqrt(max(rank, in)) by default",
        "orthogonalised momentum, times 0.2 sqrt(max(rank, out)) by default",
        "AdamW (betas .9, .95) at Muon's rate",
        "flattened to one matrix",
        (
            "without use_muon in the group, a matrix with a side below 4 or sides in a ratio above 128 is trained by "
            "AdamW: rank 16 beside 4096, rank 8 beside 2048",
        ),
    ),
    Elsewhere(
        "optax",
        "0.2.8",
        "ran",
        "optax.contrib.muon({lr}, beta=0.95), on weights stored (in, out)",
        "no decay, Nesterov, sqrt(max(1, columns / rows)): the original rule for JAX's (in, out)",
        "orthogonalised momentum, factor 1 where it is stored (in, rank)",
        "as A, times sqrt(out / rank) where it is stored (rank, out)",
        "Adam with Nesterov at Muon's rate",
        "Adam with Nesterov: no stack is orthogonalised",
        (
            "weights stored (out, in), as PyTorch's, are scaled the other way round",
            "vectors, and stacks of a scan or of experts, share Muon's rate with Adam",
            "later steps lean more to the newest gradient: mean and gradient are corrected for bias by other powers",
        ),
        apart=(0.01, 0.15),
    ),
    Elsewhere(
        "emerging-optimizers",
        "0.3.0",
        "ran",
        "emerging_optimizers.orthogonalized_optimizers.Muon(factors, lr={lr}, weight_decay=0.0, nesterov=True, "
        'coefficient_type="simple", scale_mode="shape_scaling")',
        "lr 3e-4, weight_decay 0.01, no Nesterov, sqrt(max(rows, columns)), a quintic list of coefficients",
        "orthogonalised momentum, times sqrt(max(rank, in)) by default",
        "orthogonalised momentum, times sqrt(max(rank, out)) by default",
        "ValueError in step",
        "ValueError in step",
        ("extra_scale_factor=0.2 is needed for match_rms_adamw", "needs Python 3.12"),
    ),
    Elsewhere(
        "trl",
        "1.16.0",
        "read",
        'SFTTrainer(..., optimizer_cls_and_kwargs=(torch.optim.Muon, {{"lr": {lr}, "weight_decay": 0.0}}))',
        'no Muon: optim="muon" is a ValueError of Transformers 5.23',
        "what the class given does",
        "what the class given does",
        "what the class given does: torch.optim.Muon refuses vectors (biases, DoRA magnitudes)",
        "what the class given does",
        (
            "only the SFT and reward trainers pass optimizer_cls_and_kwargs on; the others take optimizers=(opt, "
            "scheduler)",
            "args.learning_rate and args.weight_decay do not reach it",
        ),
    ),
    Elsewhere(
        "axolotl",
        "0.21.0 with axolotl-contribs-mit 0.0.6",
        "ran",
        "optimizer: muon, learning_rate: {lr_A} for A and {lr_B} for B: one run cannot have both",
        "match_rms_adamw on one process, Nesterov, decay from weight_decay (0)",
        "orthogonalised momentum, times 0.2 sqrt(max(rank, in))",
        "orthogonalised momentum, times 0.2 sqrt(max(rank, out))",
        "left out of the optimiser: biases and DoRA magnitudes are not trained at all",
        "AssertionError in the constructor",
        (
            "under a device mesh (FSDP2) the same YAML is another optimiser: sqrt(out / in), no Nesterov (read)",
            "vectors that require a gradient are never stepped",
        ),
        rule="match_rms_adamw",
    ),
    Elsewhere(
        "llamafactory",
        "0.9.5",
        "ran",
        "use_muon: true, learning_rate: {lr_A} for A and {lr_B} for B: one run cannot have both",
        "match_rms_adamw, Nesterov, decay from weight_decay (0)",
        "orthogonalised momentum, times 0.2 sqrt(max(rank, in))",
        "orthogonalised momentum, times 0.2 sqrt(max(rank, out))",
        "AdamW at Muon's rate",
        "AssertionError in the constructor",
        (
            "with loraplus_lr_ratio set, use_muon is ignored (read)",
            "v1 (optim_config: {name: muon}) trains LoRA factors with AdamW alone (read)",
        ),
        rule="match_rms_adamw",
    ),
)
"""Muon in other packages."""

_NONE = "has no Lion"

LION = (
    Elsewhere(
        "pytorch-optimizer", "4.1.0", "ran", "pytorch_optimizer.Lion(parameters, lr={lr}, weight_decay=0.0)",
        "lr 1e-4, betas (.9, .99), no decay", _ELEMENTWISE, "as A", "as A", "as A",
        ("fixed_decay=True decays by weight_decay itself, not times the rate",),
    ),
    Elsewhere(
        "timm", "1.0.31", "ran", "timm.optim.Lion(parameters, lr={lr}, weight_decay=0.0)",
        "lr 1e-4, betas (.9, .99), no decay", _ELEMENTWISE, "as A", "as A", "as A",
    ),
    Elsewhere(
        "optax", "0.2.8", "ran", "optax.lion({lr}, weight_decay=0.0)",
        "betas (.9, .99), weight_decay 1e-3", _ELEMENTWISE, "as A", "as A", "as A",
        ("weight_decay is 1e-3 where nothing is given",),
    ),
    Elsewhere(
        "emerging-optimizers", "0.3.0", "ran",
        "emerging_optimizers.scalar_optimizers.Lion(parameters, lr={lr}, weight_decay=0.0)",
        "lr 1e-4, betas (.9, .99), weight_decay 0.01", _ELEMENTWISE, "as A", "as A", "as A",
        ("weight_decay is 0.01 where nothing is given",),
    ),
    Elsewhere(
        "trl", "1.16.0", "read",
        'SFTConfig(optim="lion_32bit", learning_rate={lr}, adam_beta2=0.99, weight_decay=0.0, max_grad_norm=0.0)',
        "betas (adam_beta1, adam_beta2) = (.9, .999), decay from weight_decay (0), bitsandbytes",
        _ELEMENTWISE, "as A", "as A", "as A",
        (
            "without adam_beta2 the momentum decays by .999: ten times longer than Lion's",
            "clipping at norm 1 is on by default: it leaves the first step alone and reweighs later ones",
        ),
    ),
    Elsewhere(
        "axolotl", "0.21.0", "read",
        "optimizer: lion_32bit, learning_rate: {lr}, adam_beta2: 0.99, max_grad_norm: 0.0",
        "as Transformers: beta2 .999", _ELEMENTWISE, "as A", "as A", "as A",
        ("without adam_beta2 the momentum decays by .999", "flash_lion keeps its state in 8 bits"),
    ),
    Elsewhere(
        "llamafactory", "0.9.5", "read",
        "optim: lion_32bit, learning_rate: {lr}, adam_beta2: 0.99, max_grad_norm: 0.0",
        "as Transformers: beta2 .999", _ELEMENTWISE, "as A", "as A", "as A",
        ("without adam_beta2 the momentum decays by .999",),
    ),
    *(
        Elsewhere(package, version, "ran", _NONE, _NONE, _NONE, _NONE, _NONE, _NONE)
        for package, version in (("torch", "2.13.0"), ("muon-optimizer", "0.1.0"), ("heavyball", "3.2.1"))
    ),
)  # fmt: skip
"""Lion in other packages."""

ELSEWHERE = {"muon": MUON, "lion": LION}


def settings(there: Elsewhere, lr: float, rank: int, width: int) -> str:
    """Return `same` with its rates, for an A of rank x width and a B of width x rank.

    Args:
        there: a row of `MUON` or `LION`.
        lr: our rate, with scale rule original.
        rank: of the adapter.
        width: input features of A, output features of B.
    """
    rates = {
        name: f"{lr * SCALE_RULES['original'](*shape) / SCALE_RULES[there.rule](*shape) / there.norm:.3g}"
        for name, shape in (("lr_A", (rank, width)), ("lr_B", (width, rank)))
    }
    return there.same.format(lr=f"{lr / there.norm:.3g}", **rates)


def here(there: Elsewhere) -> str | None:
    """Return the settings of ours that take its steps at its own rate, where no setting there takes ours."""
    return None if there.rule == "original" else f"scale_rule: {there.rule}"


def in_package(optimiser: str, package: str) -> Elsewhere:
    """Return what an optimiser is in a package.

    Raises:
        SpecError: an optimiser that this table does not hold.
        UnknownNameError: an unknown package, with the nearest match.
    """
    if optimiser not in ELSEWHERE:
        raise SpecError(f"--in knows {' and '.join(ELSEWHERE)}, not {optimiser!r}")
    rows = {row.package: row for row in ELSEWHERE[optimiser]}
    if package not in rows:
        raise unknown_name("package", package, rows)
    return rows[package]


def described(optimiser: str, package: str, lr: float, rank: int, width: int) -> dict[str, Any]:
    """Return what `narrowly optimisers NAME --in PACKAGE` prints, as a mapping."""
    there = in_package(optimiser, package)
    facts = {name: value for name, value in asdict(there).items() if name not in ("same", "norm", "rule", "apart")}
    return {"optimiser": optimiser, "settings": settings(there, lr, rank, width), "here": here(there), **facts}
