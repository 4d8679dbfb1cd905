"""The spectral penalty in a loop of your own: three lines, marked below. Beside it the same loop without it.

python examples/plain_pytorch.py
"""

from __future__ import annotations

import tiny
import torch

from narrowly.spectrum import SpectralPenalty, pairs_from_model, spectrum_summary, spectrum_table

ACCUMULATION = 2

tokens = tiny.tokenizer()
rows = tiny.rows(tokens)


def train(lam: float) -> list[tuple[int, float, float]]:
    """Return step, loss and Frobenius over nuclear norm of the update, every fifth step."""
    model = tiny.adapted(len(tokens))  # from one seed: both runs begin with the same factors
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    penalty = SpectralPenalty(model, lam=lam)  # 1: once, when the adapter is in place
    seen = []
    for step in range(20):
        optimizer.zero_grad()
        penalty.seed_gradients()  # 2: once per optimiser step, before the first backward
        for part in range(ACCUMULATION):
            start = (8 * step + 4 * part) % len(rows)
            loss = model(**tiny.stack(rows[start : start + 4])).loss
            (loss / ACCUMULATION).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)  # 3: the penalty is clipped with the rest; nothing else changes
        optimizer.step()
        if step % 5 == 4:
            spectrum = spectrum_summary(spectrum_table(pairs_from_model(model)))
            seen.append((step + 1, loss.item(), spectrum["frobenius_nuclear"] or 0.0))
    return seen


if __name__ == "__main__":
    print("what is penalised: Frobenius over nuclear norm, 1 / sqrt(8) = .354 for a flat spectrum of rank 8")
    print("              with the penalty     without it")
    for (step, loss, ratio), (_, loss_without, ratio_without) in zip(train(0.1), train(0.0), strict=True):
        print(f"step {step:2d}  loss {loss:.3f}  F/n {ratio:.3f}   loss {loss_without:.3f}  F/n {ratio_without:.3f}")
