"""Name the files of an adapter folder, without torch: PEFT's two, those of other tools, and our record of an edit."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MLX_WEIGHTS = "adapters.safetensors"
"""mlx-lm's weights, beside an adapter_config.json that has PEFT's name and not its content."""

GGUF_SUFFIX = ".gguf"
"""End of the name of llama.cpp's files, an adapter in one file."""

CARRIED_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "new_embeddings.safetensors", "special_tokens_map.json",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
"""Files beside an adapter that belong to it where its vocabulary is its own; a card or a trainer's state does not."""

EDIT_RECORD = "edit.json"
"""What was done to the singular values, and whether the result was evaluated (`narrowly.spectrum.edits`)."""
