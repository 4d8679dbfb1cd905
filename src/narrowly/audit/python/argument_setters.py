"""The methods by which TrainingArguments sets several arguments at once; what a call leaves out is set as well.

Source: transformers 5.23 training_args.py `set_training`, `set_optimizer`, `set_lr_scheduler`; a test holds them to
the installed class.
"""

from __future__ import annotations

from narrowly.audit.python.values import Const, Object, Value

SETTERS: dict[str, tuple[tuple[str, str, object], ...]] = {
    "set_training": (
        ("learning_rate", "learning_rate", 5e-5),
        ("batch_size", "per_device_train_batch_size", 8),
        ("weight_decay", "weight_decay", 0),
        ("num_epochs", "num_train_epochs", 3),
        ("max_steps", "max_steps", -1),
        ("gradient_accumulation_steps", "gradient_accumulation_steps", 1),
        ("seed", "seed", 42),
    ),
    "set_optimizer": (
        ("name", "optim", "adamw_torch"),
        ("learning_rate", "learning_rate", 5e-5),
        ("weight_decay", "weight_decay", 0),
        ("beta1", "adam_beta1", 0.9),
        ("beta2", "adam_beta2", 0.999),
        ("epsilon", "adam_epsilon", 1e-8),
        ("args", "optim_args", None),
    ),
    "set_lr_scheduler": (
        ("name", "lr_scheduler_type", "linear"),
        ("num_epochs", "num_train_epochs", 3.0),
        ("max_steps", "max_steps", -1),
        ("warmup_steps", "warmup_steps", 0),
    ),
}
"""Method -> (parameter, argument of TrainingArguments, default), in the order of its signature."""


def set_by_method(owner: Object, name: str, args: list[Value], kwargs: dict[str, Value], at: str | None) -> bool:
    """Set what a method of TrainingArguments sets; say whether it is one of `SETTERS`."""
    setters = SETTERS.get(name)
    if setters is None or not owner.path.rsplit(".", 1)[-1].endswith(("TrainingArguments", "Config")):
        return False
    for position, (parameter, argument, value) in enumerate(setters):
        given = args[position] if position < len(args) else kwargs.get(parameter)
        owner.attrs[argument] = given if given is not None else Const(at, False, value)
    return True
