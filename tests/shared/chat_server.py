"""An OpenAI-compatible server on 127.0.0.1 that can be told to be any of the servers there are, and to fail."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

WORDS = "the a of river stone green open slow bread window seven garden light paper quiet north tea song wool copper"

PLAIN = frozenset(
    "model messages max_tokens temperature top_p n seed frequency_penalty presence_penalty stream logprobs "
    "top_logprobs stop".split()
)
TRANSFORMERS = PLAIN | {"generation_config"}


class Call(NamedTuple):
    """One request as it came in."""

    path: str
    body: dict[str, Any]
    authorization: str | None

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])


class Scorer:
    """Scores and continues token ids with a live model, as a server with prompt log-probabilities would."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer, self.lock = model, tokenizer, threading.Lock()

    def logprobs(self, ids: list[int]) -> Any:
        import torch

        with self.lock, torch.inference_mode():
            return torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)

    def run(self, ids: list[int], tokens: int) -> tuple[list[int], list[float | None]]:
        """Return the ids with a greedy continuation, and each one's log-probability."""
        whole, values = list(ids), self.logprobs(ids)
        found: list[float | None] = [None, *(float(values[at, token]) for at, token in enumerate(ids[1:]))]
        for _ in range(tokens):
            last = self.logprobs(whole)[-1]
            whole.append(int(last.argmax()))
            found.append(float(last.max()))
        return whole, found


class ChatServer(ThreadingHTTPServer):
    """Answers with words that follow from messages, seed and temperature.

    Attributes:
        calls: every request, in the order in which they came.
        answered: those that got a whole answer.
        fields: fields that it takes; None takes all in silence.
        samples, seeds, top_k, greedy_repeats: whether it honours them.
        one_seed: whether a request's seed is set for all requests when it arrives.
        choices, logprobs: what it makes of them: yes, ignored, refused, wrong, malformed.
        models: that it lists; None: no such request.
        key: that it wants.
        answer: called with a request's body in place of the words.
        fault: called with the number of a chat request and its body; names what goes wrong, or None.
        scorer, scorers: behind /completions, of all models or by name; None: no such request.
        routes: by which it gives log-probabilities of a prompt.
        shift: added to every prompt log-probability.
        slow: seconds per answer.
        cut: cuts an answer into its tokens; None cuts at blanks.
        top: called with a request's body for the likeliest first tokens and their log-probabilities; None lists none.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.calls: list[Call] = []
        self.answered: list[Call] = []
        self.fields: frozenset[str] | None = None
        self.samples = self.seeds = self.top_k = self.greedy_repeats = True
        self.one_seed = False
        self.choices = self.logprobs = "yes"
        self.models: list[str] | None = ["tiny"]
        self.key: str | None = None
        self.answer: Callable[[dict[str, Any]], str] | None = None
        self.fault: Callable[[int, dict[str, Any]], str | None] = lambda number, body: None
        self.scorer: Scorer | None = None
        self.scorers: dict[str, Scorer] = {}
        self.routes: frozenset[str] = frozenset()
        self.shift = 0.0
        self.slow = 0.0
        self.cut: Callable[[str], list[str]] | None = None
        self.top: Callable[[dict[str, Any]], list[tuple[str, float]]] | None = None
        self.shared = random.Random(0)
        self.lock = threading.Lock()
        self.running = self.most_running = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def asked(self, *, answered: bool = False) -> list[str]:
        """Return the questions of chat requests that are not the probe's."""
        from narrowly.models.endpoint.probe import QUESTION

        found = self.answered if answered else self.calls
        return [call.question for call in found if "messages" in call.body and call.question != QUESTION]

    def words(self, body: dict[str, Any]) -> str:
        """Return the answer to a chat request."""
        if self.answer is not None:
            return self.answer(body)
        settings = body
        if "generation_config" in body:
            settings = {**body, **json.loads(body["generation_config"])}
        elif self.fields == TRANSFORMERS:
            settings = {**body, "temperature": 0.0}
        drawn = self.samples and settings.get("temperature", 1.0) > 0
        if self.top_k and settings.get("top_k") == 1:
            drawn = False
        seed = body.get("seed") if self.seeds else random.random()
        if not self.greedy_repeats and not drawn:
            seed, drawn = random.random(), True
        count = max(1, body.get("max_tokens", body.get("max_completion_tokens", 16)) // 2)
        if drawn and self.one_seed:
            with self.lock:
                self.shared.seed(seed)
            found = []
            for _ in range(count):
                time.sleep(0.002)
                with self.lock:
                    found.append(self.shared.choice(WORDS.split()))
            return " ".join(found)
        text = json.dumps([body["messages"], seed if drawn else None])
        source = random.Random(hashlib.sha256(text.encode()).hexdigest())
        return " ".join(source.choice(WORDS.split()) for _ in range(count))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_GET(self) -> None:
        if not self._allowed({}):
            return
        if not self.path.endswith("/models") or self.server.models is None:
            self._refuse(404, "no such request")
        else:
            self._send({"data": [{"id": name, "owned_by": "fake"} for name in self.server.models]})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        try:
            if self._allowed(body):
                self._chat(body) if self.path.endswith("/chat/completions") else self._complete(body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.running -= 1

    def _allowed(self, body: dict[str, Any]) -> bool:
        server, given = self.server, self.headers.get("Authorization")
        with server.lock:
            server.calls.append(Call(self.path, body, given))
        if server.key is not None and given != f"Bearer {server.key}":
            self._refuse(401, f"Incorrect API key provided: {str(given).removeprefix('Bearer ')}")
            return False
        if body and server.models is not None and body["model"] not in server.models:
            self._refuse(404, f"The model `{body['model']}` does not exist.")
            return False
        return True

    def _chat(self, body: dict[str, Any]) -> None:
        server = self.server
        number = sum(1 for call in server.calls if "messages" in call.body)
        unknown = [] if server.fields is None else sorted(set(body) - server.fields)
        if unknown:
            return self._refuse(422, f"Unexpected keys in the request: {unknown}")
        if body.get("n", 1) > 1 and server.choices == "refused":
            return self._refuse(400, "n must be 1")
        if body.get("logprobs") and server.logprobs == "refused":
            return self._refuse(400, "logprobs are not supported")
        text = server.words(body)
        time.sleep(server.slow)
        fault = server.fault(number, body)
        count = body.get("n", 1) if server.choices == "yes" else 1
        tokens = [word + " " for word in text.split()]
        tokens[-1:] = [tokens[-1].rstrip()] if tokens else []
        if server.cut is not None:
            tokens = server.cut(text)
        if server.logprobs == "wrong":
            tokens = ["other "] * len(tokens)
        given = {"content": [{"token": token, "logprob": -0.5, "top_logprobs": []} for token in tokens]}
        if server.top is not None and body.get("logprobs") and given["content"]:
            listed = server.top(body)[: body.get("top_logprobs", 0)]
            given["content"][0]["top_logprobs"] = [{"token": token, "logprob": value} for token, value in listed]
        if server.logprobs == "malformed":
            given = {"content": [{"token": None, "logprob": "low"}, 3, *given["content"]]}
        choice = {
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": given if body.get("logprobs") and server.logprobs in ("yes", "wrong", "malformed") else None,
        }
        value = {
            "choices": [{**choice, "index": at} for at in range(count)],
            "usage": {"prompt_tokens": 9, "completion_tokens": len(tokens)},
        }
        if fault is None:
            with server.lock:
                server.answered.append(Call(self.path, body, None))
            return self._send(value)
        return self._fail(fault, json.dumps(value).encode())

    def _complete(self, body: dict[str, Any]) -> None:
        server = self.server
        scorer = server.scorers.get(body["model"], server.scorer)
        if scorer is None:
            return self._refuse(404, "no such request")
        text = isinstance(body["prompt"], str)
        if not text and server.routes == {"echo_text"}:
            return self._refuse(400, "prompt must be a string")
        ids = scorer.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"] if text else body["prompt"]
        whole, values = scorer.run(list(ids), body["max_tokens"])
        values = [None if value is None else value + server.shift * (at < len(ids)) for at, value in enumerate(values)]
        start = 0 if body.get("echo") and server.routes & {"echo", "echo_text"} else len(ids)
        tokens = [scorer.tokenizer.decode([token]) for token in whole]
        top = scorer.logprobs(list(ids))[-1].topk(body["logprobs"])
        likeliest = {
            scorer.tokenizer.decode([int(token)]): float(value)
            for value, token in zip(top.values, top.indices, strict=True)
        }
        choice: dict[str, Any] = {
            "text": scorer.tokenizer.decode(whole[start:]),
            "finish_reason": "length",
            "logprobs": {
                "tokens": tokens[start:],
                "token_logprobs": values[start:],
                "top_logprobs": [likeliest if at == len(ids) else {} for at in range(start, len(whole))],
            },
        }
        if body.get("prompt_logprobs") is not None and "prompt_logprobs" in server.routes:
            choice["prompt_logprobs"] = [
                None if value is None else {str(token): {"logprob": value, "rank": 1, "decoded_token": text}}
                for token, value, text in zip(ids, values, tokens, strict=False)
            ]
        return self._send({"choices": [choice]})

    def _fail(self, fault: str, whole: bytes) -> None:
        """Fail in one of the ways that are known of real servers and of what stands before them."""
        name, _, wait = fault.partition(":")
        if name.isdecimal():
            return self._refuse(int(name), "try later", wait)
        if name == "drop":
            self.close_connection = True
            self.connection.close()
            return None
        if name == "malformed":
            return self._write(whole[: len(whole) // 2])
        if name == "no-choices":
            return self._write(b'{"choices": []}')
        if name == "error-in-200":
            return self._write(b'{"error": {"message": "the upstream is gone"}}')
        if name == "streamed":
            return self._write(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n')
        if name == "not-utf8":
            return self._write(whole[:-2] + b"\xff\xfe")
        self.close_connection = True
        self.send_response(200)
        if name == "truncated":
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2])
        else:
            assert name == "cut-chunks", name
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            half = whole[: len(whole) // 2]
            self.wfile.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")
        return None

    def _refuse(self, code: int, message: str, wait: str = "") -> None:
        text = json.dumps({"error": {"message": message}}).encode()
        self.send_response(code)
        if wait:
            self.send_header("Retry-After", wait)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _send(self, value: Any) -> None:
        self._write(json.dumps(value).encode())

    def _write(self, text: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def chat_server(port: int = 0, **settings: Any) -> Iterator[ChatServer]:
    """Yield a running server with these attributes."""
    server = ChatServer(port)
    for name, value in settings.items():
        assert hasattr(server, name), name
        setattr(server, name, value)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
