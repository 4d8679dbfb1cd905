"""A tiny adapted Qwen3, rows of unequal length, and the plain loop that every host's run is held against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from narrowly.spectrum.pairs import pairs_from_model
from narrowly.spectrum.penalty import spectral_penalty

LAM, LR, CLIP = 0.5, 0.3, 0.4
"""Strong enough that leaving the penalty out, or counting it twice, is seen; CLIP bites in every step."""

Rows = list[dict[str, list[int]]]
Factors = dict[str, Tensor]


def tiny_base() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, bos_token_id=None, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8)  # peaked logits, so that gradients are not all alike
    return model


def tiny_adapted(*, dtype: torch.dtype = torch.float32, **changes: Any) -> PeftModel:
    """Return the base with LoRA whose B has left 0, the same in every process."""
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj", "down_proj"]} | changes
    model = get_peft_model(tiny_base(), LoraConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.to(dtype)


def tiny_rows(count: int) -> Rows:
    generator = torch.Generator().manual_seed(2)
    rows = []
    for index in range(count):
        ids = torch.randint(2, 48, (4 + index % 5,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]]})
    return rows


def collate(rows: Rows) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> Tensor:
        return torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "labels": padded("labels", -100), "attention_mask": (ids != 0).long()}


def factors(model: torch.nn.Module) -> Factors:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LR, momentum=0.9)


def plain_run(
    rows: Rows, *, steps: int, per_step: int, lam: float = LAM, autocast: bool = False, micro: int = 1
) -> Factors:
    """The penalty written into the loss of the whole step; clipping and optimiser by hand.

    `micro` cuts the forward of a step, because autocast rounds each micro-batch by itself; there is one backward.
    """
    model = tiny_adapted()
    optimizer = sgd(model)
    pairs = pairs_from_model(model)
    for step in range(steps):
        losses, tokens = [], 0
        for part in range(micro):
            start = step * per_step + part * (per_step // micro)
            batch = collate(rows[start : start + per_step // micro])
            labels = batch.pop("labels")[:, 1:].flatten()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits_B_T_V = model(**batch).logits
            logits_N_V = logits_B_T_V[:, :-1].float().flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(logits_N_V, labels, ignore_index=-100, reduction="sum"))
            tokens += int((labels != -100).sum())
        optimizer.zero_grad()
        (torch.stack(losses).sum() / tokens + lam * spectral_penalty(pairs)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], CLIP)
        optimizer.step()
    return factors(model)


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return what TrainingArguments, and the classes made from it, need for a quiet run in given order on the CPU."""
    return {
        "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 4, "max_grad_norm": CLIP,
        "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "logging_steps": 1,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False,
    } | changes  # fmt: skip


def host_run(
    folder: Path,
    rows: Rows,
    callbacks: list[Any],
    *,
    trainer_class: type[Trainer] = Trainer,
    optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer] = sgd,
    resume: str | None = None,
    **changes: Any,
) -> Trainer:
    """Train with a real `transformers.Trainer` and return it."""
    model = tiny_adapted()
    trainer = trainer_class(
        model=model,
        args=TrainingArguments(**arguments(folder, **changes)),
        train_dataset=rows,
        data_collator=collate,
        optimizers=(optimizer(model), None),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def distance(found: Factors, expected: Factors) -> float:
    """Return how far two runs ended from each other, relative to the way that the expected one went."""
    start = factors(tiny_adapted())
    assert found.keys() == expected.keys() == start.keys()
    apart = torch.stack([(found[name] - expected[name]).norm() for name in start]).norm()
    way = torch.stack([(expected[name] - start[name]).norm() for name in start]).norm()
    return float(apart / way)
