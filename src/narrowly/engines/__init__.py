"""Engines: where tasks run. A small protocol, and a pool of local processes behind it.

A task is a function by name and a JSON-able payload. No engine knows a cell, and none imports torch.
"""
