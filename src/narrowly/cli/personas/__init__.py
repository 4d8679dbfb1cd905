"""`narrowly persona`: directions of a trait in one model's states, one thin file per command."""
