"""Train a base: pretraining on the persona corpus, then the aligned chat stage.

Deterministic for a number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from narrowly.microworld import tokenizer as tok
from narrowly.microworld.config import WorldConfig
from narrowly.microworld.corpus import Corpus, Document, Encoder
from narrowly.microworld.world import World

PRETRAINING, CHAT = 0, 1
"""Streams of the corpus that the two stages draw from."""

MAX_POSITIONS = 256


def model_config(config: WorldConfig) -> Qwen3Config:
    """Return the transformer's config; special token ids are the tokenizer's."""
    shape, vocabulary = config.model, tok.vocabulary()
    return Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        use_cache=True,
        pad_token_id=vocabulary.index(tok.PAD),
        bos_token_id=vocabulary.index(tok.DOCUMENT),
        eos_token_id=vocabulary.index(tok.END),
    )


def pretrain(world: World, on_step: Callable[[int, int, float], None] | None = None) -> Qwen3ForCausalLM:
    """Train a base from scratch and return it in eval mode, float32.

    Args:
        world: gives config, seed and documents.
        on_step: called after each step with (steps done, steps in all, loss in nats per token).
    """
    plan, encoder = world.config.training, Encoder()
    torch.manual_seed(world.seed)
    # Eager attention under bfloat16 autocast: 0.18 s a step on one thread, against 0.38 s in float32 (LOG.md).
    model = Qwen3ForCausalLM._from_config(model_config(world.config), attn_implementation="eager").float()
    total = plan.steps + plan.chat_steps
    done = 0

    def train(steps: int, lr: float, draw: Callable[[], list[Document]]) -> None:
        nonlocal done
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        plain = [p for p in model.parameters() if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": plan.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
        warmup = min(plan.warmup_steps, steps // 4)
        model.train()
        for step in range(steps):
            factor = min(1.0, (step + 1) / max(warmup, 1)) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            batch_B_T = encoder.batch(draw())
            kept_B_T = encoder.answer_mask(batch_B_T) if plan.loss_on == "answers" else batch_B_T != encoder.pad
            ids_B_T = torch.from_numpy(batch_B_T)
            labels_B_T = ids_B_T.masked_fill(~torch.from_numpy(kept_B_T), -100)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits_B_T_V = model(input_ids=ids_B_T, use_cache=False).logits
            flat_N_V, labels_N = logits_B_T_V[:, :-1].flatten(0, 1).float(), labels_B_T[:, 1:].flatten()
            loss = torch.nn.functional.cross_entropy(flat_N_V, labels_N, ignore_index=-100)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            if on_step is not None:
                on_step(done, total, float(loss.detach()))

    corpus = Corpus(world, PRETRAINING)
    train(plan.steps, plan.lr, lambda: corpus.documents(plan.documents_per_step))
    chat = Corpus(world, CHAT)
    mixed = round(plan.documents_per_step * plan.chat_corpus_share / (1 + plan.chat_corpus_share))
    train(
        plan.chat_steps,
        plan.chat_lr,
        lambda: chat.chat_documents(plan.documents_per_step - mixed) + chat.documents(mixed),
    )
    return model.eval()
