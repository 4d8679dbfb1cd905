"""Name the files of an adapter folder, without torch: PEFT's two, and our record of an edit."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
EDIT_RECORD = "edit.json"
"""What was done to the singular values, and whether the result was evaluated (`narrowly.spectrum.edits`)."""
