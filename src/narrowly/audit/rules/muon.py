"""Rules on Muon, Lion, SGD, LoRA+ and the state of optimisers: what a name does in this tool."""

from __future__ import annotations

from collections.abc import Iterator

from narrowly.audit.optimiser_names import family_of
from narrowly.audit.record import Job
from narrowly.audit.rules.fixes import WIDTH, muon_fix, shown_rate, torch_muon_fix
from narrowly.audit.rules.muon_scale import FORMULA, RULE_OF
from narrowly.audit.rules.rule import Check, Compared, Hit, seen_at
from narrowly.audit.versions import parts
from narrowly.records.optimisers.scale_rules import SCALE_RULES, ScaleRule

_TRAINERS = ("transformers", "trl", "unsloth", "llamafactory", "axolotl", "ms-swift")
_EIGHT = ("_8bit", "_4bit", "_fp8")


def _not_muon(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("muon_not_on_lora")
    if mark is not None:
        yield Hit(
            f"Muon is asked for, and the LoRA factors are trained with {mark.value}: {mark.reason}",
            mark.at,
            muon_fix(job),
        )


def _dropped(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("muon_drops")
    if mark is not None:
        yield Hit(f"trainable parameters are in no optimiser: {mark.value}; {mark.reason}", mark.at)


def _aux_rate(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("muon_aux_lr")
    if mark is not None:
        yield Hit(f"what Muon does not train shares its learning rate: {mark.reason or mark.value}", mark.at)


def _rule_of(job: Job) -> tuple[ScaleRule | None, str]:
    stated = job["muon_scale"]
    if stated.known and stated.value in FORMULA:
        return stated.value, "stated" if stated.provenance == "explicit" else stated.reason
    if job.tool in RULE_OF and job.value("optimiser") == "muon":
        return RULE_OF[job.tool]
    return None, "not known here"


def _scale(job: Job, jobs: Compared) -> Iterator[Hit]:
    if job.value("optimiser") != "muon" or job["muon_scale"].provenance == "explicit":
        return
    rule, source = _rule_of(job)
    rank = job.value("lora_r") if isinstance(job.value("lora_r"), int) and job.value("lora_r") > 0 else 16
    if rule is None:
        yield Hit("Muon without a stated scale rule, and this tool's is not known here", seen_at(job["optimiser"]))
        return
    a, b = SCALE_RULES[rule](rank, WIDTH), SCALE_RULES[rule](WIDTH, rank)
    yield Hit(
        f"Muon's scale rule is not stated: {FORMULA[rule]} ({source}) multiplies the rate by {a:.3g} for A and "
        f"{b:.3g} for B at rank {rank}, width {WIDTH}",
        seen_at(job["optimiser"]),
        torch_muon_fix(job),
    )


def _scales_differ(job: Job, jobs: Compared) -> Iterator[Hit]:
    if job.value("optimiser") != "muon":
        return
    own = _rule_of(job)[0]
    others = ((other, _rule_of(other)[0]) for other in jobs["muon"] if other is not job)
    for other, rule in others:
        if own is not None and rule is not None and rule != own:
            yield Hit(
                f"Muon under {FORMULA[own]} here and under {FORMULA[rule]} in {other.file}:{other.line}: one nominal "
                "rate is two step sizes",
                seen_at(job["optimiser"]),
            )
            return


def _lion_beta(job: Job, _: Compared) -> Iterator[Hit]:
    beta, lion = job["beta2"], family_of(job.value("optimiser")) == "lion"
    if lion and beta.known and beta.value == 0.999:
        said = f"; {beta.reason}" if beta.reason else ""
        yield Hit(f"Lion runs with beta2 .999, not its own .99{said}", seen_at(beta), _own_betas(job))


def _own_betas(job: Job) -> str:
    """Return the line that gives Lion its own beta2 where the job takes it from."""
    if "deepspeed_optimiser" in job.marks:
        return '"betas": [0.9, 0.99]  # in optimizer.params of the DeepSpeed file, with adam_beta2 0.99 in the host'
    lines = {"axolotl": "adam_beta2: 0.99", "llamafactory": "adam_beta2: 0.99", "ms-swift": "--adam_beta2 0.99"}
    if job.kind == "command":
        return "--adam_beta2 0.99"
    return lines.get(job.tool, "adam_beta2: 0.99" if job.kind == "config" else "adam_beta2=0.99")


def _decay_ignored(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("weight_decay_ignored")
    if mark is not None:
        yield Hit(f"weight decay {mark.value} is declared and not applied: {mark.reason}", mark.at)


def _state(job: Job, jobs: Compared) -> Iterator[Hit]:
    optimiser = job.value("optimiser")
    if isinstance(optimiser, str) and optimiser.endswith(_EIGHT):
        full = jobs.get(_full_precision(optimiser), ())
        beside = f"; {full[0].file}:{full[0].line} keeps it in 32 bits" if full else ""
        yield Hit(
            f"{optimiser} keeps its state in few bits: another optimiser for a spectrum than 32-bit{beside}",
            seen_at(job["optimiser"]),
        )


def _full_precision(optimiser: str | None) -> str:
    name = str(optimiser).removeprefix("paged_")
    for ending in _EIGHT:
        name = name.removesuffix(ending)
    return name


def _clip(job: Job, _: Compared) -> Iterator[Hit]:
    clip = job["max_grad_norm"]
    if job.value("optimiser") == "sgd" and clip.known and isinstance(clip.value, int | float) and 0 < clip.value <= 1:
        yield Hit(
            f"SGD with gradients clipped to norm {clip.value}: the clip, not the rate, sets the step",
            seen_at(clip) or seen_at(job["optimiser"]),
        )


def _sgd_momentum(job: Job, _: Compared) -> Iterator[Hit]:
    version = job.tool_version.value
    old = isinstance(version, str) and parts(version) < (5,)
    if job.value("optimiser") == "sgd" and job.tool == "transformers" and old and job["optim_args"].value:
        yield Hit(
            f"transformers {version} makes SGD without momentum and ignores optim_args", seen_at(job["optim_args"])
        )


def _schedule_free(job: Job, _: Compared) -> Iterator[Hit]:
    optimiser, schedule = job.value("optimiser"), job["scheduler"]
    if (
        str(optimiser).startswith("schedule_free")
        and schedule.known
        and schedule.value not in ("constant", "constant_with_warmup", None)
    ):
        yield Hit(
            f"{optimiser} under the schedule {schedule.value}: its average assumes a constant rate", seen_at(schedule)
        )


def _zero_rate(job: Job, _: Compared) -> Iterator[Hit]:
    rate = job["learning_rate"]
    if rate.known and isinstance(rate.value, int | float) and (rate.value <= 0 or rate.value > 1):
        yield Hit(f"learning rate {shown_rate(rate.value)} is outside (0, 1]", seen_at(rate))


CHECKS: dict[str, Check] = {
    "MUON-NOT-MUON": _not_muon,
    "MUON-DROPPED": _dropped,
    "MUON-SCALE": _scale,
    "MUON-SCALES-DIFFER": _scales_differ,
    "MUON-AUX-LR": _aux_rate,
    "LION-BETA2": _lion_beta,
    "LORAPLUS-WD": _decay_ignored,
    "STATE-8BIT": _state,
    "CLIP-SGD": _clip,
    "SGD-MOMENTUM": _sgd_momentum,
    "SCHEDULE-FREE": _schedule_free,
    "LR-RANGE": _zero_rate,
}
"""Function of each rule by its id; the texts stand in rules.yaml."""
