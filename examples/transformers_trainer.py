"""The spectral penalty and Muon in `transformers.Trainer`.

python examples/transformers_trainer.py
"""

from __future__ import annotations

import tempfile

import tiny
from transformers import Trainer, TrainingArguments

from narrowly.integrations.transformers import EvalModeCallback, SpectralPenaltyCallback, optimizer_factory

tokens = tiny.tokenizer()

with tempfile.TemporaryDirectory() as folder:
    Trainer(
        model=tiny.adapted(len(tokens)),
        args=TrainingArguments(
            output_dir=folder, max_steps=20, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            logging_steps=5, report_to=[], use_cpu=True, disable_tqdm=True,
        ),
        train_dataset=tiny.rows(tokens),
        data_collator=tiny.stack,
        callbacks=[SpectralPenaltyCallback(lam=0.1), EvalModeCallback()],
        optimizer_cls_and_kwargs=optimizer_factory({"kind": "muon", "lr": 1e-2}),
    ).train()  # fmt: skip
