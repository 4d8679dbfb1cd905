"""Models: from a name or a folder to a live model.

Bases (shipped, local, of the hub), LoRA adapters, full weights, and organisms: base and trained weights of a run.
"""
