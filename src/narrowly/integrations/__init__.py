"""Integrations: everything that touches other people's training tools; thin adapters without algorithms.

The penalty and the optimisers in Transformers, TRL, LLaMA-Factory, Axolotl and Lightning, and the trackers of a run.
Importing this package loads nothing; each module loads its own host and no other.
"""
