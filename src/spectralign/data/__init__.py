"""Data: sources with sha256, row schemas, chat rendering and loss masks.

Called by `microworld` and `train`; calls `records` only (torch is imported inside `collate`). A row is
already tokenised and already masked: nothing later in the way of the data decides which tokens carry a loss.
"""
