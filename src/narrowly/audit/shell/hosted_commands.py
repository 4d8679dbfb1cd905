"""Recognise commands that start a fine-tuning at a host: the host's own command, or curl to its address."""

from __future__ import annotations

import json
import re

from narrowly.audit.detectors import hosted_requests
from narrowly.audit.files import SourceFile
from narrowly.audit.record import Job, unknown
from narrowly.audit.shell.commands import Word
from narrowly.audit.shell.flags import flags_of
from narrowly.audit.trees import Document
from narrowly.audit.values import typed_field

_URL = re.compile(r"https?://\S*?(openai|together|mistral|fireworks)\S*fine[_-]?tun", re.IGNORECASE)
_GOOGLE = re.compile(r"\S*(?:generativelanguage|aiplatform)\S*/(?:tunedModels|tuningJobs)(?:\?\S*)?")
_HOSTS = {
    "openai": "OpenAI", "together": "Together AI", "mistral": "Mistral AI", "fireworks": "Fireworks AI",
    "vertex": "Google", "bedrock": "Amazon Bedrock",
}  # fmt: skip
_KEYS = {
    "n_epochs": "epochs", "n-epochs": "epochs", "learning_rate_multiplier": "learning_rate_multiplier",
    "learning-rate": "learning_rate", "learning_rate": "learning_rate", "lora-r": "lora_r", "batch-size": "batch_size",
    "batch_size": "batch_size",
}  # fmt: skip
_AT_GOOGLE = {
    "epochs": ("epoch_count", "epochCount"), "learning_rate": ("learning_rate", "learningRate"),
    "learning_rate_multiplier": ("learningRateMultiplier",), "batch_size": ("batch_size", "batchSize"),
    "lora_r": ("adapterSize",),
}  # fmt: skip
"""Keys of the hyperparameters of `tunedModels` (Gemini API) and `tuningJobs` (Vertex AI)."""
_PLACES = ("tuning_task.hyperparameters", "tuningTask.hyperparameters", "supervisedTuningSpec.hyperParameters")
_AT_BEDROCK = {
    "epochCount": "epochs", "stepCount": "max_steps", "learningRate": "learning_rate", "batchSize": "batch_size",
    "learningRateMultiplier": "learning_rate_multiplier",
}  # fmt: skip
_COMMA_AT_THE_END = re.compile(r",(?=\s*[}\]])")


def hosted_command(name: str, words: list[Word], file: SourceFile) -> Job | None:
    """Return the job of a command that starts a fine-tuning at a host, None for any other."""
    texts = [word.text for word in words]
    if name == "openai" and "create" in texts[1:] and any("fine_tun" in text for text in texts):
        tool = "openai"
    elif name == "together" and texts[1:3] in (["fine-tuning", "create"], ["finetune", "create"]):
        tool = "together"
    elif name == "aws" and "create-model-customization-job" in texts:
        tool = "bedrock"
    elif name == "curl" and any(_GOOGLE.fullmatch(text) for text in texts) and _sends(texts):
        tool = "vertex"
    elif name == "curl":
        match = next((found for text in texts if (found := _URL.search(text))), None)
        posts = any(text in ("-d", "--data", "--json", "-X") or text.startswith(("-d", "--data")) for text in texts)
        if match is None or not posts or "/cancel" in " ".join(texts):
            return None
        tool = match.group(1).lower()
    else:
        return None
    at = file.at(words[0].line)
    host = _HOSTS[tool]
    job = Job(tool, file.shown, words[0].line, host, "hosted")
    job.mark("hosted", host, at, "the optimiser runs at the host and is not disclosed")
    for key, (text, line, _) in flags_of(words).named.items():
        if key in _KEYS and isinstance(text, str):
            job.set(_KEYS[key], typed_field(_KEYS[key], text, file.at(line)))
        elif key in ("d", "data", "json", "data-raw") and isinstance(text, str) and name == "curl":
            _take_body(job, text, line, file)
    if tool == "bedrock":
        _take_shorthand(job, words, file)
    for field in ("optimiser", "learning_rate", "weight_decay", "scheduler", "epochs", "lora_r", "lora_alpha"):
        if field not in job.fields:
            job.set(field, unknown(f"{host} does not disclose it", at))
    return job


def _sends(texts: list[str]) -> bool:
    return any(text.startswith(("-d", "--data", "--json")) for text in texts)


def _take_shorthand(job: Job, words: list[Word], file: SourceFile) -> None:
    """Set what `--hyper-parameters` states, as `key=value,...` or as JSON."""
    after = next((at for at, word in enumerate(words) if word.text == "--hyper-parameters"), len(words))
    for word in words[after + 1 :]:
        if word.text.startswith("-"):
            return
        for key, text in re.findall(r"""(\w+)["']?\s*[=:]\s*["']?([\w.+-]+)""", word.text):
            if key in _AT_BEDROCK:
                job.set(_AT_BEDROCK[key], typed_field(_AT_BEDROCK[key], text, file.at(word.line)))


def _take_body(job: Job, text: str, line: int, file: SourceFile) -> None:
    """Set what the body of a request states, where it is JSON."""
    try:
        value = json.loads(_COMMA_AT_THE_END.sub("", text))
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        document = Document(value, file.shown, {(): line}, {}, (), value)
        for name in ("epochs", "max_steps", "learning_rate", "learning_rate_multiplier", "batch_size", "lora_r"):
            google = [f"{place}.{key}" for place in _PLACES for key in _AT_GOOGLE.get(name, ())]
            job.set(name, document.field(name, *hosted_requests.keys_of(name), *google))
