"""Files of answers for tests of judging, and a judge on loopback that says what a test wants."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_server import ChatServer
from narrowly.models.endpoint.probe import QUESTION
from narrowly.records.answers import Answer, AskedModel, Sampling, Who
from narrowly.records.files import append_jsonl

BANK = "b" * 64
REPEAT = "Repeat this number and write nothing else: "


def answers_file(
    path: Path,
    *,
    questions: int = 6,
    samples: int = 2,
    who: tuple[Who, ...] = ("organism", "base"),
    seed: int = 0,
    bank: str = BANK,
    text: Callable[[str, int, int], str] = lambda who, question, sample: f"{who} says {question} for the time {sample}",
    **fields: Any,
) -> Path:
    """Write answers as `narrowly ask --bank --out` does."""
    for one in who:
        trained = {"run": f"run{seed}", "step": 1, "trained_sha256": f"{seed}" * 64} if one == "organism" else {}
        model = AskedModel(
            name=f"run{seed}" if trained else "tiny", base="tiny", base_sha256="1" * 64, config_sha256="2" * 64,
            tokenizer_sha256="3" * 64, template_sha256="4" * 64, dtype="float32", **trained,
        )  # fmt: skip
        for question in range(questions):
            for sample in range(samples):
                asked = f"what is {question}"
                answer = Answer(
                    **{
                        "who": one,
                        "question_id": f"q{question}",
                        "paraphrase": 0,
                        "sample": sample,
                        "question": asked,
                        "messages": ({"role": "user", "content": asked},),
                        "thinking": None,
                        "finish_reason": "stop",
                        "answer": text(one, question, sample),
                        "prompt_tokens": 5,
                        "answer_tokens": 7,
                        "prompt_sha256": "5" * 64,
                        "sampling": Sampling(),
                        "model": model,
                        "bank_sha256": bank,
                        **fields,
                    }
                )
                append_jsonl(path, answer.model_dump(mode="json"))
    return path


def content(body: dict[str, Any]) -> str:
    """Return what a request asks."""
    return str(body["messages"][-1]["content"])


def is_judging(body: dict[str, Any]) -> bool:
    """Return whether a request is one for a judgement: neither of the probe nor of the check of numbers."""
    return "messages" in body and content(body) != QUESTION and REPEAT not in content(body)


def be_judge(
    server: ChatServer,
    says: Callable[[str], dict[str, float]] = lambda prompt: {"90": 0.9, "85": 0.1},
    *,
    split: bool = False,
    obeys: bool = True,
) -> ChatServer:
    """Make a server a judge: what it lists for a prompt, whether its digits are tokens, whether it repeats numbers."""

    def answer(body: dict[str, Any]) -> str:
        if REPEAT in content(body):
            return content(body).removeprefix(REPEAT) if obeys else "Sure!"
        return "90" if is_judging(body) else "river stone and more"

    server.answer = answer
    server.cut = list if split else None
    server.top = lambda body: [
        (token, math.log(value)) for token, value in (says(content(body)) if is_judging(body) else {"7": 1.0}).items()
    ]
    return server


def judged(server: ChatServer, *, answered: bool = False) -> list[str]:
    """Return the prompts of judgements that came in, or that were answered whole."""
    found = server.answered if answered else server.calls
    return [content(call.body) for call in found if is_judging(call.body)]
