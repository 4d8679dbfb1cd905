"""The walk, hostile files, the order of jobs, workers; nothing found is executed or unpickled."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from narrowly.audit.files import LARGEST, Repository, SourceFile, read_source
from narrowly.audit.folders import walk
from narrowly.audit.record import Skip
from narrowly.audit.review import review
from narrowly.audit.scan import scan
from narrowly.records.errors import SpecError

AXOLOTL = "base_model: b\nadapter: lora\ndatasets:\n  - path: d\noptimizer: adamw_torch\nlearning_rate: 2e-5\n"


def written(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.target),))


def test_pickles_are_reported_and_never_loaded(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "made"))
    names = ["training_args.bin", "optimizer.pt", "scheduler.pt", "sub/training_args.bin"]
    root = written(tmp_path / "run", dict.fromkeys(names, bomb) | {"model.pkl": bomb, "a.yaml": bomb, "b.py": bomb})
    found = review([root])
    assert not (tmp_path / "made").exists()
    assert sorted(one.file for one in found.findings if one.rule == "PICKLE-UNREAD") == sorted(names)
    assert found.exit_code("warning") == 0
    pickle.loads(bomb)
    assert (tmp_path / "made").exists(), "the bomb works: it was not loaded above"


def test_links_do_not_lead_in_circles_or_out(tmp_path: Path) -> None:
    root = written(tmp_path / "repo", {"a.yaml": "a: 1", "sub/b.yaml": "b: 1"})
    written(tmp_path, {"secret.yaml": "c: 1"})
    (root / "loop").symlink_to(root)
    (root / "sub" / "up").symlink_to("..")
    (root / "self.yaml").symlink_to("self.yaml")
    (root / "nowhere.yaml").symlink_to("gone.yaml")
    (root / "out.yaml").symlink_to(tmp_path / "secret.yaml")
    (root / "in.yaml").symlink_to("a.yaml")
    found = list(walk(root))
    assert [one for one in found if isinstance(one, str)] == ["a.yaml", "in.yaml", "sub/b.yaml"]
    assert {one.file: one.reason for one in found if isinstance(one, Skip)} == {
        "nowhere.yaml": "a link that leads nowhere",
        "out.yaml": "a link that leads out of the folder",
        "self.yaml": "a link that leads nowhere",
    }


def test_folders_of_others_are_left_out_below_a_path_and_read_where_they_are_the_path(tmp_path: Path) -> None:
    names = ["node_modules/a.yaml", ".git/b.yaml", ".venv/lib/site-packages/c.yaml", "src/d.yaml"]
    names += [
        "wandb/run-20260102_030405-ab1c/files/e.yaml",
        "wandb/offline-run-20260102_030405-x/f.yaml",
        "wandb/g.yaml",
    ]
    written(tmp_path, dict.fromkeys(names, "a: 1"))
    assert [one for one in walk(tmp_path)] == ["src/d.yaml", "wandb/g.yaml"]
    assert [one for one in walk(tmp_path / ".venv/lib/site-packages")] == ["c.yaml"]


def test_a_pipe_a_huge_file_and_a_folder_named_as_a_file_are_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.truncate(LARGEST["yaml"] + 1)
    found = scan([tmp_path])
    reasons = {one.file: one.reason for one in found.skipped}
    assert reasons["pipe.yaml"] == "not a regular file"
    assert "1,000,001 bytes" in reasons["huge.yaml"] and len(reasons) == 2


HOSTILE: dict[str, bytes] = {
    "binary.yaml": AXOLOTL.encode() + bytes(range(256)) * 40,
    "latin.yaml": AXOLOTL.encode() + b"name: \xe9\xff",
    "nul.py": b"from transformers import TrainingArguments\nTrainingArguments(learning_rate=1\x00)",
    "syntax.py": b"from transformers import TrainingArguments\nTrainingArguments(learning_rate=2e-5",
    "deep.py": b"from trl import SFTConfig\nSFTConfig(learning_rate=" + b"(" * 5000 + b"1" + b")" * 5000 + b")",
    "minus.py": b"from trl import SFTConfig\nSFTConfig(learning_rate=" + b"-" * 20000 + b"1)",
    "attributes.py": b"import torch\ntorch.optim.AdamW(p, lr=a" + b".b" * 20000 + b")",
    "strings.py": b"from trl import SFTConfig\nSFTConfig(learning_rate='" + b"a" * 10**6 + b"')",
    "deep.yaml": AXOLOTL.encode() + b"x: " + b"[" * 50000,
    "aliases.yaml": AXOLOTL.encode()
    + b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
    "broken.ipynb": b'{"cells": [{"cell_type": "code", "source": ["TrainingArguments(learning_rate="]]',
    "odd.ipynb": b'{"cells": {"a": ["TrainingArguments", "learning_rate"]}, "nbformat": "x"}',
    "list.json": b'["optimizer", "learning_rate", ["base_model"]]',
    "trainer_state.json": b"[" * 100000,
    "adapter_config.json": b'{"r": {"a": 1}, "lora_alpha": [], "target_modules": 7, "peft_type": "LORA"}',
    "null.yaml": b"base_model:\nadapter:\ndatasets:\noptimizer:\nlearning_rate:\n",
    "wrong.yaml": b"base_model: [1]\nadapter: {a: 1}\ndatasets: 7\noptimizer: [x]\nlearning_rate: {}\n",
    "run.sh": b"python train.py --learning_rate '2e-5 --optim \"adamw_torch\ntrl sft --learning_rate $( ",
    "long.sh": b"accelerate launch train.py --learning_rate " + b"\\\n" * 20000 + b"2e-5",
    "empty.yaml": b"",
    "bom.yaml": b"\xef\xbb\xbf" + AXOLOTL.encode(),
    "utf16.yaml": AXOLOTL.encode("utf-16"),
    "a.toml": b"[optimizer]\nname = 'AdamW'\nlr = ",
    "cr.yaml": AXOLOTL.replace("\n", "\r\n").encode(),
}


def test_hostile_files_are_read_or_skipped_each_with_a_reason(tmp_path: Path) -> None:
    found = review([written(tmp_path, HOSTILE)])
    record = found.to_json()
    assert set(record) == {"jobs", "findings", "skipped"}
    assert all(one.reason for one in found.skipped)
    skipped = {one.file for one in found.skipped}
    assert {"deep.yaml", "binary.yaml", "latin.yaml", "aliases.yaml"} <= skipped
    read = {job.file: job for job in found.jobs}
    for name in ("bom.yaml", "utf16.yaml", "cr.yaml"):
        assert (read[name].value("optimiser"), read[name].value("learning_rate")) == ("adamw", 2e-5), name
    assert found.exit_code("never") == 0 and found.exit_code("never", strict=True) == 1


def test_a_path_that_is_missing_or_a_broken_link_is_an_error_and_an_empty_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    for path in (tmp_path / "gone", tmp_path / "link", Path("-")):
        with pytest.raises(SpecError, match="give a folder or a file"):
            scan([path])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="neither a file nor a folder"):
        scan([tmp_path / "pipe"])
    (tmp_path / "empty").mkdir()
    assert scan([tmp_path / "empty"]).jobs == []


def test_one_file_is_read_with_what_stands_beside_it(tmp_path: Path) -> None:
    written(tmp_path, {"conf/a.yaml": AXOLOTL, "conf/b.yaml": AXOLOTL, "README": "text"})
    found = scan([tmp_path / "conf" / "a.yaml"])
    assert [job.file for job in found.jobs] == [(tmp_path / "conf" / "a.yaml").as_posix()]
    assert scan([tmp_path / "README"]).skipped[0].reason.endswith("no kind of file that is read")


def test_several_workers_find_the_same_in_the_same_order(tmp_path: Path) -> None:
    files = {f"d{index % 7}/c{index}.yaml": AXOLOTL + f"num_epochs: {index}\n" for index in range(300)}
    written(tmp_path, files | {"broken.yaml": "optimizer: [base_model learning_rate"})
    one, two = scan([tmp_path]), scan([tmp_path], workers=2)
    assert len(one.jobs) == 300
    assert [job.to_json() for job in one.jobs] == [job.to_json() for job in two.jobs]
    assert one.skipped == two.skipped and one.files == two.files == 301


def test_a_repository_follows_no_name_out_of_its_root(tmp_path: Path) -> None:
    root = written(tmp_path / "repo", {"ds.json": "{}", "sub/train.py": "", "sub/own.json": "{}"})
    written(tmp_path, {"out.json": "{}"})
    repository = Repository(root, [one for one in walk(root) if isinstance(one, str)])
    script = read_source(f"{root}/sub/train.py", "sub/train.py")
    assert isinstance(script, SourceFile)
    assert repository.find("own.json", script).shown == "sub/own.json"
    assert repository.find("ds.json", script).shown == "ds.json" == repository.find("../ds.json", script).shown
    for name in ("../../out.json", str(tmp_path / "out.json"), "~/x.json", "http://a/b.json", "gone.json", "", "a\0b"):
        assert repository.find(name, script) is None


def test_names_that_are_no_text_are_found_and_printable(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.yaml")
    try:
        (tmp_path / name).write_text(AXOLOTL)
    except OSError:
        pytest.skip("this file system takes text names only")
    [job] = scan([tmp_path]).jobs
    assert job.file == name


def test_the_audit_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    written(tmp_path, {"a.yaml": AXOLOTL})
    code = (
        "import sys; from pathlib import Path; from narrowly.audit.review import review; "
        "r = review([Path(sys.argv[1])]); assert r.jobs; r.to_json(); "
        "bad = {'torch', 'numpy', 'transformers', 'polars'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.yaml", bytes(range(256)) * 4, "binary data"),
        ("b.yaml", "é: ü".encode("latin-1"), "not UTF-8 text"),
        ("c.yaml", b"[" * 50_000, "levels deep"),
        ("e.py", b"\0\1import torch", "binary data"),
        ("f.json", b'{"a": "\xff"}', "not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_skipped_also_where_it_speaks_of_no_training(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(data)
    found = scan([tmp_path])
    assert [one.file for one in found.skipped] == [name]
    assert reason in found.skipped[0].reason


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "a: [1,2\nb: }"), ("b.py", "def x(:\n"), ("c.json", "{")])
def test_a_file_given_by_itself_is_parsed_whatever_it_speaks_of(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [one.reason[:9] for one in scan([tmp_path / name]).skipped] == ["not valid"]


@pytest.mark.parametrize("line", ["trl==0.12.1", "trl >= 0.12, < 0.13", "trl"])
def test_a_requirement_beside_a_script_is_read_in_each_spelling(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"# ours\n{line}\n")
    (tmp_path / "train.py").write_text("from trl import SFTConfig, SFTTrainer\nSFTTrainer(m, args=SFTConfig('o'))\n")
    (job,) = scan([tmp_path]).jobs
    assert job.tool_version.at == "requirements.txt:2"
