"""What a training loop says besides its optimiser: epochs, steps, schedule, clipping, accumulation."""

from __future__ import annotations

import re

from narrowly.audit.files import SourceFile
from narrowly.audit.python.fields import field_of, objects_in, set_field
from narrowly.audit.python.machine import Trace
from narrowly.audit.python.optimiser_objects import is_scheduler, scheduler_field
from narrowly.audit.python.values import Object, known
from narrowly.audit.record import Job, default, unknown

_EPOCH = re.compile(r"(?:^|_|\b)(?:epochs?|ep|epoch_idx|e)(?:$|_|\b)|epoch", re.IGNORECASE)
_STEP = re.compile(r"step|iter(?!m)|(?:^|_)it(?:$|_)", re.IGNORECASE)
_WITHIN_A_STEP = re.compile(r"micro|accum")
_BY_HAND = re.compile(rb"""\[\s*['"]lr['"]\s*\]\s*[*/]?=(?!=)""")


def set_loops(job: Job, trace: Trace) -> None:
    """Set epochs and steps from the loops of a script: `for epoch in range(args.epochs)`."""
    for loop in trace.loops:
        if _EPOCH.search(loop.target) and not job["epochs"].known:
            job.set("epochs", field_of("epochs", loop.count, job.file))
            job.cli_overridable = job.cli_overridable or loop.count.cli
        elif _WITHIN_A_STEP.search(loop.target):
            continue
        elif _STEP.search(loop.target) and known(loop.count) and "max_steps" not in job.fields:
            set_field(job, "max_steps", loop.count)
    if "epochs" not in job.fields:
        job.set("epochs", unknown("no loop over epochs is found"))
    if "max_steps" not in job.fields:
        job.set("max_steps", default(None, "no loop over a fixed number of steps"))


def set_schedule(job: Job, trace: Trace, optimiser: Object | None, file: SourceFile) -> None:
    """Set the schedule that is made for an optimiser; without one the rate is constant unless it is set by hand."""
    schedules = [made for made in trace.objects if is_scheduler(made)]
    mine = [made for made in schedules if optimiser is not None and optimiser in objects_in(made, 4)] or schedules
    if mine:
        last = mine[-1]
        job.set("scheduler", scheduler_field(last, job.file))
        for key, name in (("num_warmup_steps", "warmup_steps"), ("warmup_steps", "warmup_steps")):
            value = last.get(key)
            if value is not None and known(value):
                set_field(job, name, value)
    elif _BY_HAND.search(file.data):
        job.set("scheduler", unknown("the learning rate is set by hand in the loop"))
    else:
        job.set("scheduler", default("constant", "no schedule is made"))


def set_clipping(job: Job, trace: Trace) -> None:
    """Set the clipping norm and the accumulation of gradients of a loop."""
    for made in trace.objects:
        last = made.path.rsplit(".", 1)[-1]
        if last in ("clip_grad_norm_", "clip_gradients") and "max_grad_norm" not in job.fields:
            set_field(job, "max_grad_norm", made.get("max_norm", 1) or made.get("clip_val"))
        elif last == "Accelerator":
            set_field(job, "accumulation", made.get("gradient_accumulation_steps"))
            set_field(job, "precision", made.get("mixed_precision"))
