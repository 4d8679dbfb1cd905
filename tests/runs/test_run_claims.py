"""Claims: one holder at a time, stale ones taken over, living ones never."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from narrowly.records.files import read_json, write_json
from narrowly.runs import claims
from narrowly.runs.claims import Claim, claimed, is_claimed, is_stale, process_started, read_claim, this_host


def claim(**fields: object) -> Claim:
    values: dict[str, object] = {
        "token": "t",
        "host": this_host(),
        "pid": os.getpid(),
        "started": process_started(os.getpid()),
        "heartbeat": time.time(),
    }
    return Claim.model_validate({**values, **fields})


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_is_held_by_one_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / ".claims" / "run.json"
    with claimed(path) as mine:
        assert mine
        assert is_claimed(path)
        with claimed(path) as theirs:
            assert not theirs
        assert is_claimed(path), "a refused attempt leaves the claim alone"
    assert list(path.parent.iterdir()) == []


def test_a_claim_goes_when_the_work_under_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "c") as mine:
        assert mine
        raise ZeroDivisionError
    assert not is_claimed(tmp_path / "c")


def test_staleness_on_this_host_follows_the_process_and_not_the_clock() -> None:
    assert not is_stale(claim(heartbeat=0.0)), "a living process with a slow disk keeps its claim"
    assert is_stale(claim(pid=dead_pid()))
    assert is_stale(claim(started="another boot:1")), "the pid was given to a younger process"


def test_staleness_on_another_host_follows_the_heartbeat() -> None:
    now = time.time()
    assert not is_stale(claim(host="elsewhere", heartbeat=now - 60), now)
    assert is_stale(claim(host="elsewhere", heartbeat=now - claims.TIMEOUT_SECONDS - 1), now)


def test_a_stale_claim_is_taken_over_at_once_and_a_broken_one_too(tmp_path: Path) -> None:
    for number, content in enumerate((claim(pid=dead_pid()).model_dump(), {"not": "ours"})):
        path = tmp_path / f"{number}.json"
        write_json(path, content)
        with claimed(path) as mine:
            assert mine
            held = read_claim(path)
            assert held is not None
            assert held.pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_take_a_stale_claim_over_exactly_one_wins(tmp_path: Path) -> None:
    for round_ in range(20):
        path = tmp_path / f"{round_}.json"
        write_json(path, claim(pid=dead_pid() if round_ == 0 else 2**22 + 1).model_dump())
        start, end = threading.Barrier(6), threading.Barrier(6)
        won: list[int] = []

        def compete(
            number: int,
            path: Path = path,
            start: threading.Barrier = start,
            end: threading.Barrier = end,
            won: list[int] = won,
        ) -> None:
            start.wait()
            with claimed(path) as mine:
                if mine:
                    won.append(number)
                end.wait()

        threads = [threading.Thread(target=compete, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1


def test_a_takeover_that_died_half_way_blocks_the_claim_only_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_json(path, claim(pid=dead_pid(), token="old").model_dump())
    marker = tmp_path / ".c.json.takeover-old"
    marker.write_text("{}")
    with claimed(path) as mine:
        assert not mine
    os.utime(marker, (0, 0))
    with claimed(path) as mine:
        assert not mine, "the first look removes the old marker"
    with claimed(path) as mine:
        assert mine


def test_a_takeover_never_removes_a_younger_claim(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    stale = claim(pid=dead_pid(), token="old")
    write_json(path, claim(token="young").model_dump())
    temporary = tmp_path / "mine"
    write_json(temporary, claim(token="late").model_dump())
    assert not claims._take_over(path, stale, temporary)
    assert read_json(path)["token"] == "young"


def test_the_heartbeat_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "c.json"
    with claimed(path):
        first = read_json(path)["heartbeat"]
        end = time.monotonic() + 120
        while read_json(path)["heartbeat"] == first and time.monotonic() < end:
            time.sleep(0.01)
        assert read_json(path)["heartbeat"] > first


def test_a_claim_that_was_taken_is_neither_revived_nor_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = tmp_path / "c.json", claim(token="thief").model_dump()
    with claimed(path):
        own = claim(**read_json(path))
        write_json(path, taken)
        monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.0)
        claims._beat(path, own, threading.Event())  # the next beat; it ends there
        assert read_json(path) == taken
    assert read_json(path) == taken


def test_a_process_knows_its_start_and_a_dead_one_has_none() -> None:
    assert process_started(os.getpid()) == process_started(os.getpid())
    assert process_started(dead_pid()) is None


def hold(path: Path, ready: object) -> None:
    with claimed(path) as mine:
        assert mine
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_a_claim_of_a_killed_process_is_stale_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "c.json", ready), daemon=True)
    process.start()
    assert ready.wait(30)
    assert is_claimed(tmp_path / "c.json")
    process.kill()
    process.join()
    assert not is_claimed(tmp_path / "c.json")
    with claimed(tmp_path / "c.json") as mine:
        assert mine
