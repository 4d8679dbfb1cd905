"""Claims: one holder at a time, stale ones taken over, living ones never."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from narrowly.records.files import read_json, write_json
from narrowly.runs import claims
from narrowly.runs.claims import (
    Claim,
    check_claim,
    claimed,
    is_claimed,
    is_stale,
    read_claim,
)
from narrowly.runs.processes import process_started, this_host


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


def old() -> float:
    return claims.TIMEOUT_SECONDS + 1


def asked_in_vain() -> float:
    raise AssertionError("the age of this claim says nothing")


def test_staleness_on_this_host_follows_the_process_and_not_the_clock() -> None:
    assert not is_stale(claim(), asked_in_vain), "a living process with a slow disk keeps its claim"
    assert is_stale(claim(pid=dead_pid()), asked_in_vain)
    own = process_started(os.getpid())
    assert own is not None
    assert is_stale(claim(started=f"{own.partition(':')[0]}:1"), asked_in_vain), "the pid was given to a younger one"


@pytest.mark.parametrize("fields", [{"host": "elsewhere"}, {"started": "another boot:1", "pid": 2**22 + 1}])
def test_staleness_on_another_host_follows_the_age_also_where_it_has_the_same_name(fields: dict[str, object]) -> None:
    assert not is_stale(claim(**fields), lambda: 60.0)
    assert is_stale(claim(**fields), old)


def touched_ago(path: Path, seconds: float) -> None:
    now = claims.file_system_time(path.parent)
    os.utime(path, (now - seconds, now - seconds))


def test_a_stale_claim_is_taken_over_at_once_and_a_broken_one_by_its_age(tmp_path: Path) -> None:
    path, broken = tmp_path / "c.json", tmp_path / "broken.json"
    write_json(path, claim(pid=dead_pid()).model_dump())
    with claimed(path) as mine:
        assert mine
        held = read_claim(path)
        assert held is not None
        assert held.pid == os.getpid()
    for content in ("", '{"not": "ours"}'):
        broken.write_text(content)  # of a writer that is between creation and content, where there are no hard links
        with claimed(broken) as mine:
            assert not mine
        touched_ago(broken, old())
        with claimed(broken) as mine:
            assert mine
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ahead", [600.0, -600.0])
def test_a_host_whose_clock_is_ten_minutes_wrong_neither_takes_nor_loses_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    path, right = tmp_path / "c.json", time.time
    write_json(path, claim(host="elsewhere").model_dump())
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    assert is_claimed(path), "the wrong clock looks at a right one's claim"
    with claimed(path) as mine:
        assert not mine
    with claimed(tmp_path / "d.json") as mine:
        assert mine
        written = read_claim(tmp_path / "d.json")
        assert written is not None
        assert abs(written.heartbeat - right() - ahead) < 60
        write_json(path, written.model_copy(update={"host": "elsewhere"}).model_dump())
        monkeypatch.setattr(time, "time", right)
        assert is_claimed(path), "a right clock looks at the wrong one's claim"
    touched_ago(path, old())
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    assert not is_claimed(path)


def test_where_there_are_no_hard_links_a_file_is_created_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    with claimed(tmp_path / "c.json") as mine:
        assert mine
        with claimed(tmp_path / "c.json") as theirs:
            assert not theirs
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_answer_was_lost_has_given_the_claim_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def answered_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # the client asks again and meets its own file

    monkeypatch.setattr(os, "link", answered_twice)
    with claimed(tmp_path / "c.json") as mine:
        assert mine


HOLDER = """
import sys, time
from pathlib import Path
from narrowly.runs import claims
from narrowly.records.errors import ClaimLostError
claims.this_host = lambda: "elsewhere"
claims.HEARTBEAT_SECONDS = float(sys.argv[2])
with claims.claimed(Path(sys.argv[1])) as mine:
    print("holds" if mine else "refused", flush=True)
    sys.stdin.readline()
    try:
        claims.check_claim(Path(sys.argv[1]))
        print("done", flush=True)
    except ClaimLostError as error:
        print("lost:", error, flush=True)
"""


def holder(path: Path, heartbeat: float) -> subprocess.Popen[str]:
    """Return a process that holds a claim as if on another host, and checks it once it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(heartbeat)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="stops a process by SIGSTOP")
def test_a_holder_that_comes_back_after_its_claim_was_taken_is_refused_and_leaves_the_new_one_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.json"
    process = holder(path, 0.05)
    process.send_signal(signal.SIGSTOP)  # a node that does not answer
    with claimed(path) as mine:
        assert not mine, "too young to be taken"
    touched_ago(path, old())
    with claimed(path) as mine:
        assert mine
        taken = path.read_bytes()
        process.send_signal(signal.SIGCONT)
        time.sleep(0.3)  # its heartbeat has every chance to take the claim back
        output, _ = process.communicate("\n", timeout=60)
        assert output.startswith("lost: the claim"), output
        assert f"pid {os.getpid()}" in output
        assert path.read_bytes() == taken
        check_claim(path)


def test_a_holder_whose_claim_is_its_own_is_not_refused(tmp_path: Path) -> None:
    process = holder(tmp_path / "c.json", 10)
    output, _ = process.communicate("\n", timeout=60)
    assert output == "done\n"
    check_claim(tmp_path / "c.json")  # who holds none is not asked


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
    assert marker.exists()
    touched_ago(marker, claims.TAKEOVER_SECONDS + 1)
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
    assert not claims._take_over(path, stale, temporary, "late")
    assert read_json(path)["token"] == "young"


def test_the_heartbeat_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    path = tmp_path / "c.json"
    with claimed(path):
        first, content = path.stat().st_mtime_ns, path.read_bytes()
        end = time.monotonic() + 120
        while path.stat().st_mtime_ns == first and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime_ns > first
        assert path.read_bytes() == content


def test_a_claim_that_was_taken_is_neither_revived_nor_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = tmp_path / "c.json", claim(token="thief").model_dump()
    with claimed(path):
        own = claim(**read_json(path))
        write_json(path, taken)
        touched = path.stat().st_mtime_ns
        monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.0)
        claims._beat(path, own, threading.Event())  # the next beat; it ends there
        assert read_json(path) == taken
        assert path.stat().st_mtime_ns == touched
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
