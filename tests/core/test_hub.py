"""Models of the hub without a network: an answer at once, and from the cache where it has one."""

import logging
import socket
from typing import Any

import pytest
from huggingface_hub import constants

from dreamlm.core.hub import from_hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*address: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")


class Loads:
    """Remembers whether it was asked for local files only, and answers with what it was given."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[bool] = []

    def __call__(self, local_files_only: bool) -> Any:
        self.asked.append(local_files_only)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_cache_answers() -> None:
    load = Loads("cached")
    assert from_hub("gpt2", load) == "cached"
    assert load.asked == [True]


@pytest.mark.usefixtures("no_network")
def test_without_a_network_and_a_cache_the_reason_names_both() -> None:
    load = Loads(OSError("not found"))
    with pytest.raises(ConnectionError) as caught:
        from_hub("owner/name", load)
    assert str(caught.value) == (
        "there is no such folder, and no such model in the hub's cache on this machine; "
        "no connection: hub.example: Name or service not known"
    )
    assert load.asked == [True]


def test_a_switched_off_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match="switched off by HF_HUB_OFFLINE"):
        from_hub("gpt2", Loads(OSError("not found")))


@pytest.mark.parametrize("name", ["./here", "/a/b/c", "a/b/c", "a b"])
def test_what_can_be_no_model_is_not_looked_for(name: str) -> None:
    load = Loads("never")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        from_hub(name, load)
    assert load.asked == []


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")


@pytest.mark.usefixtures("reachable")
def test_with_a_network_the_hub_answers_and_its_client_is_quiet_meanwhile() -> None:
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    heard = []

    def load(local_files_only: bool) -> bool:
        heard.append(logger.isEnabledFor(logging.WARNING))
        return local_files_only

    assert from_hub("gpt2", load) is False
    assert heard == [False]
    assert logger.level == before
