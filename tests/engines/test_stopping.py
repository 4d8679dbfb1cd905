"""Signals that ask for a stop: answered at once, or where the work says so; the program's own handlers are kept."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from ctrl_c import heard_ctrl_c
from narrowly.engines import stopping
from narrowly.engines.stopping import Stopped, StoppedByCtrlC, Terminated


@pytest.mark.parametrize(
    ("number", "kind", "code"), [(2, StoppedByCtrlC, 130), (15, Terminated, 143), (1, Terminated, 129)]
)
def test_a_signal_stops_at_once_with_the_code_of_a_shell(number: int, kind: type[Stopped], code: int) -> None:
    before = signal.getsignal(number)
    with heard_ctrl_c(), pytest.raises(kind, match="over") as caught, stopping.hear_signals(text="over"):
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before and stopping.requested() is None


def test_work_that_begins_inside_says_in_its_own_words_how_it_was_stopped() -> None:
    with pytest.raises(Terminated, match="inner"), stopping.hear_signals(text="outer"):  # noqa: SIM117
        with stopping.hear_signals(text="inner") as mine:
            assert not mine
            signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Terminated, match="outer"), stopping.hear_signals(text="outer"):
        with stopping.hear_signals(text="inner"):
            pass
        signal.raise_signal(signal.SIGTERM)


def test_what_expects_python_s_own_exceptions_sees_them() -> None:
    assert issubclass(StoppedByCtrlC, KeyboardInterrupt) and issubclass(Terminated, SystemExit)
    assert Terminated(signal.SIGTERM).code == 143
    assert not issubclass(Stopped, Exception), "no `except Exception` takes a stop for a failure"


def test_patient_work_is_stopped_where_it_asks_and_at_its_end() -> None:
    done, told = [], list[int]()
    work = stopping.patient("at the end")
    with pytest.raises(Terminated, match="after 2"), stopping.hear_signals(), stopping.telling(told.append), work:
        for step in range(4):
            done.append(step)
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)  # `timeout` sends two
            stopping.check(f"after {step}")
    assert done == [0, 1, 2] and told == [signal.SIGTERM]
    with pytest.raises(Terminated, match="at the end"), stopping.hear_signals(), stopping.patient("at the end"):
        signal.raise_signal(signal.SIGTERM)


def test_a_second_ctrl_c_ends_patient_work_at_once() -> None:
    with heard_ctrl_c(), pytest.raises(KeyboardInterrupt) as caught, stopping.hear_signals(), stopping.patient("end"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one was not heard")
    assert not isinstance(caught.value, Stopped)


@pytest.mark.parametrize("own", [signal.SIG_IGN, lambda number, frame: None])
def test_a_program_keeps_its_own_way_with_a_signal(own: Any) -> None:
    before = signal.signal(signal.SIGTERM, own)
    try:
        with stopping.hear_signals():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


class RaisesSigint:
    """Receives Ctrl-C where Python drops the exception: in a finaliser."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_not_lost_where_python_drops_its_exception() -> None:
    with heard_ctrl_c(), stopping.hear_signals():
        one = RaisesSigint()
        del one  # what was raised in there is ignored
        with pytest.raises(KeyboardInterrupt):
            stopping.check()
