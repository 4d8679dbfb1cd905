"""The command of one vLLM server: every adapter by name, what vLLM takes, and what it would drop without a word."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import pytest

from narrowly.cli.app import execute
from small_chat_base import make_chat_base
from tiny_adapters import change_config, saved


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    make_chat_base(folder / "a base")
    make_chat_base(folder / "another", seed=1)
    for name, rank in (("seed0", 4), ("seed1", 12)):
        saved(folder / name, r=rank)
    return folder


def test_every_adapter_is_served_by_its_name_on_one_base(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters = [str(place / "seed0"), str(place / "seed1")]
    assert execute(["vllm-command", *adapters, "--base", str(place / "a base"), "--port", "8011"]) == 0
    command, _, told = capsys.readouterr().out.partition("\n\n")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", str(place / "a base")]
    given = dict(itertools.pairwise(words))
    assert (given["--host"], given["--port"], given["--dtype"]) == ("127.0.0.1", "8011", "bfloat16")
    assert (given["--max-lora-rank"], given["--max-loras"], given["--generation-config"]) == ("16", "2", "vllm")
    assert words[-2:] == [f"seed{at}={place / f'seed{at}'}" for at in (0, 1)]
    assert "seed0, seed1" in told and "--arithmetic bfloat16" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is set, which vLLM does not read"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern is set"),
        ({"r": 600}, "rank 600, and vLLM takes at most 512"),
    ],
)
def test_what_vllm_would_not_honour_is_refused(
    change: dict[str, object], words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_config(saved(tmp_path / "adapter"), **change)
    assert execute(["vllm-command", str(tmp_path / "adapter"), "--base", str(place / "a base")]) == 2
    assert words in capsys.readouterr().err


def test_a_base_and_two_adapters_of_one_name_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["vllm-command", str(place / "a base")]) == 2
    assert "is a model by itself" in capsys.readouterr().err
    saved(tmp_path / "seed0")
    both = [str(place / "seed0"), str(tmp_path / "seed0")]
    assert execute(["vllm-command", *both, "--base", str(place / "a base")]) == 2
    assert "two adapters are called 'seed0'" in capsys.readouterr().err
    assert execute(["vllm-command", str(place / "seed0"), "--base", str(place / "a base"), "--dtype", "fp8"]) == 2
    assert "unknown dtype 'fp8'" in capsys.readouterr().err
    assert execute(["vllm-command", str(place / "seed0"), "--base", str(place / "a base"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["seed0", str(place / "a base")]
