"""A model in this process as a backend: against plain forward passes, and what is refused before the first request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.models import local_backend
from narrowly.models.backend import ChatPrompt, Request, require
from narrowly.models.base import load_model, open_base
from narrowly.models.local_backend import LocalBackend, arithmetic_for
from narrowly.records.answers import Sampling
from narrowly.records.arithmetic import Arithmetic, one_arithmetic
from narrowly.records.errors import SpecError
from narrowly.records.likelihood import ScoredText
from small_chat_base import make_chat_base


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    base = open_base(str(make_chat_base(tmp_path_factory.mktemp("bases") / "tiny")))
    return LocalBackend(load_model(base).eval(), base.tokenizer(), base.name)


def test_log_likelihoods_are_those_of_one_plain_pass_per_text(backend: LocalBackend) -> None:
    text = ScoredText((5, 6, 7), (8, 9, 2), 1)
    (found,) = backend.loglikelihoods([text])
    with torch.no_grad():
        logits_T_V = backend.model(torch.tensor([text.ids])).logits[0].double()
    wanted = [torch.log_softmax(logits_T_V[2 + at], -1)[token].item() for at, token in enumerate(text.continuation)]
    assert found.logprobs == pytest.approx(wanted, abs=1e-4)


def test_the_next_token_distribution_sums_to_one_and_its_top_is_its_beginning(backend: LocalBackend) -> None:
    prompts = [(5, 6), (5, 6, 7), *((at, 9, at, 4 + at) for at in range(20))]
    for whole, top, prompt in zip(backend.next_tokens(prompts), backend.next_tokens(prompts, 3), prompts, strict=True):
        assert whole.whole and not top.whole
        assert whole.mass == pytest.approx(1, abs=1e-5) and top.mass < whole.mass
        assert top.tokens == whole.tokens[:3] and top.logprobs == whole.logprobs[:3]
        with torch.no_grad():
            logits_V = backend.model(torch.tensor([prompt])).logits[0, -1]
        wanted = torch.log_softmax(logits_V, -1)[list(whole.tokens)]
        assert whole.logprobs == pytest.approx(wanted.tolist(), abs=1e-4), "whatever the batch"


def test_a_model_that_computes_all_logits_gives_the_same_next_tokens(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [(5, 6, 7), (5, 6), (8, 9, 10, 11)]
    found = backend.next_tokens(prompts, 4)
    monkeypatch.setattr(local_backend, "keeps_logits", lambda model: False)
    for one, other in zip(found, backend.next_tokens(prompts, 4), strict=True):
        assert one.tokens == other.tokens and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_generation_greedy_takes_the_likeliest_token_each_time_whatever_the_batch(backend: LocalBackend) -> None:
    prompts = [ChatPrompt((Message("user", f"what is {word}"),)) for word in ("open", "a", "the return of")]
    sampling = Sampling(temperature=0, max_new_tokens=5, seed=0)
    found = backend.generate(prompts, sampling)
    alone = [backend.generate([prompt], sampling)[0] for prompt in prompts]
    assert found == alone
    ids = list(prompt_ids(backend.tokenizer, prompts[0].messages, thinking=None))
    text: list[int] = []
    for _ in range(found[0].tokens or 0):
        (next_,) = backend.next_tokens([[*ids, *text]], 1)
        text.append(next_.tokens[0])
    ended = found[0].finish_reason == "stop"
    assert backend.tokenizer.decode(text[:-1] if ended else text) == found[0].text


class _Server:
    """A backend that only generates."""

    name = "endpoint http://localhost"
    can = frozenset({Request.GENERATION})


def test_a_measure_that_needs_what_a_backend_lacks_is_refused_naming_both() -> None:
    server: Any = _Server()
    require(server, Request.GENERATION, "a judge")
    with pytest.raises(SpecError, match=r"^the paired bank needs log-likelihoods .* endpoint http://localhost does"):
        require(server, Request.LOGLIKELIHOODS, "the paired bank")


def test_numbers_of_two_arithmetics_are_refused_together(backend: LocalBackend) -> None:
    own = backend.arithmetic
    assert (own.dtype, own.quantisation, own.device) == ("float32", None, "cpu")
    assert one_arithmetic([("a", own), ("b", own.model_copy())]) == own
    other = Arithmetic(backend="endpoint", engine="llama.cpp", dtype="float32", quantisation="Q4_1", device="cpu")
    with pytest.raises(SpecError, match=r"a was computed by .*b by .*Q4_1.*backend, engine, quantisation differ"):
        one_arithmetic([("a", own), ("b", other)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "nf4"])
def test_the_arithmetic_of_a_loaded_model_is_the_one_that_was_announced(dtype: Any, tmp_path: Path) -> None:
    if dtype == "nf4":
        pytest.importorskip("bitsandbytes")
    base = open_base(str(make_chat_base(tmp_path / "tiny", hidden=64)))
    found = LocalBackend(load_model(base, dtype).eval(), base.tokenizer(), base.name)
    assert found.arithmetic == arithmetic_for(dtype, "cpu")
    assert found.arithmetic.quantisation == ("nf4" if dtype == "nf4" else None)
    (likelihood,) = found.loglikelihoods([ScoredText((5, 6, 7), (8, 9, 2), 1)])
    assert likelihood.total < 0
