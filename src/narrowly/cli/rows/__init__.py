"""Commands under `narrowly data`: sources, rows and banks."""
