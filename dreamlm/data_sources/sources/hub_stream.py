"""A data set of the Hugging Face hub as an endless-looking stream of records that survives a failing network."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

from dreamlm.core.errors import DataError, DreamLMError, UserMistake
from dreamlm.core.hub import check_network, quiet
from dreamlm.data_sources.images.picture import MOST_BYTES
from dreamlm.data_sources.retry import RetryPolicy, is_network_failure, reason_of
from dreamlm.data_sources.sources.record_shelf import Mark, Marked
from dreamlm.data_sources.sources.records import Record

RECORDS_PER_MARK = 256
"""After so many records the stream's position is noted; after a failure at most so many are passed over again."""
LOOK_SECONDS = 10.0
"""How long the hub may take to say what a branch stands for."""
_COMMIT = re.compile("[0-9a-f]{40}")


class ResumableStream(Protocol):
    """What this file needs of `datasets.IterableDataset`."""

    def __iter__(self) -> Iterator[Record]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class DatasetAddress:
    """Which data set, as `datasets.load_dataset` understands it."""

    dataset: str
    config_name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: tuple[str, ...] = ()
    on_hub: bool = True
    """False for a local folder and for files at other addresses: then the hub need not be reachable."""

    def __str__(self) -> str:
        if not self.on_hub:
            return f"{self.dataset}, split {self.split}"
        configuration = f"/{self.config_name}" if self.config_name else ""
        return f"{self.dataset}{configuration}@{self.revision or 'main'}/{self.split}"


def resumed_records(
    open_stream: Callable[[], ResumableStream],
    what: str,
    policy: RetryPolicy,
    on_notice: Callable[[str], None],
    mark: Mark | None = None,
) -> Iterator[Marked]:
    """The records of a stream in order, each once; after a network failure it is opened again where it stopped.

    They begin after the position `mark`; with each `RECORDS_PER_MARK`-th comes the position after it.
    Raises: DataError with the last reason when the policy allows no more tries, or the content cannot be read.
    """
    since_mark = 0
    failures = 0
    while True:
        try:
            stream = open_stream()
            if mark is not None:
                stream.load_state_dict(mark)
            passed = 0
            for record in stream:
                passed += 1
                if passed <= since_mark:
                    continue
                failures = 0
                since_mark = passed
                if since_mark == RECORDS_PER_MARK:
                    mark, since_mark, passed = stream.state_dict(), 0, 0
                yield record, None if since_mark else mark
            return
        except DreamLMError:
            raise
        except Exception as error:  # the library raises nearly every type on broken content
            failures += 1
            if not policy.allows(failures, error):
                if is_network_failure(error):
                    tries = f"{failures} tries" if failures > 1 else "1 try"
                    raise DataError(f"no connection after {tries}: {reason_of(error)}", where=what) from error
                raise DataError(f"cannot be read: {reason_of(error)}", where=what) from error
            policy.wait(failures, error, what, on_notice)


def open_hub_stream(address: DatasetAddress) -> ResumableStream:
    """The stream of a data set, not read yet.

    Raises: UserMistake when there is no such configuration or split, DataError when there is no such data set or it
    needs a script; network errors as they come, so that the caller can try again.
    """
    import datasets

    if address.on_hub:
        check_network()
    with quiet():
        try:
            stream: ResumableStream = datasets.load_dataset(
                address.dataset,
                address.config_name,
                split=address.split,
                revision=address.revision,
                data_files=list(address.data_files) or None,
                streaming=True,
            )
        except Exception as error:
            if is_network_failure(error):
                raise
            kind = UserMistake if isinstance(error, ValueError) else DataError  # of split and configuration it says
            raise kind(f"cannot be opened: {reason_of(error)}", where=str(address), hint=_hint(error)) from error
    return stream


def open_picture_stream(address: DatasetAddress, image_field: str) -> ResumableStream:
    """The same, of a data set with pictures: none is decoded on the way, and those of the hub are in their records.

    Raises: as `open_hub_stream`.
    """
    import datasets

    stream: Any = open_hub_stream(address)
    for name, feature in (stream.features or {}).items():
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(name, datasets.Image(decode=False))
    return cast(ResumableStream, stream.map(partial(_with_content, image_field)) if address.on_hub else stream)


def _with_content(image_field: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record with the bytes of a picture that it names on the hub."""
    from datasets.utils.file_utils import xopen

    value = record.get(image_field)
    if not isinstance(value, dict) or value.get("bytes") is not None or "hf://" not in str(value.get("path")):
        return record
    with xopen(value["path"], "rb") as file:
        return {**record, image_field: {**value, "bytes": file.read(MOST_BYTES + 1)}}


def commit_of(dataset: str, revision: str | None) -> str:
    """The commit that a branch, a tag or nothing (which is `main`) stands for on the hub now; a commit is itself.

    Raises: DataError when there is no such data set or revision; network errors as they come.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    check_network()
    import huggingface_hub

    where = f"{dataset}@{revision or 'main'}"
    try:
        found = huggingface_hub.HfApi().dataset_info(dataset, revision=revision, timeout=LOOK_SECONDS, expand=["sha"])
    except Exception as error:
        if is_network_failure(error):
            raise
        raise DataError(f"cannot be found on the hub: {reason_of(error)}", where=where, hint=_hint(error)) from error
    if found.sha is None:
        raise DataError("the hub names no commit", where=where)
    return found.sha


def _hint(error: BaseException) -> str:
    if "script" in str(error):
        return "data sets that need a Python script cannot be read; look for a Parquet version of it"
    return "check dataset, config_name, split and revision on the data set's page"
