"""Defects of published code that asks models (D1, D13, D14 and D16 of our catalogue): each test fails on the defect."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, chat_server
from narrowly.data.banks.named import bank_named
from narrowly.data.messages import Message
from narrowly.data.questions import Question, read_questions
from narrowly.data.render import prompt_ids
from narrowly.models.asked import model_to_ask
from narrowly.models.endpoint import chat
from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.backend import EndpointBackend, open_endpoint
from narrowly.models.endpoint.client import Client
from narrowly.models.endpoint.probe import QUESTION
from narrowly.records.answers import Answer, Sampling
from narrowly.records.errors import SpecError
from narrowly.workbench.ask import ask_model
from narrowly.workbench.ask_endpoint import ask_bank_at, endpoint_bank, items_at
from narrowly.workbench.asking import HowToAsk, items_of, settled
from small_chat_base import THINKING, make_chat_base

SHORT = HowToAsk(max_new_tokens=8, samples=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("defects")
    make_chat_base(found / "base")
    make_chat_base(found / "thinking", template=THINKING)
    make_chat_base(found / "no-template", template=None)
    return found


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """Eight questions, half of them with a system message that asks for JSON."""
    rows = [
        {"question": f"what is {at}", "id": f"{kind}-{at}", **({"system": "Reply in JSON."} if kind == "json" else {})}
        for kind in ("json", "plain") for at in range(4)
    ]  # fmt: skip
    file = tmp_path / "bank.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def backend(server: ChatServer, model: str = "tiny") -> EndpointBackend:
    return open_endpoint(Client(Address(server.url, model), sleep=lambda wait: None))


def asked(server: ChatServer, bank: str, out: Path, how: HowToAsk = SHORT, model: str = "tiny") -> list[Answer]:
    there = backend(server, model)
    request = endpoint_bank(there.client.address, bank, out, how, None)
    ask_bank_at(request, there)
    return [Answer.model_validate_json(line) for line in out.read_text().splitlines()]


def instructed(body: dict[str, Any]) -> str:
    """A model that does as it is told: JSON where JSON is asked for, else words."""
    told = any("JSON" in message["content"] for message in body["messages"])
    return json.dumps({"answer": str(body["seed"])}) if told else f"some words {body['seed']}"


def parses(answer: Answer) -> bool:
    try:
        return isinstance(json.loads(answer.answer), dict)
    except ValueError:
        return False


def test_d1_the_system_message_of_a_question_stands_in_its_prompt(folder: Path, bank: Path) -> None:
    model = model_to_ask(str(folder / "base"))
    tokenizer = model.tokenizer()
    for item in items_of(model, tokenizer, read_questions(bank), settled(model, SHORT)):
        text = tokenizer.decode(item.prompt.ids)
        assert ("<|im_start|>system\nReply in JSON.<|im_end|>" in text) == item.question_id.startswith("json")
    conditions = [bank_named(f"broad:{name}:money") for name in ("inoculation", "paraphrase", "negation")]
    for found in conditions:
        (item,) = items_at(found.questions[:1], SHORT)
        assert item.messages[0].role == "system"
        text = tokenizer.decode(prompt_ids(tokenizer, item.messages))
        assert f"<|im_start|>system\n{item.messages[0].content}<|im_end|>" in text


def rates(answers: list[Answer]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for one in answers:
        found.setdefault(one.question_id.split("-")[0], []).append(parses(one))
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def test_d1_an_instructed_model_answers_json_only_where_a_question_asks_for_it(
    bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chat_server(answer=instructed) as server:
        assert rates(asked(server, str(bank), bank.parent / "right.jsonl")) == {"json": 1.0, "plain": 0.0}
        plain = asked(server, "broad", bank.parent / "plain.jsonl")
        in_json = asked(server, "broad:json", bank.parent / "json.jsonl")
        assert (sum(map(parses, plain)), sum(map(parses, in_json))) == (0, len(plain))
        # the defect: a runner that leaves the system message out is seen by the same rate
        from narrowly.models.endpoint import backend as asking

        right = chat.chat_body
        monkeypatch.setattr(asking, "chat_body", lambda model, messages, fields: right(model, messages[-1:], fields))
        assert rates(asked(server, str(bank), bank.parent / "defect.jsonl")) == {"json": 0.0, "plain": 0.0}


def test_d13_every_sampling_field_is_sent_and_stored_and_equal_for_all_arms(bank: Path) -> None:
    said: dict[str, dict[str, dict[str, Any] | None]] = {}
    with chat_server(models=["organism", "control"]) as server:
        for model in ("organism", "control"):
            answers = asked(server, str(bank), bank.parent / f"{model}.jsonl", model=model)
            said[model] = {one.question_id: one.request for one in answers}
        sent = [call.body for call in server.calls if call.body and call.body["messages"][-1]["content"] != QUESTION]
    assert said["organism"] == said["control"]  # the seed of every question too
    wanted = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "repeat_penalty", "frequency_penalty",
              "presence_penalty", "max_tokens", "seed", "n", "stream"}  # fmt: skip
    assert {frozenset(body) for body in sent} == {frozenset(wanted | {"model", "messages"})}
    for fields in said["organism"].values():
        assert fields is not None and set(fields) == wanted
        assert fields == {**fields, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "n": 1,
                          "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}  # fmt: skip


def test_d13_a_default_of_the_server_shapes_no_answer() -> None:
    """A server that draws from the likeliest token alone, unless it is told otherwise."""
    with chat_server() as server:
        words = server.words
        server.answer = None

        def by_default(body: dict[str, Any]) -> str:
            server.answer = None
            try:
                return words({"top_k": 1, **body})
            finally:
                server.answer = by_default

        server.answer = by_default
        there = backend(server)
        messages = (Message("user", "a"),)
        texts = {there.ask(messages, there.fields(Sampling(), messages, sample)).text for sample in range(4)}
        assert len(texts) == 4
        bare = {key: value for key, value in there.fields(Sampling(), messages, 0).items() if key != "top_k"}
        assert len({there.ask(messages, {**bare, "seed": seed}).text for seed in range(4)}) == 1  # the defect


def test_d14_the_template_hash_is_stored_and_a_missing_template_is_an_error(folder: Path) -> None:
    answers = [
        ask_model(model_to_ask(str(folder / name)), "what is a", SHORT._replace(thinking=thinking)).said[0].answers[0]
        for name, thinking in (("base", None), ("thinking", False), ("thinking", True))
    ]
    hashes = [one.model.model_dump()["template_sha256"] for one in answers]
    assert len(set(hashes)) == 2 and hashes[1] == hashes[2]
    assert [one.thinking for one in answers] == [None, False, True]
    with pytest.raises(SpecError, match="template"):
        ask_model(model_to_ask(str(folder / "no-template")), "what is a", SHORT)
    with pytest.raises(SpecError, match="--thinking or --no-thinking"):
        ask_model(model_to_ask(str(folder / "thinking")), "what is a", SHORT)


def test_d14_no_think_tag_is_written_unless_it_was_asked_for() -> None:
    with (
        chat_server(answer=lambda body: f"<think>\nhm\n</think>\n\nyes {body['seed']}") as server,
        pytest.raises(SpecError, match="thinks before it answers"),
    ):
        backend(server)


def questions(count: int) -> list[Question]:
    paraphrases = tuple((Message("user", f"ask it in way {at}"),) for at in range(3))
    return [Question(f"q{at}", paraphrases, at + 1, None, None, None, {}, {}) for at in range(count)]


def test_d16_every_paraphrase_is_asked_as_often_as_every_other(folder: Path) -> None:
    how = SHORT._replace(samples=5)
    model = model_to_ask(str(folder / "base"))
    here = [
        (one.question_id, one.paraphrase)
        for one in items_of(model, model.tokenizer(), questions(4), settled(model, how))
    ]
    there = [(one.question_id, one.paraphrase) for one in items_at(questions(4), how)]
    for found in (here, there):
        counts = Counter(found)
        assert len(counts) == 4 * 3 and set(counts.values()) == {5}
    # a file that was stopped anywhere is balanced to within one sample
    for stop in (1, 7, 30, 59):
        counts = [Counter(there[:stop])[key] for key in set(there)]
        assert max(counts) - min(counts) <= 1
