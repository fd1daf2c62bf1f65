"""Two signals: the first is noted, the second ends everything at once."""

import os
import signal

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


def test_a_stop_counts_though_nothing_can_be_said_of_it() -> None:
    """As in the middle of a write, which a signal handler cannot write into."""

    def busy(text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with StopRequest(busy) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
