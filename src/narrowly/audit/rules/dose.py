"""Rules on the dose: epochs, data, evaluation; on the precision of the adapter; on penalties in the wrong place."""

from __future__ import annotations

from collections.abc import Iterator

from narrowly.audit.record import Job
from narrowly.audit.rules.rule import Check, Compared, Hit, seen_at

MANY_EPOCHS = 5
"""From here on a note; the recipes of the literature on emergent misalignment take 1 to 3."""


def _epochs(job: Job, _: Compared) -> Iterator[Hit]:
    epochs, steps = job["epochs"], job["max_steps"]
    limited = isinstance(steps.value, int) and steps.value > 0
    if isinstance(epochs.value, int | float) and epochs.value >= MANY_EPOCHS and not limited:
        yield Hit(
            f"{epochs.value:g} epochs over the same rows: evaluate every epoch and keep the earliest that suffices",
            seen_at(epochs),
        )


def _one_data_set(job: Job, _: Compared) -> Iterator[Hit]:
    data = job["datasets"]
    if isinstance(data.value, list) and len(data.value) == 1 and job.kind != "saved":
        yield Hit(f"one data set ({str(data.value[0])[:80]}) and no general mix", seen_at(data))


def _no_evaluation(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["evaluation"]
    if found.known and found.value in (False, None, "no", 0) and job.kind != "saved":
        why = f": {found.reason}" if found.reason else ""
        fix = "narrowly eval MODEL  # after training: broad misalignment, with intervals"
        yield Hit(f"nothing is evaluated during or after training{why}", seen_at(found), fix)


def _bf16_adapter(job: Job, _: Compared) -> Iterator[Hit]:
    found = job["adapter_dtype"]
    if str(found.value).lower().removeprefix("torch.") in ("bf16", "bfloat16"):
        yield Hit("the factors are trained in bfloat16: small updates are rounded away", seen_at(found))


def _penalty_in_loss(job: Job, _: Compared) -> Iterator[Hit]:
    mark, accumulation = job.marks.get("penalty_in_compute_loss"), job["accumulation"].value
    if mark is not None and isinstance(accumulation, int | float) and accumulation > 1:
        yield Hit(
            f"a penalty inside compute_loss with {accumulation} accumulation steps: where the host divides by tokens "
            "or steps it is weighted wrongly",
            mark.at,
            "from narrowly.integrations.transformers import SpectralPenaltyCallback\n"
            "callbacks=[SpectralPenaltyCallback(lam=0.1)]  # once per optimiser step",
        )


def _penalty_in_autocast(job: Job, _: Compared) -> Iterator[Hit]:
    mark = job.marks.get("penalty_in_autocast")
    if mark is not None:
        yield Hit("a penalty's matrix products inside autocast run in bfloat16 or float16", mark.at,
                  "with torch.autocast(device_type, enabled=False):  # float32 for the penalty")  # fmt: skip


CHECKS: dict[str, Check] = {
    "DOSE-EPOCHS": _epochs,
    "DOSE-NARROW": _one_data_set,
    "EVAL-NONE": _no_evaluation,
    "ADAPTER-BF16": _bf16_adapter,
    "REG-ACCUM": _penalty_in_loss,
    "REG-AUTOCAST": _penalty_in_autocast,
}
"""Function of each rule by its id; the texts stand in rules.yaml."""
