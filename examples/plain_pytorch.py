"""The spectral penalty in a loop of your own: three lines, marked below.

python examples/plain_pytorch.py
"""

from __future__ import annotations

import tiny
import torch

from narrowly.spectrum import SpectralPenalty

ACCUMULATION = 2

tokens = tiny.tokenizer()
model = tiny.adapted(len(tokens))
rows = tiny.rows(tokens)
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-2)
penalty = SpectralPenalty(model, lam=0.1)  # 1: once, when the adapter is in place

for step in range(20):
    optimizer.zero_grad()
    value = penalty.seed_gradients()  # 2: once per optimiser step, before the first backward
    for part in range(ACCUMULATION):
        start = (8 * step + 4 * part) % len(rows)
        loss = model(**tiny.stack(rows[start : start + 4])).loss
        (loss / ACCUMULATION).backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)  # 3: the penalty is clipped with the rest; nothing else changes
    optimizer.step()
    if step % 5 == 4:
        print(f"step {step + 1:2d}  loss {loss.item():.3f}  penalty {value.item():.4f}")
