"""Data: sources with sha256, row schemas, chat rendering and loss masks.

Called by `microworld`, `train` and `cli`; calls `records` only (numpy, polars and torch are imported where they are
used). A name or path becomes a file of known sha256 (`sources`), its rows become conversations whatever their schema
(`conversations`), and a chat template makes token ids and labels of them (`render`). A row of the last kind is already
tokenised and already masked: nothing later in the way of the data decides which tokens carry a loss.
"""
