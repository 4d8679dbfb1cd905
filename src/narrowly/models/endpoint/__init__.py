"""Ask a model behind an OpenAI-compatible endpoint: address and key, requests that are tried again, probe, backend."""
