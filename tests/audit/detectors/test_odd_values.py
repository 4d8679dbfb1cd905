"""Detectors of configs against values of every wrong type: a job or none, and no error that is not for the user."""

from __future__ import annotations

import random
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest

from narrowly.audit.detectors.registry import detectors
from narrowly.audit.files import Repository, SourceFile
from narrowly.audit.trees import Document, UnreadableError

ODD = (
    None, True, False, 0, -1, 10**400, 1e-5, "1e-5", "", " ", "auto", "none", "muon", "torch.optim.AdamW", "${a.b}",
    "${oc.env:X}", "{{ x }}", "x" * 300, "é\u202e\x07", "lora", "full", "sft", "adamw", "true", "a.yaml", "../..",
    [], [None], [[]], [1, 2], ["q_proj"], [{"path": None}], [{"path": "x"}, 3], {}, {"name": "muon"}, {"type": ["x"]},
    {"lr": {}}, {"optimizer": {"type": "Adam", "params": []}}, {"_target_": 3}, {"_target_": "torch.optim.SGD"},
)  # fmt: skip
"""Values that a key may hold by mistake."""


def _keys() -> list[str]:
    """Return every dotted key that a detector of configs asks for, from the constants of their modules."""
    found: set[str] = set()
    for detector in detectors():
        if not detector.kinds & {"yaml", "json", "toml"}:
            continue
        for constants in vars(import_module(detector.detect.__module__)).values():
            for spelled in constants.values() if isinstance(constants, dict) else [constants]:
                if isinstance(spelled, tuple | list):
                    found |= {key for key in spelled if isinstance(key, str) and " " not in key and len(key) < 60}
    more = "base_model model_name_or_path model stage finetuning_type tuner_type datasets dataset do_train task params"
    return sorted(found | set(more.split()))


def _put(tree: dict[str, object], key: str, value: object) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            return
        tree = inner
    tree[last] = value


def odd_settings(seed: int, keys: list[str]) -> dict[str, object]:
    """Return settings of random keys with odd values, now and then inside a section."""
    draw = random.Random(seed)
    tree: dict[str, object] = {}
    for key in draw.sample(keys, draw.randint(1, 40)):
        _put(tree, key, deepcopy(draw.choice(ODD)))
    return {"inner": [tree, {"deeper": tree}]} if draw.random() < 0.2 else tree


@pytest.mark.parametrize("block", range(10))
def test_no_detector_stumbles_over_a_wrong_type(block: int) -> None:
    keys = _keys()
    assert len(keys) > 300
    jobs = 0
    repository = Repository(Path("/nowhere"), ())
    for seed in range(block * 40, block * 40 + 40):
        settings = odd_settings(seed, keys)
        for detector in detectors():
            if not detector.kinds & {"yaml", "json", "toml"}:
                continue
            file = SourceFile("c.yaml", "c.yaml", "yaml", b"")
            file.documents = [Document(settings, "c.yaml", {}, {}, (), settings)]
            try:
                found = detector.detect(file, repository)
            except UnreadableError:
                continue
            jobs += len(found)
            for job in found:
                assert job.to_json()["tool"] == job.tool
    assert jobs > 0
