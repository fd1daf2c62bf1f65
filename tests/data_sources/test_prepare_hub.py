"""What becomes of a corpus when the data set behind it changes on the hub, or the hub cannot be asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamlm.core.tokenizer import BytePair
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.preparation.cache_key import Difference
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.progress import Progress, Silence
from dreamlm.data_sources.sources import huggingface, record_shelf
from dreamlm.data_sources.sources.hub_stream import DatasetAddress

FIRST, SECOND = "1" * 40, "2" * 40
BYTES_KEPT = 6000


class Hub:
    """A data set whose documents name the commit they come from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.main, self.reachable, self.streams = FIRST, True, 0
        self.dies_at = -1
        self.records_read = 0
        monkeypatch.setattr(huggingface, "commit_of", self.commit_of)
        monkeypatch.setattr(huggingface, "open_hub_stream", self.open_stream)

    def commit_of(self, dataset: str, revision: str | None) -> str:
        if not self.reachable:
            raise ConnectionError("name resolution failed")
        return revision or self.main

    def open_stream(self, address: DatasetAddress) -> Any:
        self.streams += 1
        return Records(self, str(address.revision))


class Records:
    def __init__(self, hub: Hub, commit: str) -> None:
        self.hub, self.commit, self.position = hub, commit, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            self.position += 1
            self.hub.records_read += 1
            if self.position == self.hub.dies_at:
                raise KeyboardInterrupt
            yield self.record(f"Document {self.position} of the commit {self.commit}, with words enough to be kept.")

    def record(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = state_dict["position"]


class Notices(Silence):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def notice(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


def request(tmp_path: Path, progress: Progress, kept: int = BYTES_KEPT, **options: Any) -> Preparation:
    source = huggingface.HuggingFace.Config(type="hf", name="web", dataset="some/web", **options)
    return Preparation(
        Preparation.Config(sources=[source]),
        BytePair(vocab_size=300),
        tmp_path / "corpus",
        progress=progress,
        stream_byte_limit=kept,
        cache_folder=tmp_path / "cache",
        base_folder=tmp_path,
    )


def prepared(tmp_path: Path, trained_on: str = "", **options: Any) -> tuple[Corpus, list[str]]:
    progress = Notices()
    corpus = request(tmp_path, progress, **options).run(trained_on)
    return corpus, [message for message in progress.messages if not message.startswith("tokenising")]


def test_a_corpus_names_the_commit_it_came_from_and_is_used_again_while_that_is_the_newest(
    hub: Hub, tmp_path: Path
) -> None:
    corpus, _ = prepared(tmp_path)
    assert corpus.manifest.key["version of web"] == FIRST
    assert (prepared(tmp_path)[1], hub.streams) == ([], 1)


def test_a_data_set_that_changed_upstream_is_read_again(hub: Hub, tmp_path: Path) -> None:
    first, _ = prepared(tmp_path)
    hub.main = SECOND
    assert request(tmp_path, Silence()).differences() == [Difference("version of web", "1" * 12, "2" * 12)]
    second, _ = prepared(tmp_path)
    assert second.manifest.key["version of web"] == SECOND
    assert second.fingerprint != first.fingerprint


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dies_at", [10, 257, 700])
def test_an_interrupted_preparation_goes_on_in_the_stream_and_gives_the_same_bytes(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    monkeypatch.setattr(record_shelf, "PIECE_BYTES", 20_000)
    kept = 100_000
    (tmp_path / "unbroken").mkdir()
    whole, _ = prepared(tmp_path / "unbroken", kept=kept)
    hub.dies_at, needed, hub.records_read = dies_at, hub.records_read, 0
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, kept=kept)
    hub.dies_at = -1
    resumed, _ = prepared(tmp_path, kept=kept)
    assert content(resumed.folder) == content(whole.folder)
    lost = dies_at - 1 - (dies_at - 1) // 256 * 256
    assert hub.records_read == needed + lost + 1


def test_a_stream_that_goes_on_reads_the_field_that_its_first_record_decided_on(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(self: Records, text: str) -> dict[str, Any]:
        if self.position == 1:
            return {"body": text}
        return {"body": text, "title": "T"} if self.position % 3 == 1 else {"error": text}

    monkeypatch.setattr(Records, "record", record)
    monkeypatch.setattr(record_shelf, "PIECE_BYTES", 5_000)
    (tmp_path / "unbroken").mkdir()
    whole, _ = prepared(tmp_path / "unbroken", kept=20_000)
    (source,) = whole.manifest.sources
    assert source.drops == {"record: lacks the field body": 2 * (source.documents - 1)}
    hub.dies_at = 600
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, kept=20_000)
    hub.dies_at = -1
    resumed, notices = prepared(tmp_path, kept=20_000)
    assert notices == ["some/web@main/train: 512 records were read before; the stream goes on after them"]
    assert content(resumed.folder) == content(whole.folder)


def test_a_larger_request_goes_on_where_the_smaller_one_ended(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_shelf, "PIECE_BYTES", 20_000)
    prepared(tmp_path, kept=100_000)
    before, hub.records_read = hub.records_read, 0
    _, notices = prepared(tmp_path, kept=200_000)
    assert hub.records_read == pytest.approx(2 * before - 768, abs=20)
    assert notices == ["some/web@main/train: 768 records were read before; the stream goes on after them"]


def test_without_network_the_corpus_that_is_there_is_used_and_that_is_said(hub: Hub, tmp_path: Path) -> None:
    first, _ = prepared(tmp_path)
    hub.main, hub.reachable = SECOND, False
    second, notices = prepared(tmp_path)
    assert (second.fingerprint, hub.streams) == (first.fingerprint, 1)
    assert notices == [
        "source web cannot be looked at: no connection: name resolution failed (some/web); "
        "the corpus that is there is taken to be up to date"
    ]


def test_without_network_a_corpus_of_other_options_is_still_another_one(hub: Hub, tmp_path: Path) -> None:
    prepared(tmp_path)
    hub.reachable = False
    found = request(tmp_path, Silence(), format="About {text}").differences()
    assert [difference.component for difference in found] == ["source web"]


def test_a_run_keeps_its_corpus_when_the_data_set_changed_upstream(hub: Hub, tmp_path: Path) -> None:
    first, _ = prepared(tmp_path)
    hub.main = SECOND
    kept, notices = prepared(tmp_path, first.fingerprint, kept=2 * BYTES_KEPT)
    assert (kept.fingerprint, hub.streams) == (first.fingerprint, 1)
    assert notices == [
        f"the run keeps its corpus: limit of web: the corpus has {BYTES_KEPT}, wanted is {2 * BYTES_KEPT}",
        "the run keeps its corpus: version of web: the corpus has 111111111111, wanted is 222222222222",
    ]


def test_a_version_that_was_found_out_late_is_the_one_written_down(hub: Hub, tmp_path: Path) -> None:
    """The network comes back between the first look and the reading."""
    hub.reachable = False
    progress = Notices()
    wanted = request(tmp_path, progress)
    look = wanted.key

    def then_reachable() -> dict[str, str]:
        key = look()
        hub.reachable = True
        return key

    wanted.key = then_reachable  # type: ignore[method-assign]
    assert wanted.run().manifest.key["version of web"] == FIRST
