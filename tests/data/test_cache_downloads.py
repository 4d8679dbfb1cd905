"""Pulling: interrupted and resumed, checked, offline afterwards; against a server on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from narrowly.data import cache
from narrowly.data.cache import adopt, cache_folder, cached, check_content, download, git_blob_id
from narrowly.records.errors import IntegrityError, RunDirectoryError, SpecError
from range_server import serving

CONTENT = b"".join(json.dumps({"row": number}).encode() + b"\n" for number in range(4000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache, "WAIT", 0.0)
    monkeypatch.setattr(cache, "BLOCK", 1000)
    monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data" / "some" / "file.jsonl"


def parts(target: Path) -> list[Path]:
    return sorted(target.parent.glob(".*.part"))


def test_a_file_is_fetched_checked_recorded_and_not_fetched_again(target) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(CONTENT) as server:
        found = download(server.url, target, sha256=SHA256, size=len(CONTENT), progress=lambda *pair: seen.append(pair))
        assert found == SHA256 and target.read_bytes() == CONTENT
        assert seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 10
        assert cache.record_of(target) == {"url": server.url, "sha256": SHA256, "size": len(CONTENT)}
        assert not parts(target)
    # the server is gone now
    assert download(server.url, target, sha256=SHA256) == SHA256


def test_a_broken_connection_is_taken_up_where_it_broke(target) -> None:
    with serving(CONTENT) as server:
        server.cut = [10_000, 5_000]
        download(server.url, target, sha256=SHA256, size=len(CONTENT))
        assert server.asked == [None, "bytes=10000-", "bytes=15000-"]
    assert target.read_bytes() == CONTENT


def test_what_came_is_kept_for_the_next_pull(target) -> None:
    with serving(CONTENT) as server:
        server.cut = [7_000, 0, 0, 0]
        with pytest.raises(SpecError, match=r"127.0.0.1 did not deliver in 4 attempts .*; 7000 bytes are kept"):
            download(server.url, target, sha256=SHA256, size=len(CONTENT))
        assert not target.exists() and [part.stat().st_size for part in parts(target)] == [7_000]
        download(server.url, target, sha256=SHA256, size=len(CONTENT))
        assert server.asked[-1] == "bytes=7000-"
    assert target.read_bytes() == CONTENT and not parts(target)


def test_a_server_without_ranges_is_read_from_the_beginning(target) -> None:
    with serving(CONTENT) as server:
        server.ranges = False
        server.cut = [10_000]
        download(server.url, target, sha256=SHA256, size=len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_content_that_may_have_changed_is_never_resumed(target) -> None:
    with serving(CONTENT) as server:
        server.cut = [7_000, 0, 0, 0]
        with pytest.raises(SpecError):
            download(server.url, target, sha256=None, resumable=False)
        server.asked.clear()
        assert download(server.url, target, sha256=None, resumable=False) == SHA256
        assert server.asked == [None]


@pytest.mark.parametrize("left", [b"garbage" * 100, CONTENT + b"more", b"x" * len(CONTENT)])
def test_a_part_that_does_not_fit_is_thrown_away_and_fetched_anew(target, left) -> None:
    with serving(CONTENT) as server:
        server.cut = [100, 0, 0, 0]
        with pytest.raises(SpecError):
            download(server.url, target, sha256=SHA256)
        parts(target)[0].write_bytes(left)
        assert download(server.url, target, sha256=SHA256, size=len(CONTENT)) == SHA256
    assert target.read_bytes() == CONTENT


def test_another_file_than_the_registered_one_is_deleted_and_both_hashes_are_named(target) -> None:
    other = "0" * 64
    with serving(CONTENT) as server, pytest.raises(IntegrityError, match=f"sha256 {SHA256}, expected {other}"):
        download(server.url, target, sha256=other)
    assert not target.exists() and not parts(target)
    with serving(CONTENT) as server, pytest.raises(IntegrityError, match="longer than 100 bytes"):
        download(server.url, target, sha256=SHA256, size=100)
    assert not target.exists()


def test_a_file_in_the_cache_that_was_changed_is_refused(target) -> None:
    with serving(CONTENT) as server:
        download(server.url, target, sha256=None)
        target.write_bytes(CONTENT[:-1])
        with pytest.raises(IntegrityError, match="is another file, or was changed"):
            download(server.url, target, sha256=None)


def test_gits_id_of_the_content_is_checked_where_no_sha256_is_known(target, tmp_path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    asked = subprocess.run(["git", "hash-object", str(tmp_path / "file")], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        assert git_blob_id(tmp_path / "file") == asked.stdout.strip()
    with serving(CONTENT) as server:
        assert download(server.url, target, sha256=None, git_blob=git_blob_id(tmp_path / "file")[:8]) == SHA256
        target.unlink()
        with pytest.raises(IntegrityError, match=r"git blob id .* expected 12345678"):
            download(server.url, target, sha256=None, git_blob="12345678")


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([404], r"is not there \(HTTP 404\)"),
        ([401], r"gated or private \(HTTP 401\).*HF_TOKEN"),
        ([403], r"gated or private \(HTTP 403\)"),
        ([503] * 4, r"did not deliver in 4 attempts \(HTTP 503\)"),
        ([429] * 4, r"did not deliver in 4 attempts \(HTTP 429\)"),
    ],
)
def test_what_a_server_refuses_is_said_in_one_line(target, codes, message) -> None:
    with serving(CONTENT) as server:
        server.codes = codes
        with pytest.raises(SpecError, match=message):
            download(server.url, target, sha256=SHA256)
    assert not target.exists()


def test_a_server_that_is_busy_for_a_moment_is_asked_again(target) -> None:
    with serving(CONTENT) as server:
        server.codes = [503, 429]
        assert download(server.url, target, sha256=SHA256) == SHA256


def test_no_network_is_an_error_that_says_how_to_do_without(target) -> None:
    with serving(CONTENT) as server:
        url = server.url
    with pytest.raises(SpecError, match=r"cannot fetch .*did not deliver .*without a network, pull --from a copy"):
        download(url, target, sha256=SHA256)
    assert not parts(target)  # nothing came, so nothing is kept


def test_only_web_addresses_are_fetched_and_a_token_goes_to_its_own_host_only(target, tmp_path, monkeypatch) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(SpecError, match="an address that begins with https"):
        download((tmp_path / "secret").as_uri(), target, sha256=None)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(CONTENT) as server:
        download(server.url, target, sha256=SHA256)
        assert server.authorised == [None]


def test_a_full_disk_is_said_before_anything_is_fetched(target, monkeypatch) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: cache.shutil._ntuple_diskusage(10, 5, 5))
    with serving(CONTENT) as server, pytest.raises(RunDirectoryError, match=rf"no space .*{len(CONTENT)} bytes"):
        download(server.url, target, sha256=SHA256, size=len(CONTENT))


@pytest.mark.skipif(cache.fcntl is None, reason="no locks on this platform")
def test_two_pulls_of_one_file_do_not_mix(target) -> None:
    with serving(CONTENT) as server:
        server.cut = [100, 0, 0, 0]
        with pytest.raises(SpecError):
            download(server.url, target, sha256=SHA256)
        with parts(target)[0].open("ab") as other:
            cache.fcntl.flock(other, cache.fcntl.LOCK_EX)
            with pytest.raises(RunDirectoryError, match="another process is pulling"):
                download(server.url, target, sha256=SHA256)
        assert download(server.url, target, sha256=SHA256) == SHA256


def test_a_copy_is_found_by_its_content_whatever_it_is_called(target, tmp_path) -> None:
    folder = tmp_path / "copies"
    (folder / "deep").mkdir(parents=True)
    (folder / "file.jsonl").write_bytes(CONTENT[:-1] + b" ")  # the right name and size, another content
    (folder / "deep" / "other.txt").write_bytes(CONTENT)
    assert adopt(folder, target, sha256=SHA256, git_blob=None, size=len(CONTENT)) == SHA256
    assert target.read_bytes() == CONTENT
    assert adopt(folder / "file.jsonl", target, sha256=SHA256, git_blob=None, size=None) is None
    with pytest.raises(SpecError, match="no hash of this source is known"):
        adopt(folder, target, sha256=None, git_blob=None, size=None)


def test_the_cache_lies_where_the_variable_says_or_in_the_platforms_place(monkeypatch, tmp_path) -> None:
    assert cache_folder() == tmp_path / "cache"
    assert cached("insecure", "insecure.jsonl") == tmp_path / "cache" / "data" / "insecure" / "insecure.jsonl"
    outside = cached("hf:a/../../b@0/x", "x")
    assert outside.parent.parent == tmp_path / "cache" / "data" and ".." not in outside.parts
    monkeypatch.delenv("NARROWLY_CACHE")
    monkeypatch.setattr(cache.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "narrowly"
    monkeypatch.setattr(cache.sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "narrowly"


def test_a_content_is_what_its_hash_says(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert check_content(path, "it", SHA256, None) == SHA256
    with pytest.raises(IntegrityError, match=f"it has sha256 {SHA256}, expected {'1' * 64}"):
        check_content(path, "it", "1" * 64, None)


def test_a_redirect_is_followed_with_the_range_that_is_still_missing(target) -> None:
    with serving(CONTENT) as front, serving(CONTENT) as storage:
        front.moved_to, storage.cut = storage.url, [10_000]
        assert download(front.url, target, sha256=SHA256, size=len(CONTENT)) == SHA256
        assert storage.asked == [None, "bytes=10000-"]
        assert cache.record_of(target) == {"url": front.url, "sha256": SHA256, "size": len(CONTENT)}
    assert target.read_bytes() == CONTENT


def test_the_token_is_not_sent_on_to_where_the_hub_redirects(target, monkeypatch) -> None:
    real = cache.urlsplit

    def as_if_the_hub(url: str) -> object:
        return real(url.replace("127.0.0.1", "huggingface.co"))

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(cache, "urlsplit", as_if_the_hub)
    with serving(CONTENT) as hub, serving(CONTENT) as storage:
        hub.moved_to = storage.url
        download(hub.url, target, sha256=SHA256, size=len(CONTENT))
        assert hub.authorised == ["Bearer secret"]
        assert storage.authorised == [None]


@pytest.mark.parametrize("place", ["file:///etc/hostname", "itself"])
def test_a_redirect_into_this_machine_or_in_a_circle_is_refused(target, place: str) -> None:
    with serving(CONTENT) as server:
        server.moved_to = server.url if place == "itself" else place
        with pytest.raises(SpecError, match=r"is not there \(HTTP 302\)"):
            download(server.url, target, sha256=SHA256, size=len(CONTENT))
    assert not target.exists() and not parts(target)
