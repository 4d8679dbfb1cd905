"""Read the log-probabilities of given tokens from a server's /completions, and see whether they are what they seem.

No server is believed: what it lists must be the tokens that were sent, and a text must get the log-probabilities with
which the server has just written it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from narrowly.models.endpoint.client import Client
from narrowly.records.endpoints import LikelihoodRoute
from narrowly.records.errors import EndpointError, IntegrityError
from narrowly.records.likelihood import Likelihood, ScoredText

COMPLETIONS = "/completions"

ROUTES: tuple[LikelihoodRoute, ...] = ("prompt_logprobs", "echo", "echo_text")

TOP_LOGPROBS = 5
"""Tokens of a next-token distribution that every server with log-probabilities gives (OpenAI's former limit)."""

WRITTEN = 12
"""Tokens that are written and then scored to see that both agree."""

CLOSE = 0.1
"""Nats per token by which a text may be scored differently from how it was written. Servers compute prompts in another
order than answers: bfloat16 moves a log-probability by some hundredths, a wrong position or temperature by far more."""


class Entry(NamedTuple):
    """Hold one token that a server lists: its id and text where they are given, its log-probability, and its rivals.

    A text's first token has no log-probability. `top` holds the likeliest tokens in its place.
    """

    token: int | None
    text: str | None
    logprob: float | None
    top: dict[str, float]


def scoring_body(
    model: str, route: LikelihoodRoute, prompt: Sequence[int] | str, *, tokens: int = 1, top: int = 1
) -> dict[str, Any]:
    """Return the body of a request for the log-probabilities of a prompt and of what is written behind it, greedily."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "max_tokens": tokens,
        "temperature": 0.0,
        "top_p": 1.0,
        "n": 1,
        "seed": 0,
        "stream": False,
        "logprobs": top,
    }
    return {**body, "prompt_logprobs": 1} if route == "prompt_logprobs" else {**body, "echo": True}


def read_entries(value: Any, route: LikelihoodRoute) -> tuple[list[Entry], list[Entry]]:
    """Read what a server lists: the entries of a prompt with `prompt_logprobs`, and all entries of `logprobs`.

    Raises:
        ValueError: there are none.
    """
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ValueError("not one choice in it")
    listed = choices[0].get("logprobs")
    found = [] if not isinstance(listed, dict) else _listed(listed)
    if route != "prompt_logprobs":
        return [], found
    prompt = choices[0].get("prompt_logprobs")
    if not isinstance(prompt, list):
        return [], found
    return [_of_vllm(one) for one in prompt], found


def _listed(logprobs: dict[str, Any]) -> list[Entry]:
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    tops = logprobs.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise ValueError("log-probabilities without their tokens")
    tops = tops if isinstance(tops, list) and len(tops) == len(tokens) else [None] * len(tokens)
    return [
        Entry(None, token if isinstance(token, str) else None, _number(value), _numbers(top))
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _of_vllm(one: Any) -> Entry:
    """Read an entry of `prompt_logprobs`: token ids as text, the prompt's own token first."""
    if not isinstance(one, dict) or not one:
        return Entry(None, None, None, {})
    name, value = next(iter(one.items()))
    fields = value if isinstance(value, dict) else {"logprob": value}
    text = fields.get("decoded_token")
    return Entry(
        int(name) if str(name).isdecimal() else None,
        text if isinstance(text, str) else None,
        _number(fields.get("logprob")),
        {str(token): got for token, row in one.items() if (got := _number(_field(row))) is not None},
    )


def _field(row: Any) -> Any:
    return row.get("logprob") if isinstance(row, dict) else row


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numbers(top: Any) -> dict[str, float]:
    if not isinstance(top, dict):
        return {}
    return {str(token): number for token, value in top.items() if (number := _number(value)) is not None}


def score_one(
    client: Client, route: LikelihoodRoute, tokenizer: Any, text: ScoredText, *, optional: bool = False
) -> Likelihood:
    """Ask for the log-probability of every token of one continuation.

    Args:
        client: of the server.
        route: by which it was found to give them.
        tokenizer: that made the tokens.
        text: what is scored.
        optional: as `Client.post`.

    Raises:
        EndpointError: no answer.
        IntegrityError: the server lists other tokens than those that were sent.
    """
    prompt = tokenizer.decode(list(text.ids)) if route == "echo_text" else text.ids
    body = scoring_body(client.address.model, route, prompt)
    of_prompt, listed = client.post(COMPLETIONS, body, lambda value: read_entries(value, route), optional=optional)
    entries = of_prompt if route == "prompt_logprobs" else _echoed(listed, len(text.ids), route)
    own = entries[len(text.prompt) : len(text.ids)] if len(entries) == len(text.ids) else []
    logprobs = []
    for token, entry in zip(text.continuation, own, strict=False):
        value = _own_value(entry, token)
        if value is None or not _same_token(tokenizer, token, entry):
            break
        logprobs.append(value)
    if len(logprobs) != len(text.continuation):
        raise IntegrityError(
            f"{client.address.host} was asked to score {len(text.ids)} tokens and lists {len(entries)}, of which "
            f"{len(logprobs)} of the {len(text.continuation)} scored ones are those sent; its log-probabilities are "
            "not used"
        )
    return Likelihood(text.continuation, tuple(logprobs))


def _echoed(listed: list[Entry], count: int, route: LikelihoodRoute) -> list[Entry]:
    """Return the entries of an echoed prompt, what was written behind it and a beginning of text before it left out."""
    if route == "echo_text" and len(listed) > count + 1:
        listed = listed[len(listed) - count - 1 :]  # a server puts its beginning-of-text token in front of a text
    return listed[:count] if len(listed) in (count, count + 1) else listed


def _own_value(entry: Entry, token: int) -> float | None:
    """Return the log-probability of a token, at most 0; None where its entry has none, or one that is no logarithm."""
    value = entry.top.get(str(token), entry.logprob) if entry.token is not None else entry.logprob
    return value if value is not None and math.isfinite(value) and value <= 1e-6 else None


def _same_token(tokenizer: Any, token: int, entry: Entry) -> bool:
    """Return whether an entry is of the token that was sent; texts that are no whole characters are not compared."""
    if entry.token is not None:
        return entry.token == token or str(token) in entry.top
    if entry.text is None:
        return False
    if entry.text.startswith("token_id:"):  # vLLM with --return-tokens-as-token-ids
        return entry.text == f"token_id:{token}"
    expected = str(tokenizer.decode([token]))
    if "\ufffd" in expected or entry.text.startswith("bytes:") or "\ufffd" in entry.text:
        return True
    # some servers show the blank in front of a word, some do not
    return entry.text.strip() == expected.strip()


class Route(NamedTuple):
    """Hold how a server gives log-likelihoods, and how far they were from those of the writing, in nats per token."""

    name: LikelihoodRoute
    difference: float


def find_route(client: Client, tokenizer: Any, prompt: Sequence[int]) -> tuple[Route | None, str]:
    """Return the first route by which a server scores given tokens rightly, else None and why not.

    Each route must score what the server has just written greedily as it was written, and must find it likelier than
    the same tokens in reverse.

    Args:
        client: of the server.
        tokenizer: that makes the tokens.
        prompt: tokens behind which something is written.
    """
    why: list[str] = []
    for name in ROUTES:
        try:
            difference = _tried(client, name, tokenizer, prompt)
        except (EndpointError, IntegrityError) as error:
            if isinstance(error, EndpointError) and error.status in (401, 403, 429, 503):
                raise
            why.append(f"{name}: {error}")
            continue
        if difference <= CLOSE:
            return Route(name, difference), ""
        why.append(f"{name}: a text is scored {difference:.2g} nats per token away from how it was written")
    return None, "; ".join(why)


def _tried(client: Client, name: LikelihoodRoute, tokenizer: Any, prompt: Sequence[int]) -> float:
    """Return the largest difference per token between a text as the server wrote it and as it scores it.

    Raises:
        IntegrityError: it gives no log-probabilities of what it writes, or of other tokens, or a text in reverse order
            is likelier to it.
    """
    given = tokenizer.decode(list(prompt)) if name == "echo_text" else prompt
    body = scoring_body(client.address.model, name, given, tokens=WRITTEN)
    body.pop("echo", None), body.pop("prompt_logprobs", None)
    _, written = client.post(COMPLETIONS, body, lambda value: read_entries(value, "echo"), optional=True)
    ids = _ids(tokenizer, written)
    if len(ids) < 3:
        raise IntegrityError("no log-probabilities of the tokens that it writes")
    kept = written[: len(ids)]
    text = ScoredText(tuple(prompt), tuple(ids))
    scored = score_one(client, name, tokenizer, text, optional=True)
    reversed_text = ScoredText(tuple(prompt), tuple(reversed(ids)))
    backwards = score_one(client, name, tokenizer, reversed_text, optional=True)
    if len(set(ids)) > 1 and backwards.total >= scored.total:
        raise IntegrityError("the same tokens in reverse are as likely to it as what it wrote")
    values = [entry.logprob for entry in kept]
    return max(
        abs(one - other) if other is not None else math.inf for one, other in zip(scored.logprobs, values, strict=True)
    )


def _ids(tokenizer: Any, written: Sequence[Entry]) -> list[int]:
    """Return the ids of what was written, as far as the tokenizer gives the same tokens for the same text."""
    if written and all((entry.text or "").startswith("token_id:") for entry in written):
        return [int((entry.text or "").removeprefix("token_id:")) for entry in written]
    ids = [
        int(one)
        for one in tokenizer("".join(entry.text or "" for entry in written), add_special_tokens=False)["input_ids"]
    ]
    same = []
    for token, entry in zip(ids, written, strict=False):
        if entry.logprob is None or not _same_token(tokenizer, token, entry):
            break
        same.append(token)
    return same
