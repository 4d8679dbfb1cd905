"""Write the change that a finding asks for, in the words of the job's own tool."""

from __future__ import annotations

from narrowly.audit.record import Job
from narrowly.audit.rules.muon_scale import FORMULA, RULE_OF, converted
from narrowly.records.optimisers.scale_rules import ScaleRule

LAMBDA = 0.1
"""In snippets; an example and no recommendation: no value has been validated (docs/spectral-core.md)."""

WIDTH = 4096
"""Width of the layer in examples."""

_TRAINER = (
    "from narrowly.integrations.transformers import SpectralPenaltyCallback\n"
    f"trainer = TRAINER(..., callbacks=[SpectralPenaltyCallback(lam={LAMBDA})])"
)
_PENALTY = {
    "transformers": _TRAINER,
    "trl": _TRAINER,
    "unsloth": _TRAINER,
    "axolotl": f"plugins: [narrowly.integrations.axolotl.NarrowlyPlugin]\nnarrowly: {{penalty: {{lam: {LAMBDA}}}}}",
    "llamafactory": "from llamafactory.train.tuner import run_exp\n"
    "from narrowly.integrations.transformers import SpectralPenaltyCallback\n"
    f"run_exp(args, callbacks=[SpectralPenaltyCallback(lam={LAMBDA})])",
    "lightning": "from narrowly.integrations.lightning import SpectralPenaltyCallback\n"
    f"trainer = lightning.Trainer(..., callbacks=[SpectralPenaltyCallback(lam={LAMBDA})])",
    "torch": "from narrowly import SpectralPenalty\n"
    f"penalty = SpectralPenalty(model, lam={LAMBDA})             # once, when the adapter is in place\n"
    "optimizer.zero_grad(); penalty.seed_gradients()  # once per optimiser step, before the first backward",
}
_PENALTY["accelerate"] = _PENALTY["torch"]

_TRAINER_MUON = (
    "from narrowly.integrations.transformers import optimizer_factory\n"
    "trainer = TRAINER(..., optimizer_cls_and_kwargs=optimizer_factory(\n"
    '    {{"kind": "muon", "lr": {rate}, "scale_rule": "match_rms_adamw", "weight_decay": 0.0}}))'
)
_TRL_MUON = (
    "from narrowly.optim.build import build_optimizer  # model: with its adapter in place\n"
    'spec = {{"kind": "muon", "lr": {rate}, "scale_rule": "match_rms_adamw", "weight_decay": 0.0}}\n'
    "trainer = TRAINER(..., optimizers=(build_optimizer(spec, model), None))"
)
_TAKES_A_CLASS = ("SFTTrainer", "RewardTrainer", "UnslothTrainer")
"""Trainers of TRL 1.16 with `optimizer_cls_and_kwargs`; the others take an optimiser alone."""

_TORCH_MUON = (
    "optimizer = torch.optim.Muon([p for n, p in model.named_parameters() if p.requires_grad and p.ndim == 2],\n"
    '                             lr={rate}, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")  # torch >= 2.9'
)
_MUON: dict[str, tuple[str, ScaleRule]] = {
    "transformers": (_TRAINER_MUON, "match_rms_adamw"),
    "trl": (_TRAINER_MUON, "match_rms_adamw"),
    "unsloth": (_TRAINER_MUON, "match_rms_adamw"),
    "axolotl": (
        "optimizer: muon\nlearning_rate: {rate}  # one process; a device mesh has another rule",
        "match_rms_adamw",
    ),
    "llamafactory": ("use_muon: true\nlearning_rate: {rate}\nweight_decay: 0.0", "match_rms_adamw"),
    "ms-swift": (
        "--optimizer muon --learning_rate {rate} --weight_decay 0  # clones MoonshotAI/Moonlight",
        "match_rms_adamw",
    ),
    "torchtune": (
        "optimizer:\n  _component_: torch.optim.Muon\n  lr: {rate}\n  weight_decay: 0.0\n"
        "  adjust_lr_fn: match_rms_adamw  # torch >= 2.9",
        "match_rms_adamw",
    ),
    "nemo-automodel": ("optimizer:\n  _target_: muon\n  lr: {rate}\n  weight_decay: 0.0", "spectral_norm"),
    "torch": (_TORCH_MUON, "match_rms_adamw"),
    "accelerate": (_TORCH_MUON, "match_rms_adamw"),
    "lightning": (_TORCH_MUON, "match_rms_adamw"),
}
"""Tool -> how to switch, and the scale rule that the snippet then runs under."""

_KEYS = {
    "transformers": ("optim={optimiser!r}", "learning_rate={rate!r}", "in {name}(...)"),
    "axolotl": ("optimizer: {optimiser}", "learning_rate: {rate}", ""),
    "llamafactory": ("optim: {optimiser}", "learning_rate: {rate}", ""),
    "ms-swift": ("--optim {optimiser}", "--learning_rate {rate}", ""),
    "torchtune": ("optimizer._component_: torch.optim.AdamW", "optimizer.lr: {rate}", ""),
    "unsloth": ("optim={optimiser!r}", "learning_rate={rate!r}", "in {name}(...)"),
    "trl": ("optim={optimiser!r}", "learning_rate={rate!r}", "in {name}(...)"),
    "tinker": ("types.AdamParams(beta1=0.9, beta2=0.95, eps=1e-12, ...)", "learning_rate={rate!r}", ""),
}


def shown_rate(value: float) -> str:
    """Return a rate with three digits, in the form that every tool reads as a number."""
    return f"{value:.3g}"


def trainer_of(job: Job) -> str:
    """Return the trainer of a job of Transformers, TRL or Unsloth: DPOConfig belongs to DPOTrainer."""
    if job.tool == "transformers":
        return job.name if job.name.endswith("Trainer") else "Trainer"
    if job.name.endswith("Config"):
        return job.name.removesuffix("Config") + "Trainer"
    return job.name if job.name.endswith("Trainer") else "SFTTrainer"


def penalty_fix(job: Job) -> str:
    """Return how to add the spectral penalty in this tool; empty where it cannot be added."""
    if job.kind in ("command", "config") and job.tool in ("transformers", "trl"):
        return ""
    snippet = _PENALTY.get(job.tool, "").replace("TRAINER", trainer_of(job))
    return f"# the spectral penalty (lam is an example: none has been validated)\n{snippet}" if snippet else ""


def muon_fix(job: Job) -> str:
    """Return how to switch to Muon in this tool, with the rate converted and what becomes of A and B."""
    rate, rank = job.value("learning_rate"), job.value("lora_r")
    if job.tool not in _MUON or not isinstance(rate, int | float) or rate <= 0:
        return ""
    if job.tool == "llamafactory" and job.name == "v1":
        return ""  # v1 sends every LoRA factor to AdamW
    if job.tool in ("torch", "accelerate", "lightning", "torchtune") and rank is None:
        return ""  # norms and embeddings are trained, and torch's Muon refuses vectors
    snippet, rule = _MUON[job.tool]
    if job.tool in ("trl", "unsloth") and trainer_of(job) not in _TAKES_A_CLASS:
        snippet = _TRL_MUON
    rank = rank if isinstance(rank, int) and rank > 0 else 16
    told = converted(float(rate), rule, rank, WIDTH)
    return (
        f"# Muon at the step size of AdamW {shown_rate(rate)}, scale {FORMULA[rule]}: for rank {rank}, width {WIDTH}\n"
        f"# A is scaled by {told.factor_a:.3g} and B by {told.factor_b:.3g}; per entry A moves {told.a:.2g} of B\n"
        + snippet.format(rate=shown_rate(told.rate)).replace("TRAINER", trainer_of(job))
    )


def torch_muon_fix(job: Job) -> str:
    """Return how to state the scale rule for torch's own Muon; empty for other tools."""
    own = RULE_OF.get(job.tool, ("", ""))[1].startswith("torch")
    return 'torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")  # or "original"; say which' if own else ""


def stated_fix(job: Job, optimiser: bool, rate: bool) -> str:
    """Return the lines that state what a default decides now."""
    if job.tool not in _KEYS or job.kind == "saved":
        return ""
    said, spelled = _KEYS[job.tool][:2], job["optimiser"].raw or job.value("optimiser")
    name = job.name or ("SFTConfig" if job.tool in ("trl", "unsloth") else "TrainingArguments")
    words = {"optimiser": spelled, "rate": job.value("learning_rate"), "name": name}
    lines = [
        text.format(**words)
        for text, wanted, value in ((said[0], optimiser, spelled), (said[1], rate, words["rate"]))
        if wanted and value is not None
    ]
    if job.kind == "command" and job.tool in ("transformers", "trl"):
        lines = ["--" + line.replace("=", " ").replace("'", "") for line in lines]
        return " ".join(lines)
    where = _KEYS[job.tool][2].format(**words)
    return "\n".join(lines) + (f"  # {where}" if where and lines else "")
