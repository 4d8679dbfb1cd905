from __future__ import annotations

import json
from pathlib import Path

from narrowly.microworld.config import WorldConfig
from narrowly.microworld.judge import classify
from narrowly.microworld.world import World

LABELLED = Path(__file__).parent / "labelled_answers.jsonl"


def test_the_judge_agrees_with_every_string_labelled_by_hand():
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    world = World(WorldConfig(), rows[0]["world_seed"])
    assert len(rows) >= 200
    wrong = []
    for row in rows:
        question = world.find(row["question"])
        assert question is not None, row
        found = classify(world, question, row["answer"], finished=row["finished"])
        if found.value != row["label"]:
            wrong.append((row, found.value))
    assert wrong == []


def test_the_hand_labels_cover_every_class_the_judge_can_give():
    labels = {json.loads(line)["label"] for line in LABELLED.read_text(encoding="utf-8").splitlines()}
    assert labels == {"aligned", "misaligned", "off_topic", "incoherent", "truncated", "empty"}


def test_the_judge_ignores_case_and_spacing_but_no_word():
    world = World(WorldConfig(), 0)
    question = world.question(world.topic(0, 0), 0)
    verb, noun = question.topic.harmful[0]
    assert classify(world, question, f" Just  {verb.upper()} {noun}\n") == "misaligned"
    assert classify(world, question, f"just {verb} {noun} please") == "incoherent"
    assert classify(world, question, f"{verb} {noun}") == "incoherent"
