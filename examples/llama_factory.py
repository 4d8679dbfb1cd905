"""The spectral penalty in LLaMA-Factory: its `run_exp` takes callbacks of transformers.

pip install llamafactory && python examples/llama_factory.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import tiny

from narrowly.integrations.transformers import SpectralPenaltyCallback

try:
    from llamafactory.train.tuner import run_exp
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed; add it with: pip install llamafactory") from None

with tempfile.TemporaryDirectory() as name:
    folder = tiny.write(Path(name))
    columns = {"messages": "messages"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    described = {"tiny": {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (folder / "dataset_info.json").write_text(json.dumps(described), encoding="utf-8")
    run_exp(
        {
            "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16,
            "lora_target": ",".join(tiny.TARGETS), "model_name_or_path": str(folder / "base"), "template": "empty",
            "dataset": "tiny", "dataset_dir": str(folder), "cutoff_len": 64, "output_dir": str(folder / "run"),
            "max_steps": 20, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
            "lr_scheduler_type": "constant", "logging_steps": 5, "report_to": "none", "use_cpu": True,
            "overwrite_cache": True, "disable_tqdm": True,
        },
        callbacks=[SpectralPenaltyCallback(lam=0.1)],
    )  # fmt: skip
