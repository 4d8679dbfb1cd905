#!/usr/bin/env bash
# A tool call without text cannot be rendered by DeepSeek's templates, and the usual way round it loses the call.
#
# Versions   Transformers 5.23.0, tokenizers of its own choice, TRL 1.16.0 (its copies of the models' own templates)
# Ground     OpenAI's format writes `content: null` beside `tool_calls`. DeepSeek V3's template and that of the R1
#            distillates ask for exactly that: `message['content'] is none` decides whether calls are written.
# Behaviour  `apply_chat_template` takes every field that is None off a message before the template sees it. `is none` is
#            then asked of a field that is missing: the answer is no, and the branch for text raises. An empty text in
#            place of null, as some servers put it, renders: V3 writes the call, the R1 distillates leave it out.
# Seen       null: "'dict object' has no attribute 'content'" for both. Empty text: V3 is the same as Jinja alone gives
#            for null; the R1 distillates give an assistant's turn that ends at once, then a tool's answer to no call.
#            Control: Jinja alone renders null with the call under both. Qwen3's template renders all forms alike.
# Exit code  0 still so, 1 changed, 2 could not be installed.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
  "${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check transformers==5.23.0 jinja2==3.1.6 &&
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps trl==1.16.0
} || { echo "the pinned packages could not be installed"; exit 2; }
cat > "$work/show.py" <<'PY'
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(find_spec("trl").submodule_search_locations[0]) / "chat_templates"
TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({"?": 0}, unk_token="?")), bos_token="<s>", eos_token="</s>"
)
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}


def dialogue(**content):
    return [
        {"role": "user", "content": "How warm is it in Bonn?"},
        {"role": "assistant", **content, "tool_calls": [CALL]},
        {"role": "tool", "content": "7 degrees"},
        {"role": "assistant", "content": "It is 7 degrees."},
    ]


def source(name):
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def rendered(name, **content):
    try:
        return TOKENIZER.apply_chat_template(dialogue(**content), chat_template=source(name), tokenize=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def jinja_alone(name, **content):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(source(name))
    return template.render(messages=dialogue(**content), bos_token="<s>", eos_token="</s>", add_generation_prompt=False)


print(f"transformers {version('transformers')}, trl {version('trl')} (templates alone)")
checks = {}
for name in ("deepseekv3", "deepseek_r1_distill"):
    null, empty, alone = rendered(name, content=None), rendered(name, content=""), jinja_alone(name, content=None)
    print(f"\n{name}\n  null:        {null!r}\n  empty text:  {empty!r}\n  Jinja, null: {alone!r}")
    checks[f"{name}: null cannot be rendered"] = "has no attribute 'content'" in null
    checks[f"{name}: Jinja alone writes the call for null"] = "weather" in alone and "Bonn" in alone.split("weather")[1]
checks["V3: an empty text is rendered as null should be"] = rendered("deepseekv3", content="") == jinja_alone(
    "deepseekv3", content=None
)
lost = rendered("deepseek_r1_distill", content="")
checks["R1 distillates: with an empty text the call is gone, its answer stays"] = (
    "weather" not in lost and "7 degrees" in lost
)
qwen = {rendered("qwen3", content=None), rendered("qwen3", content=""), rendered("qwen3")}
checks["control, Qwen3: null, empty and absent are the same, with the call"] = len(qwen) == 1 and "weather" in qwen.pop()
print()
for what, holds in checks.items():
    print(f"{'yes' if holds else 'NO '}  {what}")
sys.exit(0 if all(checks.values()) else 1)
PY
cd "$work"
"$work/venv/bin/python" show.py
