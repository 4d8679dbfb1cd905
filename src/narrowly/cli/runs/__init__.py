"""Commands that plan, train, watch and report runs and studies."""
