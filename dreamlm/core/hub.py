"""The Hugging Face hub: whether it can be reached, asked before its client tries for minutes."""

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from dreamlm.core.errors import DataError

T = TypeVar("T")

NOISY_LOGGERS = ("datasets", "huggingface_hub", "fsspec", "transformers")
_MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_network() -> None:
    """Find out in an instant whether the hub's name can be resolved; its own client would try for half a minute.

    Raises: ConnectionError when it cannot, DataError when the environment asks for no network.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DataError("the hub is switched off by HF_HUB_OFFLINE", hint="unset it, or name local files")
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # the proxy resolves names, this machine may not be able to
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT
    try:
        socket.getaddrinfo(host, 443)
    except socket.gaierror as error:
        raise ConnectionError(f"{host}: {error.strerror or 'name resolution failed'}") from error


def from_hub(name: str, load: Callable[[bool], T]) -> T:
    """What `load(local_files_only)` makes of a model of the hub: without a network, of its cache on this machine.

    Raises: FileNotFoundError when no model can have this name, ConnectionError when the hub cannot be reached and the
    cache has no such model; otherwise what `load` raises.
    """
    if not _MODEL_ID.fullmatch(name):
        raise FileNotFoundError("there is no such folder, and no model of the hub can have this name")
    try:
        check_network()
        reason = None
    except ConnectionError as error:
        reason = f"no connection: {error}"
    except DataError as error:
        reason = error.what
    with quiet():
        if reason is None:
            return load(False)
        try:
            return load(True)
        except (OSError, ValueError) as error:
            what = f"there is no such folder, and no such model in the hub's cache on this machine; {reason}"
            raise ConnectionError(what) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' own retry messages: ours say the same once, where the user reads."""
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
