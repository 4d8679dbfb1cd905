"""Python and shell scripts with parts cut, doubled and moved: each is read or skipped, none ends the scan."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from narrowly.audit.review import review

SOURCES = {
    "a.py": (
        "import hydra, torch, subprocess\nfrom trl import SFTConfig, SFTTrainer\nfrom datasets import load_dataset\n"
        "def build(model, *, lr: float = 1e-4, **rest):\n    kind = {'adamw': torch.optim.AdamW}['adamw']\n"
        "    return kind([{'params': model.parameters(), 'lr': lr}], **rest)\n"
        "with hydra.initialize(config_path='conf'):\n    cfg = hydra.compose('a', overrides=['~b', 'c.d=1'])\n"
        "args = SFTConfig(learning_rate=2e-5 if cfg.x else float('1e-5'), optim=f'adamw_{\"torch\"}')\n"
        "data = load_dataset('json', data_files=['x'])['train'].map(lambda r: r)\n"
        "SFTTrainer(m, args=args, train_dataset=data).train()\n"
        "optimizer = build(model, weight_decay=0.1)\nfor step in range(10):\n    loss.backward(); optimizer.step()\n"
        "subprocess.run(['axolotl', 'train', 'a.yaml', '--learning_rate', str(1e-5)])\n"
    ),
    "b.sh": (
        "#!/bin/bash\n#SBATCH --gres=gpu:4\nLR=${1:-2e-5}\nARGS=(--optim adamw_torch\n  --learning_rate $LR)\n"
        "cat > c.yaml <<EOF\nbase_model: m\nlearning_rate: $LR\nEOF\nfor lr in 1e-5 2e-5; do\n"
        "  srun bash -c \"cd x && torchrun --nproc_per_node $((2*4)) a.py ${ARGS[@]} ~b +c.d=1 '$@'\"\ndone\n"
        'CMD="accelerate launch /mnt/x/a.py --lr $lr"\n$CMD\naxolotl train c.yaml\n'
    ),
}


def mutated(text: str, chance: random.Random) -> str:
    """Return a text with one to four parts cut, doubled, moved or replaced by what parsers trip on."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text))
        end = min(len(text), start + chance.randint(1, 40))
        part = text[start:end]
        at = chance.randrange(len(text))
        odd = chance.choice(
            ["${", "$(", '"', "'", "(", "[" * 70, "\\\n", "<<EOF\n", "\0", "**", "lambda: ", "\x85", "~"]
        )
        text = chance.choice(
            [
                text[:start] + text[end:],
                text[:at] + part + text[at:],
                text[:start] + odd + text[end:],
                text[:at] + odd + text[at:],
            ]
        )
        text = text or "x"
    return text


@pytest.mark.parametrize("block", range(4))
def test_scripts_with_parts_cut_doubled_and_moved_are_read_or_skipped(block: int, tmp_path: Path) -> None:
    written = 0
    for seed in range(block * 30, block * 30 + 30):
        chance = random.Random(seed)
        for name, text in SOURCES.items():
            path = tmp_path / str(seed) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(mutated(text, chance).encode("utf-8", "surrogatepass"))
            written += 1
    found = review([tmp_path])
    assert found.files == written == 60
    assert found.jobs and all(skip.reason for skip in found.skipped)


def test_the_scripts_themselves_have_the_jobs_that_mutations_start_from(tmp_path: Path) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    assert {job.file for job in review([tmp_path]).jobs} == set(SOURCES)
