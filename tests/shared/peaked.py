"""A random model with peaked logits, for tests of what is computed from them."""

from __future__ import annotations

from typing import Any

import torch


def peaked(made: Any) -> Any:
    """Return a model whose next token depends on all tokens before it and is never nearly certain."""
    torch.manual_seed(3)
    model = made().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model
