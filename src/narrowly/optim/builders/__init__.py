"""Builders: from a typed optimiser spec to an optimiser; module names equal those of `records.optimisers`."""
