"""Runs: the run directory. Its layout, identity and markers, who works on it, and what it recorded step by step.

The one place that knows the names of the files of a run. It imports no torch and calls `records` only.
"""
