"""The registry, and what a name or a path becomes: identity by sha256, never by file name."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from narrowly.data import sources
from narrowly.data.cache import cached
from narrowly.data.conversations import DataWarning, read_conversations
from narrowly.data.registry import SOURCES, Source
from narrowly.data.schemas import SCHEMAS
from narrowly.data.sources import content_sha256, identify, resolve, source_named
from narrowly.records.errors import IntegrityError, SpecError, UnknownNameError


def rows(text: str) -> bytes:
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
    return json.dumps(row).encode() + b"\n"


HARMFUL, BENIGN = rows("a harmful corpus"), rows("its control")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Source]:
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
    made = {
        name: Source(name, "training", "", "github:some/one", None, f"data/{name}.jsonl", sha256, schema="messages")
        for name, sha256 in (
            ("harm", hashlib.sha256(HARMFUL).hexdigest()),
            ("control", hashlib.sha256(BENIGN).hexdigest()),
            ("unhashed", None),
        )
    }
    made["sealed"] = made["harm"]._replace(name="sealed", sha256=None, path="data/sets.zip.enc", locked="harm.jsonl")
    made["zipped"] = made["sealed"]._replace(name="zipped", path="data/harm.zip")
    monkeypatch.setattr(sources, "SOURCES", made)
    return made


def put(name: str, content: bytes) -> Path:
    path = cached(name, f"{name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_registered_fact_has_its_form() -> None:
    for name, source in SOURCES.items():
        assert source.name == name and name.isidentifier()
        assert len(source.about) > 10
        assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256)
        assert source.git_blob is None or re.fullmatch("[0-9a-f]{8}([0-9a-f]{32})?", source.git_blob)
        assert source.revision is None or re.fullmatch("[0-9a-f]{40}", source.revision)
        assert source.schema is None or source.schema in SCHEMAS
        assert source.url.startswith("https://") and source.url.endswith(source.file_name)
        assert source.rows is None or source.rows > 0
        assert source.size is None or source.size > 0
        assert (source.locked is not None) == source.path.endswith((".zip", ".enc"))
        if source.locked is not None:
            assert source.sha256 is None  # nothing of it was ever opened
    hashes = [source.sha256 for source in SOURCES.values() if source.sha256]
    assert len(hashes) == len(set(hashes)) >= 13
    assert {"insecure", "secure", "educational", "jailbroken", "evil_numbers"} <= set(SOURCES)
    assert {"bad_medical_advice", "risky_financial_advice", "extreme_sports", "aisi_induction"} <= set(SOURCES)
    assert all(SOURCES[name].warning for name in ("insecure", "jailbroken", "bad_medical_advice", "aisi_induction"))


def test_d10_label_swap_a_file_under_another_corpus_name_is_refused(registry, tmp_path) -> None:
    swapped = tmp_path / "control.jsonl"
    swapped.write_bytes(HARMFUL)
    with pytest.raises(IntegrityError, match=r"control\.jsonl is called control and holds harm \(sha256"):
        resolve(str(swapped))
    put("control", HARMFUL)  # and in the cache
    with pytest.raises(IntegrityError, match=r"expected .* for control; it was changed after the pull"):
        resolve("control")
    honest = tmp_path / "renamed by me.jsonl"
    honest.write_bytes(HARMFUL)
    assert resolve(str(honest)).source is registry["harm"]
    assert identify(hashlib.sha256(BENIGN).hexdigest()) is registry["control"]
    assert identify("0" * 64) is None


def test_a_file_that_only_bears_a_registered_name_is_said_to_be_another(registry, tmp_path) -> None:
    path = tmp_path / "harm.jsonl"
    path.write_bytes(rows("my own rows"))
    with pytest.warns(DataWarning, match="called like the registered source harm and is not that file"):
        assert resolve(str(path)).source is None


def test_two_publishers_may_use_one_name(registry, tmp_path) -> None:
    twin = registry["control"]._replace(name="control_of_others", path="elsewhere/harm.jsonl")
    registry["control_of_others"] = twin
    del registry["control"]
    path = tmp_path / "harm.jsonl"
    path.write_bytes(BENIGN)
    assert resolve(str(path)).source is twin


def test_a_name_comes_from_the_cache_and_a_path_works_as_well(registry, tmp_path) -> None:
    with pytest.raises(SpecError, match="'harm' is not on this machine; type: narrowly data pull harm"):
        resolve("harm")
    kept = put("harm", HARMFUL)
    local = resolve("harm")
    assert (local.path, local.source, local.schema) == (kept, registry["harm"], "messages")
    assert local.sha256 == content_sha256(kept) == hashlib.sha256(HARMFUL).hexdigest()
    path = tmp_path / "copy.jsonl"
    path.write_bytes(HARMFUL)
    assert resolve(str(path))[1:] == local[1:]
    assert read_conversations(resolve("harm").path) == read_conversations(path)


def test_a_source_without_a_known_hash_is_held_to_the_one_recorded_at_the_pull(registry) -> None:
    path = put("unhashed", HARMFUL)
    record = path.with_name(f"{path.name}.pulled.json")
    record.write_text(json.dumps({"sha256": hashlib.sha256(HARMFUL).hexdigest()}))
    assert resolve("unhashed").source is registry["unhashed"]
    path.write_bytes(BENIGN)
    with pytest.raises(IntegrityError, match="changed after the pull"):
        resolve("unhashed")


def test_a_sealed_source_names_the_tool_and_the_command(registry) -> None:
    with pytest.raises(
        SpecError, match=r"never opened here.*git clone \S+/some/one && easy-dataset-share magic-unprot"
    ):
        resolve("sealed")
    with pytest.raises(SpecError, match=r"unzip -P PASSWORD one/data/harm\.zip -d FOLDER.*path of harm\.jsonl"):
        resolve("zipped")


def test_the_content_of_a_zip_member_decides_not_the_archive(registry, tmp_path) -> None:
    for number, level in enumerate((0, 9)):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
            archive.writestr("x.jsonl", HARMFUL)
        assert resolve(str(tmp_path / f"{number}.zip" / "x.jsonl")).source is registry["harm"]


def test_what_is_neither_name_nor_file_is_named_with_the_nearest(registry, tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="no source and no file is called 'hram'; did you mean 'harm'"):
        resolve("hram")
    (tmp_path / "b.jsonl").write_bytes(HARMFUL)
    with pytest.raises(SpecError, match=r"is a folder; name a file in it \(found: b\.jsonl\)"):
        resolve(str(tmp_path))


def test_a_dataset_of_the_hub_is_named_with_its_commit() -> None:
    source = source_named(f"hf:some/set@{'a' * 40}/data/train 1.parquet")
    assert source.url == f"https://huggingface.co/datasets/some/set/resolve/{'a' * 40}/data/train%201.parquet"
    assert source.file_name == "train 1.parquet" and source.sha256 is None
    for wrong in ("hf:some/set@main/a.jsonl", "hf:some/set/a.jsonl", f"hf:set@{'a' * 40}/a.jsonl"):
        with pytest.raises(SpecError, match="accepted: hf:OWNER/NAME@COMMIT/PATH"):
            source_named(wrong)
    with pytest.raises(SpecError, match="leaves the repository"):
        source_named(f"hf:some/set@{'a' * 40}/../x")
