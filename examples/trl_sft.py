"""The spectral penalty in TRL's `SFTTrainer`, which makes the adapter itself.

pip install trl && python examples/trl_sft.py
"""

from __future__ import annotations

import tempfile

import tiny
from peft import LoraConfig

from narrowly.integrations.transformers import SpectralPenaltyCallback

try:
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed; add it with: pip install trl") from None

disable_progress_bars()
tokens = tiny.tokenizer()

with tempfile.TemporaryDirectory() as folder:
    SFTTrainer(
        model=tiny.base(len(tokens)),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=tiny.TARGETS, task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=folder, max_steps=20, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            learning_rate=1e-2, logging_steps=5, report_to=[], use_cpu=True, bf16=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"messages": conversation} for conversation in tiny.conversations()]),
        processing_class=tokens,
        callbacks=[SpectralPenaltyCallback(lam=0.1)],
    ).train()  # fmt: skip
