"""Commands that fetch bases of organisms and build worlds."""
