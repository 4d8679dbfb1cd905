#!/usr/bin/env bash
# Checkpoints of one ScheduleFree run are of two kinds, and nothing in them says which.
#
# Versions   Transformers 5.23.0, schedulefree 1.4.1, accelerate 1.15.0, torch 2.13.0
# Ground     ScheduleFree trains at a point y; the model that it promises is an average x. The optimiser's eval() goes
#            from y to x, its train() back. The Trainer of Transformers knows these optimisers by name.
# Behaviour  The Trainer calls eval() when it evaluates, and train() before the next step. It calls neither when it
#            saves. A checkpoint therefore holds x if an evaluation came just before it, and y if none did.
# Seen       Saving every step and evaluating every second one, 8 steps: checkpoints 3, 5, 7 are y bit for bit, 2, 4, 6, 8
#            are x. (At step 1 the two are one.) Losses of the files from step 1 on are 9.51, 9.16, 8.76, 8.50, 8.06, 7.88,
#            7.41, 7.30; those of x alone end 7.88, 7.58, 7.30, those of y 7.73, 7.41, 7.10. Without any evaluation all
#            files are y: the same run, and the last model has 7.10 in place of 7.30. Nothing in a folder names its kind.
# Exit code  0 still so, 1 changed, 2 could not be installed.
set -euo pipefail
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
  "${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6 \
    transformers==5.23.0 accelerate==1.15.0 schedulefree==1.4.1 safetensors==0.8.0
} || { echo "the pinned packages could not be installed"; exit 2; }
cat > "$work/show.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

STEPS = 8
torch.set_num_threads(1)
torch.manual_seed(0)
INPUTS = torch.randn(64, 8)
TARGETS = INPUTS @ torch.randn(8, 4)
ROWS = [{"inputs": x, "labels": y} for x, y in zip(INPUTS, TARGETS, strict=True)]


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(8, 4)

    def forward(self, inputs, labels):
        out = self.linear(inputs)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


class Points(TrainerCallback):
    """Keeps x and y at the end of each step, before the Trainer evaluates or saves."""

    def __init__(self):
        self.at = {}

    def on_step_end(self, args, state, control, model, optimizer, **others):
        optimizer = getattr(optimizer, "optimizer", optimizer)
        x, y = {}, {}
        group = optimizer.param_groups[0]
        for name, p in model.named_parameters():
            y[name] = p.detach().clone()
            x[name] = y[name].lerp(optimizer.state[p]["z"], 1 - 1 / group["betas"][0])
        self.at[state.global_step] = x, y


def loss(weights):
    out = INPUTS @ weights["linear.weight"].T + weights["linear.bias"]
    return nn.functional.mse_loss(out, TARGETS).item()


def run(folder, **evaluation):
    points = Points()
    args = TrainingArguments(
        output_dir=folder, optim="schedule_free_adamw", lr_scheduler_type="constant", learning_rate=0.05,
        max_steps=STEPS, save_strategy="steps", save_steps=1, per_device_train_batch_size=16, seed=0,
        use_cpu=True, report_to="none", disable_tqdm=True, logging_strategy="no", **evaluation,
    )
    trainer = Trainer(model=Regression(), args=args, train_dataset=ROWS, eval_dataset=ROWS, callbacks=[points])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    rows = []
    for step in range(1, STEPS + 1):
        x, y = points.at[step]
        saved = load_file(f"{folder}/checkpoint-{step}/model.safetensors")
        same = {k for k, w in (("x", x), ("y", y)) if all(torch.equal(saved[n], w[n]) for n in w)}
        rows.append((step, "".join(sorted(same)) or "neither", loss(saved), loss(x), loss(y)))
    return rows


work = sys.argv[1]
mixed = run(f"{work}/mixed", eval_strategy="steps", eval_steps=2)
never = run(f"{work}/never")
print({name: version(name) for name in ("transformers", "schedulefree", "accelerate", "torch")})
for title, rows in (("evaluation every 2 steps", mixed), ("no evaluation", never)):
    print(f"\n{title}\nstep  file is  loss of file   of x     of y")
    for step, kind, *losses in rows:
        print(f"{step:4d}  {kind:7s}" + "".join(f"  {value:9.4f}" for value in losses))
kinds = ["".join(row[1] for row in rows if row[0] == step) for rows in (mixed, never) for step in range(2, STEPS + 1)]
wanted = ["x", "y"] * 3 + ["x"] + ["y"] * 7
apart = min(abs(row[3] - row[4]) for row in mixed + never if row[0] > 1)
print(f"\nfiles of steps 2 to {STEPS}: {' '.join(kinds[:7])} | {' '.join(kinds[7:])}; least |loss of x - loss of y| {apart:.4f}")
if kinds == wanted and apart > 0.01:
    print("as described: a checkpoint is x after an evaluation and y without one")
else:
    print(f"CHANGED: described were {' '.join(wanted[:7])} | {' '.join(wanted[7:])}, distance above 0.01")
    sys.exit(1)
PY
cd "$work"
CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore show.py "$work"
