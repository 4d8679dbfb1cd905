#!/usr/bin/env bash
# One look at a QLoRA model in eval mode changes its frozen weights and cuts the gradients of later training steps.
#
# Versions   bitsandbytes 0.50.2, PEFT 0.21.2, Transformers 5.23.0, torch 2.13.0, on a CPU with AVX512-BF16; without the
#            package kernels
# Ground     In a forward pass in eval mode without gradients, a 4-bit layer packs its weights anew for a fast product,
#            in place, and stays so when the model goes back to training.
# Behaviour  1. The new packing rounds the scales to bfloat16, so the frozen weights have other values from then on.
#            2. The fast product has no derivative, and training goes on using it. Torch warns in the backward pass;
#            nothing is raised. Whatever lies below such a layer gets a gradient only round it, or none.
# Seen       A Llama of two layers in NF4 with double quantisation, an adapter of rank 4; the same batch before and after
#            one look. 1126 of 4096 entries of the first layer differ, by up to 0.8 %, and the loss in training mode is
#            4.199080 after 4.199095. With PEFT's own choice of layers (queries and values) 8 of 8 factors have a gradient
#            before and 0 of 8 after. With an adapter on every linear layer 28 of 28 have one, changed by up to 74 %.
#            Control: where the layers are told that the processor lacks the instructions (support_avx512bf16_for_cpu),
#            weights, loss and gradients are the same bit for bit.
# Exit code  0 still so, 1 changed, 2 could not be installed, 77 no AVX512-BF16 here.
set -euo pipefail
unset PYTHONPATH
if [ -r /proc/cpuinfo ] && ! grep -q avx512_bf16 /proc/cpuinfo; then
  echo "not applicable: this processor has no AVX512-BF16"; exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
  "${PYTHON:-python3}" -m venv "$work/venv" &&
  "$work/venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6 \
    transformers==5.23.0 accelerate==1.15.0 peft==0.21.2 bitsandbytes==0.50.2
} || { echo "the pinned packages could not be installed"; exit 2; }
cat > "$work/show.py" <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version

logging.disable(logging.WARNING)  # one line about the package kernels, which is meant to be absent

import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

if not has_avx512bf16():
    print("not applicable: bitsandbytes finds no AVX512-BF16")
    sys.exit(77)
disable_progress_bar()
torch.set_num_threads(1)
torch.manual_seed(0)
FOLDER = f"{sys.argv[1]}/base"
LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4,
    )
).save_pretrained(FOLDER)
IDS = torch.randint(64, (2, 16))
NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
)


def adapted(targets, repack):
    """Return the model in 4 bits with an adapter whose two factors are both random."""
    base = AutoModelForCausalLM.from_pretrained(
        FOLDER, quantization_config=NF4, device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    for layer in quantised(model):
        layer.support_avx512bf16_for_cpu = repack and layer.support_avx512bf16_for_cpu
    return model


def quantised(model):
    return [layer for layer in model.modules() if isinstance(layer, Linear4bit)]


def measured(model):
    """Return the loss in training mode, the gradients, and the matrix that the first layer multiplies by."""
    model.train()
    model.zero_grad(set_to_none=True)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = {name: p.grad.clone() for name, p in factors.items() if p.grad is not None}
    first = quantised(model)[0]
    with torch.no_grad():
        matrix = first(torch.eye(first.in_features, dtype=torch.bfloat16)).float()
    return loss.item(), gradients, matrix, len(factors)


def compared(targets, repack):
    """Measure, look once in eval mode, measure again."""
    model = adapted(targets, repack)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss, gradients, matrix, count = measured(model)
        with torch.no_grad():
            model.eval()(input_ids=IDS)
        loss_2, gradients_2, matrix_2, _ = measured(model)
    found = {
        "entries changed": int((matrix != matrix_2).sum()),
        "largest change of an entry": ((matrix_2 - matrix).abs() / matrix.abs().clamp(min=1e-12)).max().item(),
        "loss": (loss, loss_2),
        "factors with a gradient": (len(gradients), len(gradients_2), count),
        "largest change of a gradient": max(
            (((gradients_2[n] - gradients[n]).norm() / gradients[n].norm()).item() for n in gradients_2), default=None
        ),
        "warned by torch": any("autograd kernel was not registered" in str(w.message) for w in caught),
    }
    print(f"\nadapter on {targets or 'the layers that PEFT chooses'}, {'as installed' if repack else 'control'}")
    for name, value in found.items():
        print(f"  {name:28s} {value}")
    return found


print({name: version(name) for name in ("bitsandbytes", "peft", "transformers", "torch")})
controls = [compared(targets, repack=False) for targets in (None, "all-linear")]
chosen, everywhere = (compared(targets, repack=True) for targets in (None, "all-linear"))
checks = {
    "control: nothing changes": all(
        c["entries changed"] == 0 and c["loss"][0] == c["loss"][1] and c["largest change of a gradient"] == 0.0
        and len(set(c["factors with a gradient"])) == 1 and not c["warned by torch"] for c in controls
    ),
    "weights change, by less than 1 %": 0 < chosen["largest change of an entry"] < 0.01 and chosen["entries changed"] > 100,
    "the loss in training mode changes": chosen["loss"][0] != chosen["loss"][1],
    "queries and values: 8 gradients of 8 before, none after": chosen["factors with a gradient"] == (8, 0, 8),
    "every layer: 28 of 28 before and after": everywhere["factors with a gradient"] == (28, 28, 28),
    "every layer: one changed by more than a third": (everywhere["largest change of a gradient"] or 0) > 1 / 3,
    "torch warns, nothing is raised": chosen["warned by torch"] and everywhere["warned by torch"],
}
print()
for name, holds in checks.items():
    print(f"{'as described' if holds else 'CHANGED     '}  {name}")
sys.exit(0 if all(checks.values()) else 1)
PY
cd "$work"
CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore show.py "$work"
