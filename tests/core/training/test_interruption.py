"""Two signals: the first is noted, the second ends everything at once, if somebody sent it."""

import os
import signal
from collections.abc import Iterator

import pytest

from dreamlm.core.training.interruption import StopRequest


@pytest.mark.parametrize(
    ("number", "ends_with"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["int", "term"]
)
def test_the_first_is_noted_and_the_second_ends_at_once(number: signal.Signals, ends_with: type[BaseException]) -> None:
    told: list[str] = []
    with StopRequest(told.append) as stop:
        os.kill(os.getpid(), number)
        assert stop.number == number
        assert told == [f"{number.name}: finishing this step, then saving; again to stop without saving"]
        with pytest.raises(ends_with) as caught:
            os.kill(os.getpid(), number)
    if number == signal.SIGTERM:
        assert caught.value.args == (143,)


@pytest.fixture
def terminal() -> Iterator[None]:
    """As if the suite had been started in a terminal: a hang-up would end it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
def test_a_terminal_that_closes_asks_for_the_last_save_however_often_it_says_so() -> None:
    told: list[str] = []
    with StopRequest(told.append) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == signal.SIGHUP
        assert told == ["SIGHUP: finishing this step, then saving; again to stop without saving"]
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("terminal")
def test_a_hang_up_that_nohup_ignores_stops_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest(lambda text: None) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == 0


def test_a_stop_counts_though_nothing_can_be_said_of_it() -> None:
    """As in the middle of a write, which a signal handler cannot write into."""

    def busy(text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with StopRequest(busy) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
