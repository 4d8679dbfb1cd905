"""Jobs of the Transformers family: a trainer with its arguments, of Transformers, TRL or Unsloth."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from narrowly.audit.defaults.read import defaults_of
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.python.adapters import adapter_of, set_adapter, unknown_adapter
from narrowly.audit.python.data_sets import set_datasets
from narrowly.audit.python.deepspeed_values import join_deepspeed
from narrowly.audit.python.fields import is_none, is_true, objects_in, set_field
from narrowly.audit.python.follow import followed
from narrowly.audit.python.machine import Trace
from narrowly.audit.python.own_optimisers import set_own_optimiser
from narrowly.audit.python.values import Const, External, Object, Value, known, plain, why_unknown
from narrowly.audit.record import Field, Job, default, explicit, unknown
from narrowly.audit.versions import Version, parts, version_of

KEYS = {
    "optim": "optimiser", "learning_rate": "learning_rate", "weight_decay": "weight_decay",
    "lr_scheduler_type": "scheduler",
    "num_train_epochs": "epochs", "max_steps": "max_steps", "adam_beta1": "beta1", "adam_beta2": "beta2",
    "adam_epsilon": "eps", "optim_args": "optim_args", "warmup_steps": "warmup_steps", "warmup_ratio": "warmup_ratio",
    "per_device_train_batch_size": "batch_size", "gradient_accumulation_steps": "accumulation",
    "max_grad_norm": "max_grad_norm", "seed": "seed", "loraplus_lr_ratio": "lora_plus_ratio",
}  # fmt: skip
"""Arguments of TrainingArguments by field."""

TRL_CONFIG = re.compile(
    r"(SFT|DPO|GRPO|ORPO|KTO|CPO|Reward|PPOv2|PPO|RLOO|BCO|GKD|GOLD|OnlineDPO|XPO|NashMD|PRM|Distillation|TPO|GMPO|A2PO|SDFT"
    r"|SDPO|IWOPD|AsyncGRPO|AsyncDistillation|ServerDistillation|MiniLLM|PAPO|BEMA|GSPOToken)Config\Z"
)
_ARGUMENTS = re.compile(r"(?:\w*TrainingArguments|\w*TrainingArgs)\Z")
_NOT_THEIRS = ("setfit.", "lightning", "pytorch_lightning", "ray.", "flair.", "llamafactory", "swift.", "keras")
_PENALTY = re.compile(r"svd|singular|spectral|nuclear|orthogon|penalt|regulari", re.IGNORECASE)


@dataclass(slots=True)
class Pair:
    """Hold a trainer and its arguments; either may be missing in the file."""

    arguments: Object | None
    trainer: Object | None
    unclear: Value | None = None
    """Arguments that are given and not known."""


def last_names(made: Object) -> list[str]:
    """Return the class names of an object, its own first, then those of outside bases."""
    return [path.rsplit(".", 1)[-1] for path in _paths(made)]


def _paths(made: Object) -> list[str]:
    if made.kind is None:
        return [made.path]
    return [*(kind.name for kind in made.kind.lineage()), *made.kind.outside()]


def is_arguments(made: Object) -> bool:
    """Tell whether an object holds arguments of a Transformers trainer."""
    if made.path.startswith(_NOT_THEIRS) or made.path.startswith("(") or made.path.endswith("]"):
        return False
    return any(_ARGUMENTS.match(name) or TRL_CONFIG.match(name) for name in last_names(made))


def is_trainer(made: Object) -> bool:
    """Tell whether an object is a trainer of the Transformers family."""
    if made.path.startswith(_NOT_THEIRS) or "(" in made.path or "]" in made.path:
        return False
    paths = _paths(made)
    return any(
        re.fullmatch(r"\w*Trainer", path.rsplit(".", 1)[-1]) and not path.startswith(_NOT_THEIRS) for path in paths
    )


def _arguments_of(trainer: Object) -> Value | None:
    for value in (trainer.get("args"), trainer.get("config"), trainer.get("training_args"), *trainer.args):
        for made in objects_in(value, 2):
            if is_arguments(made):
                return made
    first = trainer.args[1] if len(trainer.args) > 1 else None
    return trainer.get("args") or trainer.get("config") or first


def _is_library_trainer(trainer: Object) -> bool:
    paths = _paths(trainer)
    return any(
        path.split(".", 1)[0] in ("transformers", "trl", "unsloth", "sentence_transformers", "optimum")
        for path in paths
    )


def pairs_in(trace: Trace) -> list[Pair]:
    """Return trainers with their arguments, then arguments that no trainer takes."""
    found: list[Pair] = []
    for trainer in [made for made in trace.objects if is_trainer(made) and not _no_run(made, trace)]:
        arguments = _arguments_of(trainer)
        if isinstance(arguments, Object) and is_arguments(arguments):
            found.append(Pair(arguments, trainer))
        elif _is_library_trainer(trainer):
            found.append(Pair(None, trainer, arguments if not is_none(arguments) else None))
    taken = [pair.arguments for pair in found]
    for made in trace.objects:
        replaced = any(each is not None and each.at == made.at for each in taken)
        if is_arguments(made) and made not in taken and not replaced and not _no_run(made, trace):
            found.append(Pair(made, None))
    if any(pair.arguments is not None for pair in found):
        found = [pair for pair in found if pair.arguments is not None or pair.unclear is None]
    return found


def _no_run(made: Object, trace: Trace) -> bool:
    """Tell whether arguments were made only to follow a class, or are what a trainer's own methods fall back on."""
    inside = {id(node) for node in made.inside}
    return isinstance(made.node, ast.ClassDef) or any(
        id(method.node) in inside
        for kind in trace.classes
        if any(path.endswith("Trainer") for path in kind.outside())
        for method in kind.methods.values()
    )


def tool_of(pair: Pair, trace: Trace) -> str:
    """Return the slug of the tool that runs a pair."""
    if any(name == "unsloth" or name.startswith("unsloth.") for name in trace.imports):
        return "unsloth"
    for made in (pair.arguments, pair.trainer):
        if made is None:
            continue
        paths = _paths(made)
        if any(path.startswith("trl.") or TRL_CONFIG.match(path.rsplit(".", 1)[-1]) for path in paths):
            return "trl"
    return "transformers"


def trainer_jobs(file: SourceFile, repository: Repository, tool: str) -> list[Job]:
    """Return the jobs of one tool of the family in a script or notebook."""
    trace = followed(file, repository)
    if trace is None:
        return []
    jobs = [job_of(pair, trace, file, repository) for pair in pairs_in(trace) if tool_of(pair, trace) == tool]
    return together(jobs)


def together(jobs: list[Job]) -> list[Job]:
    """Return one job per line; a field that differs between runs of one line is unknown with all its values."""
    kept: dict[int, Job] = {}
    for job in jobs:
        first = kept.setdefault(job.line, job)
        if first is job:
            continue
        for name, found in job.fields.items():
            other = first.fields.get(name)
            if other is not None and other.known and found.known and other.value != found.value:
                reason = f"takes several values in this script: {other.value}, {found.value}"
                first.fields[name] = unknown(reason, found.at)
            elif other is None or not other.known:
                first.fields[name] = found if other is None else other
    return list(kept.values())


def job_of(pair: Pair, trace: Trace, file: SourceFile, repository: Repository) -> Job:
    """Return the job of a trainer and its arguments."""
    tool = tool_of(pair, trace)
    job = Job(tool, file.shown, _line(pair), kind="notebook" if file.kind == "notebook" else "script")
    versions = {
        name: version_of(name, repository, file) for name in ("transformers", "trl", "unsloth", "peft", "torch")
    }
    version = versions[tool]
    if version is not None:
        job.tool_version = version.to_field()
    arguments = pair.arguments
    job.name = last_names(arguments or pair.trainer or Object())[0]
    if arguments is not None:
        _set_arguments(job, arguments)
    elif pair.unclear is not None:
        for key, name in KEYS.items():
            if key in ("optim", "learning_rate", "weight_decay", "lr_scheduler_type", "num_train_epochs", "max_steps"):
                job.set(
                    name,
                    unknown(f"the trainer's arguments are not known: {why_unknown(pair.unclear)}", pair.unclear.at),
                )
    _fill(job, pair, trace, versions)
    given_to = (
        [pair.trainer.get("peft_config"), pair.trainer.get("model", 0), pair.trainer]
        if pair.trainer is not None
        else []
    )
    set_adapter(
        job, adapter_of(given_to, trace.objects), versions["unsloth"] if tool == "unsloth" else versions["peft"]
    )
    given = pair.trainer.get("peft_config") if pair.trainer is not None else None
    if given is not None and not is_none(given) and job.value("adapter") == "full":
        unknown_adapter(job, given)
    set_own_optimiser(job, pair.trainer, versions)
    job.set("datasets", set_datasets(pair.trainer))
    if arguments is not None:
        join_deepspeed(job, arguments.get("deepspeed"), file, repository)
    _mark_penalty(job, pair)
    return job


def _line(pair: Pair) -> int:
    """Return the line of the arguments, else of the trainer; of what stands in a sibling the line that calls it."""
    made = pair.arguments if pair.arguments is not None else pair.trainer
    return made.line if made is not None else 1


def _set_arguments(job: Job, arguments: Object) -> None:
    for key, name in KEYS.items():
        set_field(job, name, arguments.get(key))
    if is_true(arguments.get("adafactor")) and "optimiser" not in job.fields:
        given = arguments.get("adafactor")
        job.set("optimiser", explicit("adafactor", given.at if given else None, "adafactor=True"))
    if arguments.rest:
        for name in ("optimiser", "learning_rate", "weight_decay", "scheduler", "epochs", "max_steps"):
            if name not in job.fields:
                job.set(name, unknown(arguments.rest, arguments.at))
    for key, precision in (("bf16", "bf16"), ("fp16", "fp16")):
        value = arguments.get(key)
        if is_true(value):
            job.set("precision", explicit(precision, value.at if value else None))
    evaluation = arguments.get("eval_strategy") or arguments.get("evaluation_strategy") or arguments.get("do_eval")
    if isinstance(evaluation, External):
        evaluation = Const(evaluation.at, evaluation.cli, evaluation.path.rsplit(".", 1)[-1].lower())
    if evaluation is not None and known(evaluation):
        said = plain(evaluation)
        job.set("evaluation", explicit(False if said in ("no", "No", None, False) else said, evaluation.at))
    fsdp = arguments.get("fsdp")
    if fsdp is not None and known(fsdp) and plain(fsdp):
        job.set("distributed", explicit("fsdp", fsdp.at))
    job.cli_overridable = job.cli_overridable or arguments.cli


def _fill(job: Job, pair: Pair, trace: Trace, versions: dict[str, Version | None]) -> None:
    """Set defaults: Unsloth's over TRL's over those of Transformers, as the class and the order of imports decide."""
    made = pair.arguments
    names = last_names(made) if made is not None else []
    kind = next((name for name in names if TRL_CONFIG.match(name)), "")
    own = any(name == "UnslothTrainingArguments" for name in names)
    if not kind and made is None and pair.trainer is not None:
        trainer = next((name for name in last_names(pair.trainer) if name.endswith("Trainer")), "Trainer")
        kind = trainer.removesuffix("Trainer").removeprefix("Unsloth") + "Config"
        kind = kind if TRL_CONFIG.match(kind) else "SFTConfig" if trainer == "UnslothTrainer" else ""
    if made is not None and "PPOConfig" in names and _is_old_ppo(made, pair, trace, versions["trl"]):
        job.fill(_old_ppo())
    first_import = next((place for name, place in trace.imports.items() if name.split(".")[0] == "unsloth"), None)
    if first_import is not None and (kind or own):
        if _bound_before_unsloth(names, trace):
            reason = "was imported before unsloth, so unsloth's defaults do not reach it"
            job.mark("unsloth_import", False, first_import, f"{names[0]} {reason}")
        else:
            rewritten = defaults_of("unsloth", versions["unsloth"], of="rl")
            job.fill({name: found for name, found in rewritten.items()})
            job.mark("unsloth_import", True, first_import, "importing unsloth rewrites TRL's defaults")
            kind = kind or "SFTConfig"
    if kind:
        job.fill(defaults_of("trl", versions["trl"], of=kind))
    job.fill(_of_transformers(versions["transformers"]))


def _of_transformers(version: Version | None) -> dict[str, Field]:
    return defaults_of("transformers", version, of="TrainingArguments")


_OLD_PPO = ("ppo_epochs", "init_kl_coef", "adap_kl_ctrl", "log_with", "model_name", "optimize_cuda_cache", "steps")
"""Arguments of PPOConfig that went with TRL 0.12."""


def _is_old_ppo(made: Object, pair: Pair, trace: Trace, version: Version | None) -> bool:
    """Tell whether PPO is TRL's before 0.12: by its version, its arguments, or its loop of `step`."""
    if version is not None and version.exact is not None:
        return parts(version.exact) < (0, 12)
    trainer = pair.trainer
    if any(made.get(name) is not None for name in _OLD_PPO) or trainer is None:
        return trainer is not None
    steps = any(one.owner is trainer and one.path.endswith(".step") for one in trace.objects)
    return steps or trainer.get("config") is made


def _old_ppo() -> dict[str, Field]:
    reason = "PPOConfig of TRL before 0.12, whose PPOTrainer makes an Adam itself"
    return {"optimiser": default("adam", reason), "learning_rate": default(1.41e-5, reason),
            "weight_decay": default(0.0, reason), "scheduler": default("constant", reason),
            "epochs": unknown("PPOConfig of TRL before 0.12 has no epochs over the data")}  # fmt: skip


def _bound_before_unsloth(names: list[str], trace: Trace) -> bool:
    order = list(trace.imports)
    first = next((index for index, name in enumerate(order) if name.split(".")[0] == "unsloth"), len(order))
    return any(name.startswith("trl.") and name.rsplit(".", 1)[-1] in names for name in order[:first])


def _mark_penalty(job: Job, pair: Pair) -> None:
    kind = pair.trainer.kind if pair.trainer is not None else None
    method = kind.method("compute_loss") if kind is not None else None
    if method is None:
        return
    words = [getattr(node, "id", None) or getattr(node, "attr", None) or "" for node in ast.walk(method.node)]
    if any(_PENALTY.search(word) for word in words):
        job.mark("penalty_in_compute_loss", True, method.at, "compute_loss runs once per micro-batch")
        if any("autocast" in word for word in words):
            job.mark("penalty_in_autocast", True, method.at, "matrix products inside autocast")
