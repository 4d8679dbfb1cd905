"""Data: sources with sha256, row schemas, chat rendering and loss masks.

Calls `records` only; numpy, polars and torch are imported where they are used. The way of the data: a name or path
becomes a file of known sha256, its rows become conversations whatever their schema, and a chat template makes token
ids and labels of them. Rows of the last kind are tokenised and masked: nothing later decides which tokens carry a loss.
"""
