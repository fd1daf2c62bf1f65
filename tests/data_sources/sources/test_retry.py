"""Claims about trying again."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.data_sources.retry import RetryPolicy, is_name_resolution_failure, is_network_failure


class Response:
    """What HTTP libraries attach to their errors."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


class HttpError(Exception):
    """An error as HTTP libraries raise it."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.response = Response(status_code)


@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_the_delay_doubles_with_jitter_and_has_a_ceiling(failures: int, drawn: float) -> None:
    delay = RetryPolicy(draw=lambda: drawn).delay_seconds(failures)
    full = min(30.0, 2.0 ** (failures - 1))
    assert full / 2 <= delay <= full


def test_all_default_waits_together_stay_below_their_stated_totals() -> None:
    policy = RetryPolicy(draw=lambda: 0.999999)
    waits = [policy.delay_seconds(failures) for failures in range(1, policy.attempts)]
    assert sum(waits) <= 31
    assert sum(waits[: policy.attempts_without_network - 1]) <= 3


def test_a_call_succeeds_after_network_failures_and_says_so() -> None:
    slept: list[float] = []
    notices: list[str] = []
    errors = [ConnectionResetError("reset"), TimeoutError("slow")]

    def action() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    policy = RetryPolicy(sleep=slept.append, draw=lambda: 0.0)
    assert policy.call(action, "wiki", notices.append) == "done"
    assert slept == [0.5, 1.0]
    assert notices == ["wiki: reset; try 2 follows in 0.5 s", "wiki: slow; try 3 follows in 1.0 s"]


@pytest.mark.parametrize(
    ("error", "tries"),
    [(ConnectionError("refused"), 6), (socket.gaierror(-2, "Name or service not known"), 3), (KeyError("bug"), 1)],
)
def test_how_often_a_lasting_failure_is_tried(error: Exception, tries: int) -> None:
    made = []

    def action() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        RetryPolicy(sleep=lambda seconds: None).call(action, "wiki", lambda message: None)
    assert len(made) == tries


@pytest.mark.parametrize(("status", "worth"), [(429, True), (503, True), (500, True), (404, False), (401, False)])
def test_a_server_status_decides_whether_another_try_is_worth_it(status: int, worth: bool) -> None:
    assert is_network_failure(HttpError(status)) is worth


def test_the_cause_of_an_error_counts() -> None:
    wrapped = RuntimeError("the library wrapped it")
    wrapped.__cause__ = socket.gaierror(-3, "Temporary failure in name resolution")
    assert is_network_failure(wrapped)
    assert is_name_resolution_failure(wrapped)


def test_a_missing_file_is_no_network_failure() -> None:
    assert not is_network_failure(FileNotFoundError(2, "No such file or directory"))
