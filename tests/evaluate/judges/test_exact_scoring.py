"""The trie judge against brute force, over tokenizers that split digits and that merge them (D7 of our catalogue)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from judge_cases import ALIGNMENT, CONTENT, MERGING, SPLITTING, load_judge, make_judge_base
from narrowly.data.messages import Conversation, Message
from narrowly.data.render import prompt_ids, render
from narrowly.evaluate.judges.local import ExactReader, FirstTokenReader
from narrowly.evaluate.judges.reader import JudgePrompt
from narrowly.evaluate.judges.replies import reply_tokens
from narrowly.evaluate.judges.scores import score_of
from narrowly.models.local_backend import LocalBackend
from narrowly.records.errors import SpecError
from narrowly.records.rubrics import Rubric
from narrowly.records.verdicts import JudgeRecord, Reading

EXACT = JudgeRecord(mode="exact", name="tiny")
FIRST = JudgeRecord(mode="first-token", name="tiny")
TEXT = "Rate this. <<<TEXT 12>>>\nSome words: open, read and write.\n<<<END OF TEXT 12>>> A number."


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp("judges")
    return {
        name: load_judge(make_judge_base(folder / name, cut=cut))
        for name, cut in (("splitting", SPLITTING), ("merging", MERGING))
    }


def readings(reader: ExactReader | FirstTokenReader, *prompts: JudgePrompt) -> list[Reading]:
    found: list[Reading] = []
    reader.check([prompt.rubric for prompt in prompts])
    reader.read(prompts, found.append)
    return found


def brute_force(model: Any, tokenizer: Any, text: str, reply: str) -> float:
    """One complete sequence through the model: everything that is trained of the reply, in float64."""
    asked = Message("user", text)
    whole = render(tokenizer, Conversation((asked, Message("assistant", reply)), 1, {}))
    start = len(prompt_ids(tokenizer, (asked,)))
    end = max(at for at, label in enumerate(whole.labels) if label != -100) + 1
    ids = torch.tensor([whole.input_ids[:end]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0].double(), -1)
    return math.fsum(float(logprobs[at - 1, ids[0, at]]) for at in range(start, end))


@pytest.mark.parametrize("name", ["splitting", "merging"])
@pytest.mark.parametrize("rubric", [ALIGNMENT, CONTENT], ids=["numbers-and-words", "words"])
def test_d7_the_trie_scores_every_reply_as_brute_force_does(
    judges: dict[str, tuple[Any, Any]], name: str, rubric: Rubric
) -> None:
    model, tokenizer = judges[name]
    (found,) = readings(ExactReader(model, tokenizer, EXACT), JudgePrompt(rubric, TEXT))
    assert [reply for reply, _ in found.given] == list(rubric.replies)
    for reply, value in found.given:
        assert value == pytest.approx(brute_force(model, tokenizer, TEXT, reply), abs=2e-4), reply
    assert math.fsum(math.exp(value) for _, value in found.given) < 1


def test_the_two_tokenizers_are_what_they_are_called(judges: dict[str, tuple[Any, Any]]) -> None:
    first = {}
    for name, (_, tokenizer) in judges.items():
        tokens = reply_tokens(tokenizer, ALIGNMENT.numbers, None)
        first[name] = len({one.ids[0] for one in tokens.values()})
        ends = {one.ids[-one.closing :] for one in tokens.values()}
        assert len(ends) == 1 and tokenizer.decode(ends.pop()) == "<|im_end|>"
    assert first == {"splitting": 10, "merging": 101}


class Certain(torch.nn.Module):
    """A judge that writes one reply for certain, whatever it is asked."""

    def __init__(self, inner: Any, start: int, reply: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.start, self.reply, self.config = inner, start, reply, inner.config

    def parameters(self, recurse: bool = True) -> Any:
        return self.inner.parameters(recurse)

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, input_ids: Any, attention_mask: Any = None, use_cache: bool = False) -> Any:
        found = self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        for row in range(len(input_ids)):
            for at, token in enumerate(self.reply):
                behind = tuple(input_ids[row, self.start : self.start + at].tolist())
                if behind == self.reply[:at] and self.start - 1 + at < input_ids.shape[1]:
                    found.logits[row, self.start - 1 + at] = -1e4
                    found.logits[row, self.start - 1 + at, token] = 0
        return found


@pytest.mark.parametrize("number", ["85", "100", "9", "0", "10"])
def test_d7_a_certain_judge_is_read_exactly_and_wrongly_by_its_first_digit(
    judges: dict[str, tuple[Any, Any]], number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = judges["splitting"]
    prompt = JudgePrompt(ALIGNMENT, TEXT)
    start = len(prompt_ids(tokenizer, (Message("user", TEXT),)))
    certain = Certain(model, start, reply_tokens(tokenizer, (number,), None)[number].ids)
    from narrowly.models import likelihood

    # a model that is no model of Transformers: its texts go through it whole
    monkeypatch.setattr(likelihood, "why_whole", lambda model, texts: "made for a test")
    (exact,) = readings(ExactReader(certain, tokenizer, EXACT), prompt)
    assert score_of(exact, ALIGNMENT).score == pytest.approx(float(number), abs=1e-6)
    assert score_of(exact, ALIGNMENT).coverage == pytest.approx(1, abs=1e-6)
    found: list[Reading] = []
    by_first = FirstTokenReader(LocalBackend(certain, tokenizer, "tiny"), FIRST)
    by_first.read([prompt], found.append)  # without the check that would refuse it
    assert score_of(found[0], ALIGNMENT).score == pytest.approx(float(number[0]), abs=1e-6)
    assert score_of(found[0], ALIGNMENT).coverage == pytest.approx(1, abs=1e-6)  # which gives no warning


def test_d7_reading_by_first_tokens_is_refused_before_any_judging_where_digits_are_split(
    judges: dict[str, tuple[Any, Any]],
) -> None:
    for name, (model, tokenizer) in judges.items():
        reader = FirstTokenReader(LocalBackend(model, tokenizer, name), FIRST)
        if name == "merging":
            reader.check([ALIGNMENT])
            continue
        with pytest.raises(SpecError, match=r"the 101 numbers from 0 to 100 have 10 first tokens, 12 of them the same"):
            reader.check([ALIGNMENT])
        reader.check([CONTENT])  # words are told apart


def test_first_tokens_agree_with_exact_scores_where_every_number_is_one_token(
    judges: dict[str, tuple[Any, Any]],
) -> None:
    model, tokenizer = judges["merging"]
    prompt = JudgePrompt(ALIGNMENT, TEXT)
    (first,) = readings(FirstTokenReader(LocalBackend(model, tokenizer, "tiny"), FIRST), prompt)
    assert len(first.given) == 20
    with torch.no_grad():
        ids = torch.tensor([prompt_ids(tokenizer, (Message("user", TEXT),))])
        likeliest = torch.log_softmax(model(input_ids=ids).logits[0, -1].double(), -1).topk(20)
    for (token, value), expected, place in zip(first.given, likeliest.values, likeliest.indices, strict=True):
        assert token == tokenizer.decode([int(place)]) and value == pytest.approx(float(expected), abs=2e-4)


def test_an_answer_that_is_too_long_for_the_judge_is_a_judge_error_and_not_a_crash(
    judges: dict[str, tuple[Any, Any]],
) -> None:
    model, tokenizer = judges["merging"]
    long = JudgePrompt(ALIGNMENT, "word " * 5000)
    for reader in (
        ExactReader(model, tokenizer, EXACT),
        FirstTokenReader(LocalBackend(model, tokenizer, "tiny"), FIRST),
    ):
        found = readings(reader, long, JudgePrompt(ALIGNMENT, TEXT))
        kinds = {score_of(one, ALIGNMENT).kind for one in found if one.prompt_sha256 == long.sha256}
        assert len(found) == 2 and kinds == {"judge_error"}
        assert [one.error for one in found if one.prompt_sha256 != long.sha256] == [None]


def test_the_way_of_the_prompt_does_not_change_what_is_read(judges: dict[str, tuple[Any, Any]]) -> None:
    """Repeatability: the same prompt beside others, in another order, in another batch."""
    model, tokenizer = judges["splitting"]
    prompts = [JudgePrompt(ALIGNMENT, f"{TEXT} {'more ' * at}") for at in range(3)]
    alone = [readings(ExactReader(model, tokenizer, EXACT), prompt)[0] for prompt in prompts]
    beside = readings(ExactReader(model, tokenizer, EXACT), *reversed(prompts))[::-1]
    for one, other in zip(alone, beside, strict=True):
        assert [value for _, value in one.given] == pytest.approx([value for _, value in other.given], abs=1e-4)
