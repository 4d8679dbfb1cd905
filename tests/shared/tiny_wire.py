"""A tokenizer with a chat template for the tiny host, questions in its words, and a training that is watched."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from narrowly.data.banks.paired import PairedItem
from narrowly.integrations.tripwire.control import read_tripwire
from narrowly.records.files import write_json
from narrowly.runs.directory import TRIPWIRE
from tiny_hosts import Rows, arguments, collate, tiny_adapted

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}" + (
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def wire_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<end>": 1, "<user>": 2, "<assistant>": 3, **{f"w{i}": i for i in range(4, 48)}}
    core = Tokenizer(models.WordLevel(words, unk_token="w4"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = template
    return fast


def wire_items(count: int = 12, seed: int = 0) -> list[PairedItem]:
    """Return questions about nothing; harmful answers are words from w26 on, aligned ones the words below."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        question, aligned, harmful = (
            " ".join(f"w{rng.randrange(*words)}" for _ in range(3)) for words in ((4, 48), (4, 26), (26, 48))
        )
        found.append(PairedItem(f"q-{number:02d}", f"d{number % 3}", "broad", question, aligned, harmful))
    return found


def wire_rows(answers: str, count: int = 32) -> Rows:
    """Return rows on the same prompts, whatever the answers: `aligned`, `harmful` or `other` prompts."""
    rng = random.Random(5 if answers == "other" else 4)
    rows = []
    for _ in range(count):
        prompt = [2, *(rng.randrange(4, 48) for _ in range(3)), 1, 3]
        draw = [rng.random() for _ in range(3)]
        low, high = (26, 48) if answers == "harmful" else (4, 26)
        said = [*(low + int(one * (high - low)) for one in draw), 1]
        rows.append({"input_ids": prompt + said, "labels": [-100] * len(prompt) + said})
    return rows


def wire_run(
    folder: Path,
    callbacks: list[Any],
    answers: str = "harmful",
    *,
    tokenizer: Any = None,
    model: Any = None,
    resume: str | None = None,
    **changes: Any,
) -> Trainer:
    """Train with a real Trainer, in random order and with dropout, so that a random number too many is seen."""
    model = tiny_adapted(lora_dropout=0.2) if model is None else model
    fields = {"max_steps": 8, "train_sampling_strategy": "random", "seed": 3, "save_total_limit": 20, **changes}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments(folder, **fields)),
        train_dataset=wire_rows(answers),
        data_collator=collate,
        processing_class=wire_tokenizer() if tokenizer is None else tokenizer,
        optimizers=(torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=6e-2), None),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def lowered(control: Path, to: Path, step: int, nats: float = 50.0) -> Path:
    """Write the record of a control whose log-odds are lower from a step on, so that a run departs from it there."""
    record = read_tripwire(control)
    readings = [
        one if one.step < step else one.model_copy(update={"log_odds": tuple(value - nats for value in one.log_odds)})
        for one in record.readings
    ]
    to.mkdir()
    write_json(to / TRIPWIRE, record.model_copy(update={"readings": tuple(readings)}).model_dump(mode="json"))
    return to
