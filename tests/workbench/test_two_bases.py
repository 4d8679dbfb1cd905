"""`narrowly diff` of adapters of two bases says so; of one base it says nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from narrowly.cli.app import execute
from narrowly.train.run import train_run
from narrowly.workbench.names import find_adapter
from narrowly.workbench.two_bases import base_note
from tiny_adapters import change_config, change_tensors, saved
from tiny_base import make_base, make_spec

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("adapter"), target_modules=["q_proj", "down_proj"])


def named(adapter: Path, folder: Path, base: str | None, revision: str | None = None) -> Path:
    """Copy an adapter under another name of its base."""
    shutil.copytree(adapter, folder)
    change_config(folder, base_model_name_or_path=base, revision=revision)
    return folder


def note(one: Path, two: Path) -> str | None:
    return base_note(find_adapter(str(one), Path("out")), find_adapter(str(two), Path("out")))


def test_diff_of_two_bases_says_so_in_text_and_in_json(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = named(adapter, tmp_path / "one", "tiny-base"), named(adapter, tmp_path / "two", "Some/Other-Model")
    capsys.readouterr()
    assert execute(["diff", str(one), str(two)]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "note:" in line]
    assert "names the base tiny-base, that of B Some/Other-Model" in line
    assert "cosines compare nothing" in line
    assert execute(["diff", str(one), str(two), "--json"]) == 0
    assert "Some/Other-Model" in json.loads(capsys.readouterr().out)["note"]


def test_diff_of_one_base_has_no_note(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = named(adapter, tmp_path / "one", "tiny-base"), named(adapter, tmp_path / "two", "tiny-base/")
    assert execute(["diff", str(one), str(two)]) == 0
    said = capsys.readouterr()
    assert "note:" not in said.out + said.err
    assert execute(["diff", str(one), str(two), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["note"] is None


def test_diff_says_how_many_modules_without_an_update_are_in_no_mean(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = named(adapter, tmp_path / "one", "tiny-base"), named(adapter, tmp_path / "two", "tiny-base")
    change_tensors(two, **{"0__mlp__down_proj__lora_B__weight": torch.zeros_like})
    capsys.readouterr()
    assert execute(["diff", str(one), str(two)]) == 0
    assert "mean overlaps (1 without an update left out) (chance): writes 1 " in capsys.readouterr().out
    assert execute(["diff", str(one), str(one)]) == 0
    assert "mean overlaps (chance): writes 1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "second", "different"),
    [
        (("m", "a" * 40), ("m", "b" * 40), True),
        (("m", "a" * 40), ("m", None), False),
        ((None, None), ("m", None), False),
        (("", None), ("m", None), False),
    ],
    ids=["two revisions", "one revision", "no name", "empty name"],
)
def test_revisions_count_where_both_say_one_and_a_missing_name_says_nothing(
    adapter: Path, tmp_path: Path, first: tuple[str | None, str | None], second: tuple[str, str | None], different: bool
) -> None:
    found = note(named(adapter, tmp_path / "one", *first), named(adapter, tmp_path / "two", *second))
    assert (found is not None) == different


def test_runs_are_compared_by_the_weights_of_their_bases_and_not_by_name(
    tiny: tuple[Path, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny[0], tmp_path / "copy"))
    other = make_base(tmp_path / "elsewhere" / tiny[0].name, seed=1)
    short = {"steps": 2, "checkpoints": 2}
    run = train_run(make_spec(tiny[0], tiny[1], **short), tmp_path / "a")
    assert note(run, train_run(make_spec(copy, tiny[1], **short), tmp_path / "b")) is None
    found = note(run, train_run(make_spec(other, tiny[1], **short), tmp_path / "c"))
    assert found is not None
    assert found.startswith(f"two bases: A is of {tiny[0].name}, sha256 ")
