"""Integrations: thin adapters that put the penalty and the optimisers into other people's trainers; no algorithms.

May be called by `study`, `report`, `cli` and by the host it adapts; calls `train` (the penalty's callback), `optim`,
`spectrum` and `records`. Importing this package loads nothing; each module loads its own host and no other.

    transformers.py   callbacks and optimiser factory for Transformers 5, and with it TRL and LLaMA-Factory
    axolotl.py        plugin that reads penalty and optimiser from Axolotl's YAML
    lightning.py      callback for Lightning
    checks.py         the penalty's arguments, and settings under which it would be wrong
"""
