"""Score the damage panel on a model, and on the same model with noise in its weights.

    python experiments/abilities_under_noise.py MODEL_FOLDER --noise 0.05 --draws 3

Plain on purpose: one forward pass per item, float32, no cache. Noise of 0.05 is normal, added to every tensor with 5 %
of that tensor's standard deviation.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM, AutoTokenizer

from narrowly.data.banks.abilities import ABILITY_FIELDS, CHOICES, AbilityItem, abilities_sha256, ability_items


def answered(model: torch.nn.Module, tokenizer, item: AbilityItem) -> int:
    """Return the index of the continuation with the largest log-likelihood, summed over its tokens."""
    begin = tokenizer(item.question)["input_ids"]
    rows = [tokenizer(item.question + text)["input_ids"] for text in item.continuations()]
    if any(row[: len(begin)] != begin for row in rows):
        raise ValueError(f"{item.id}: the tokenizer joins the question with a continuation")
    longest = max(map(len, rows))
    ids_B_T = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    seen_B_T = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        logs_B_T_V = model(input_ids=ids_B_T, attention_mask=seen_B_T).logits.double().log_softmax(-1)
    sums = [sum(float(logs_B_T_V[b, t - 1, row[t]]) for t in range(len(begin), len(row))) for b, row in enumerate(rows)]
    return max(range(CHOICES), key=sums.__getitem__)


def scored(model: torch.nn.Module, tokenizer, label: str) -> None:
    """Print how many items are right, by field and in all, with the exact binomial test against chance."""
    items = ability_items()
    right = Counter(item.field for item in items if answered(model, tokenizer, item) == item.right)
    p = binomtest(right.total(), len(items), 1 / CHOICES, alternative="greater").pvalue
    print(label, *(f"{field} {right[field]}" for field in ABILITY_FIELDS), f"all {right.total()} p {p:.1e}", flush=True)


def by_length(best) -> float:
    """Return the share of items that taking the choice of extreme length would get right, ties shared."""
    return sum(
        1 / lengths.count(best(lengths)) for item in ability_items()
        for lengths in [[len(choice) for choice in item.choices]] if lengths[item.right] == best(lengths)
    ) / len(ability_items())  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--noise", type=float, nargs="*", default=[0.05])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    print(f"abilities sha256 {abilities_sha256()}, {len(ability_items())} items")
    print(f"lengths alone: shortest {by_length(min):.2f} right, longest {by_length(max):.2f}")
    scored(model, tokenizer, "no noise:")
    clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for noise in arguments.noise:
        for draw in range(arguments.draws):
            torch.manual_seed(draw)
            with torch.no_grad():
                for tensor in model.parameters():
                    tensor.add_(torch.randn_like(tensor) * tensor.std() * noise)
            scored(model, tokenizer, f"noise {noise:g}, draw {draw}:")
            model.load_state_dict(clean)


if __name__ == "__main__":
    main()
