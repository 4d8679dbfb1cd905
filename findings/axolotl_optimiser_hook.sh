#!/usr/bin/env bash
# A plugin of Axolotl may make the scheduler but not the optimiser, and is told twice that training is over.
#
# Versions   Axolotl 0.19.0 with all that it asks for (Transformers 5.16.1, PEFT 0.20.0, TRL 1.9.0), torch 2.13.0: run.
#            Axolotl 0.21.0, for Python 3.12 and later: its wheel is read.
# Ground     BasePlugin lists create_optimizer and create_lr_scheduler side by side, with the same promise, and the
#            manager of plugins has a method for each that asks every plugin in turn.
# Behaviour  1. Nothing calls the manager's create_optimizer. A plugin's optimiser is never asked for, and nothing says so.
#            2. post_train is called after the last step and once more after the model has been saved.
# Seen       `axolotl train`, a LoRA adapter on a tiny Qwen3, two steps, a plugin that counts calls and offers SGD: 19 of 24
#            hooks are called; create_lr_scheduler once, and it is handed an AdamW; create_optimizer never; post_train
#            twice; load_adapter, get_adapter_capabilities, on_config_validation_error and on_rollouts_scored wait for
#            another kind of run. In the source of both versions every call of create_optimizer is that of the manager's
#            own loop or of a Trainer, and the scheduler's mixin does call the manager.
# Exit code  0 still so, 1 changed, 2 could not be installed. Needs about 5 GB of disk for its time.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
  "${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 axolotl==0.19.0 &&
  "$work/venv/bin/python" -m pip download -qq --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 --dest "$work/wheel" axolotl==0.21.0
} || { echo "the pinned packages could not be installed"; exit 2; }
cat > "$work/base.py" <<'PY'
"""Writes a random Qwen3 of two layers, a tokenizer of words, and twenty conversations."""
import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

rows = [{"messages": [{"role": "user", "content": f"how much is {n} and one"}, {"role": "assistant", "content": f"it is {n + 1}"}]}
        for n in range(20)]
words = Tokenizer(models.WordLevel(unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
special = ["<pad>", "<end>", "<user>", "<assistant>"]
words.train_from_iterator(
    [turn["content"] for row in rows for turn in row["messages"]], trainers.WordLevelTrainer(special_tokens=special)
)
tokens = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
tokens.chat_template = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
tokens.save_pretrained("base")
torch.manual_seed(0)
Qwen3ForCausalLM(
    Qwen3Config(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )
).save_pretrained("base")
with open("rows.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
PY
cat > "$work/recorder.py" <<'PY'
"""A plugin with every hook of BasePlugin: each counts its calls and answers as the base class does."""
import inspect
import json
from pathlib import Path

import torch
from axolotl.integrations.base import BasePlugin

RECORD = Path(__file__).with_name("called.json")
HOOKS = [name for name, member in vars(BasePlugin).items() if inspect.isfunction(member) and not name.startswith("_")]
calls = dict.fromkeys(HOOKS, 0)
optimisers = []


def counting(name):
    base = getattr(BasePlugin, name)

    def hook(self, *args, **kwargs):
        calls[name] += 1
        answer = base(self, *args, **kwargs)
        if name == "create_lr_scheduler":
            given = inspect.signature(base).bind(self, *args, **kwargs).arguments["optimizer"]
            optimisers.append(type(getattr(given, "optimizer", given)).__name__)
        if name == "create_optimizer":
            trainer = inspect.signature(base).bind(self, *args, **kwargs).arguments["trainer"]
            answer = torch.optim.SGD([p for p in trainer.model.parameters() if p.requires_grad], lr=0.01)
        RECORD.write_text(json.dumps({"calls": calls, "optimisers": optimisers}))
        return answer

    return hook


Recorder = type("Recorder", (BasePlugin,), {name: counting(name) for name in HOOKS})
PY
cat > "$work/run.yaml" <<'YAML'
plugins: [recorder.Recorder]
base_model: base
datasets: [{path: rows.jsonl, type: chat_template, chat_template: tokenizer_default}]
adapter: lora
lora_r: 4
lora_alpha: 8
lora_target_modules: [q_proj, v_proj]
optimizer: adamw_torch
learning_rate: 0.01
lr_scheduler: constant
sequence_len: 64
micro_batch_size: 4
gradient_accumulation_steps: 1
num_epochs: 1
max_steps: 2
val_set_size: 0
bf16: false
fp16: false
output_dir: out
YAML
cat > "$work/show.py" <<'PY'
import ast
import json
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

WORK = Path(sys.argv[1])
PAIR = ("create_optimizer", "create_lr_scheduler")


def sites(sources, name):
    """Return (file, what it is called on) for each call of a method of this name."""
    found = []
    for file, text in sorted(sources.items()):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                found.append((file, ast.unparse(node.func.value)))
    return found


def of_wheel(path):
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".py")}


import axolotl  # noqa: E402

package = Path(axolotl.__file__).parent
sources = {
    version("axolotl"): {f"axolotl/{file.relative_to(package)}": file.read_text() for file in package.rglob("*.py")},
    "0.21.0": of_wheel(next((WORK / "wheel").glob("axolotl-0.21.0-*.whl"))),
}
record = json.loads((WORK / "called.json").read_text())
calls = record["calls"]
print({name: version(name) for name in ("axolotl", "transformers", "peft", "trl", "torch")})
print(f"\none `axolotl train`, calls of each of the {len(calls)} hooks of BasePlugin")
for name, count in calls.items():
    print(f"  {count}  {name}")
print(f"  optimiser handed to create_lr_scheduler: {record['optimisers']}")
checks = {
    "run: the scheduler's hook is called, the optimiser's is not": [calls[name] for name in reversed(PAIR)] == [1, 0],
    "run: the optimiser is Axolotl's own": record["optimisers"] == ["AdamW"],
    "run: post_train is called twice": calls["post_train"] == 2,
    "run: 19 of 24 hooks are called": (sum(map(bool, calls.values())), len(calls)) == (19, 24),
}
for release, files in sources.items():
    found = {name: sites(files, name) for name in PAIR}
    print(f"\ncalls in the source of {release}")
    for name in PAIR:
        for file, receiver in found[name]:
            print(f"  {receiver}.{name}  in {file}")
    receivers = {name: {receiver for _, receiver in found[name]} for name in PAIR}
    checks[f"source of {release}: no call of the manager's create_optimizer"] = (
        "plugin" in receivers[PAIR[0]] and receivers[PAIR[0]] <= {"plugin", "super()", "trainer"}
    )
    checks[f"source of {release}: the manager's create_lr_scheduler is called"] = "plugin_manager" in receivers[PAIR[1]]
print()
for name, holds in checks.items():
    print(f"{'as described' if holds else 'CHANGED     '}  {name}")
sys.exit(0 if all(checks.values()) else 1)
PY
cd "$work"
export HOME="$work" HF_HOME="$work/hub" HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES="" AXOLOTL_DO_NOT_TRACK=1 DO_NOT_TRACK=1
"$work/venv/bin/python" -W ignore base.py > base.log 2>&1 || { cat base.log; exit 1; }
PYTHONPATH="$work" "$work/venv/bin/python" -m axolotl.cli.train run.yaml > train.log 2>&1 || { tail -40 train.log; exit 1; }
"$work/venv/bin/python" -W ignore show.py "$work"
