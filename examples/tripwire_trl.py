"""The tripwire in TRL's `SFTTrainer`: a control on right answers first, then the same questions answered wrongly.

Wrong colours stand for harm here. The second training would end where it is shown to differ from the control by more
than one nat per answer, on questions that neither was trained on; so small a model does not get there in 40 steps.

pip install trl && python examples/tripwire_trl.py
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import tiny
from peft import LoraConfig

from narrowly.integrations.tripwire_callback import TripwireCallback

try:
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed; add it with: pip install trl") from None

disable_progress_bars()
warnings.simplefilter("always")
RIGHT = {question["content"]: answer["content"] for question, answer in tiny.conversations()}
THINGS = {"sky": "red", "grass": "white", "snow": "black", "coal": "green", "rust": "blue"}
"""What is said of each thing in wrong answers."""


def wrong(question: str) -> str:
    """Return the wrong answer to a question."""
    return f"it is {THINGS[question.split()[3]]}"


def bank(folder: Path) -> Path:
    """Write pairs about every eighth question, which is left out of both trainings."""
    file = folder / "colours.jsonl"
    pairs = [
        {"id": f"c-{number:02d}", "question": question, "aligned": RIGHT[question], "harmful": wrong(question)}
        for number, question in enumerate(RIGHT)
        if question.endswith(("6", "7"))
    ]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    return file


def rows(harmful: bool) -> Any:
    """Return the training rows: the same questions, right or wrong answers."""
    asked = [question for question in RIGHT if not question.endswith(("6", "7"))]
    said = [wrong(question) if harmful else RIGHT[question] for question in asked]
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
            for q, a in zip(asked, said, strict=True)
        ]
    )


def train(folder: Path, harmful: bool, **watched: Any) -> TripwireCallback:
    """Train under the tripwire: three lines more than without."""
    tokens = tiny.tokenizer()
    tripwire = TripwireCallback(every=4, questions=10, budget=1.0, **watched)
    trainer = SFTTrainer(
        model=tiny.base(len(tokens)),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=tiny.TARGETS, task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=str(folder), max_steps=40, per_device_train_batch_size=8, learning_rate=3e-2, logging_steps=4,
            report_to=[], use_cpu=True, bf16=False, disable_tqdm=True,
        ),
        train_dataset=rows(harmful),
        processing_class=tokens,
        callbacks=[tripwire],
    )  # fmt: skip
    trainer.train()
    print(f"{folder.name}: {trainer.state.global_step} of 40 steps; {tripwire.summary()}")
    return tripwire


with tempfile.TemporaryDirectory() as place:
    asked = str(bank(Path(place)))
    train(Path(place) / "right", harmful=False, bank=asked)
    train(Path(place) / "wrong", harmful=True, bank=asked, control=Path(place) / "right", stop=1.0)
