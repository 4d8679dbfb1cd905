"""Names that other trainers give to the fields of a run, so that a wrong one is answered with ours."""

from __future__ import annotations

OTHER_NAMES = {
    "base_model": "base",
    "bf16": "base_dtype",
    "eval_size": "data.holdout",
    "gradient_accumulation_steps": "accumulation",
    "learning_rate": "optimiser.lr",
    "load_in_4bit": "base_dtype",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_target_modules": "adapter.target_modules",
    "lr_scheduler_type": "schedule.kind",
    "max_length": "data.max_tokens",
    "max_seq_length": "data.max_tokens",
    "max_steps": "steps",
    "micro_batch_size": "batch_size",
    "model": "base",
    "model_name_or_path": "base",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "optim": "optimiser.kind",
    "optimizer": "optimiser",
    "per_device_train_batch_size": "batch_size",
    "rank": "adapter.r",
    "sequence_len": "data.max_tokens",
    "use_rslora": "adapter.rslora",
}
"""Field of Transformers, TRL, PEFT, Axolotl or LLaMA-Factory -> dotted field of a run spec."""
