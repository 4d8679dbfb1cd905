"""The spectral penalty in Lightning.

pip install lightning && python examples/lightning_module.py
"""

from __future__ import annotations

from typing import Any

import tiny
import torch

from narrowly.integrations.lightning import SpectralPenaltyCallback

try:
    import lightning
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed; add it with: pip install lightning") from None


class Tuned(lightning.LightningModule):
    """An adapted model and its optimiser; nothing in it knows of the penalty."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> Any:
        """Return the loss of a micro-batch, and show it four times."""
        loss = self.model(**batch).loss
        self.log("loss", loss)
        if index % 10 == 9:  # the last micro-batch of every fifth step
            print(f"step {self.global_step + 1:2d}  loss {loss.item():.3f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW on the adapter."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


tokens = tiny.tokenizer()
trainer = lightning.Trainer(
    max_steps=20, accumulate_grad_batches=2, gradient_clip_val=1.0, callbacks=[SpectralPenaltyCallback(lam=0.1)],
    accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Tuned(tiny.adapted(len(tokens))), torch.utils.data.DataLoader(tiny.rows(tokens), 4, collate_fn=tiny.stack))
print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})  # of the last step
