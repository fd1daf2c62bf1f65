"""Claims about data sets: streams that survive the network, local folders, and local files of any shape."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.data_sources.retry import RetryPolicy
from dreamlm.data_sources.sources import hub_stream, huggingface
from dreamlm.data_sources.sources.hub_stream import DatasetAddress, commit_of, open_hub_stream, resumed_records
from dreamlm.data_sources.sources.huggingface import HuggingFace
from dreamlm.data_sources.sources.record_shelf import Marked
from dreamlm.data_sources.sources.source import SourceContext, SourceReport

NO_WAIT = RetryPolicy(sleep=lambda seconds: None, draw=lambda: 0.5)


def texts(context: SourceContext, **options: Any) -> tuple[list[str], SourceReport]:
    """All documents of a data set, and the report."""
    config = HuggingFace.Config(type="hf", **options)
    report = SourceReport(config.source_name)
    source = HuggingFace(config, context, NO_WAIT, commit_of)
    return [document.text for document in source.documents(report)], report


class FailingStream:
    """Counts to `length`; the connection breaks just before each of the `breaks`, once."""

    def __init__(self, length: int, breaks: set[int], error: Callable[[], Exception]) -> None:
        self.length, self.breaks, self.error = length, breaks, error
        self.position = 0
        self.started_at = 0

    def __iter__(self) -> Iterator[dict[str, int]]:
        self.started_at = self.position
        while self.position < self.length:
            if self.position in self.breaks:
                self.breaks.discard(self.position)
                raise self.error()
            self.position += 1
            yield {"n": self.position - 1}

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.position = state_dict["position"]


def reset() -> Exception:
    """What a broken connection raises."""
    return ConnectionResetError("connection reset by peer")


@given(st.integers(0, 1500), st.sets(st.integers(0, 1500), max_size=8))
def test_a_stream_that_breaks_anywhere_gives_every_record_once(length: int, breaks: set[int]) -> None:
    left = set(breaks)
    records = resumed_records(lambda: FailingStream(length, left, reset), "x", NO_WAIT, lambda message: None)
    assert [record["n"] for record, _ in records] == list(range(length))


def test_a_resumed_stream_passes_over_few_records() -> None:
    opened: list[FailingStream] = []
    breaks = {1000}

    def reopen() -> FailingStream:
        opened.append(FailingStream(1100, breaks, reset))
        return opened[-1]

    assert len(list(resumed_records(reopen, "x", NO_WAIT, lambda message: None))) == 1100
    assert [stream.started_at for stream in opened] == [0, 768]
    assert hub_stream.RECORDS_PER_MARK == 256


def test_a_lasting_failure_ends_with_its_reason_and_the_number_of_tries() -> None:
    def broken() -> FailingStream:
        raise ConnectionError("refused")

    with pytest.raises(DataError) as caught:
        list(resumed_records(broken, "a/b@main/train", NO_WAIT, lambda message: None))
    assert str(caught.value) == "no connection after 6 tries: refused\nat: a/b@main/train"


def test_progress_restores_the_tries() -> None:
    breaks = set(range(0, 300, 10))
    records = resumed_records(lambda: FailingStream(300, breaks, reset), "x", NO_WAIT, lambda message: None)
    assert len(list(records)) == 300


def test_broken_content_is_an_error_and_not_tried_again() -> None:
    stream = FailingStream(10, {5}, lambda: OverflowError("bad page header"))
    with pytest.raises(DataError, match="cannot be read: bad page header"):
        list(resumed_records(lambda: stream, "x", NO_WAIT, lambda message: None))


def test_without_network_the_reason_comes_after_three_quick_tries(
    context: SourceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*address: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    slept: list[float] = []
    policy = RetryPolicy(sleep=slept.append)
    config = HuggingFace.Config(type="hf", dataset="wikimedia/wikipedia", config_name="20231101.en")
    with pytest.raises(DataError) as caught:
        list(HuggingFace(config, context, policy, commit_of).documents(SourceReport("wikipedia")))
    assert caught.value.what == "no connection: huggingface.co: Name or service not known"
    assert caught.value.where == "wikimedia/wikipedia"
    assert len(slept) == 2
    assert sum(slept) <= 3


def test_a_switched_off_hub_is_said_at_once(context: SourceContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        texts(context, dataset="a/b")


def parquet_folder(folder: Path, word: str) -> Path:
    """A data set folder like those of the hub: a README that names the files of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", 700), ("validation", 30)):
        table = pa.table({"text": [f"{word} is the word of {split} row {n}." for n in range(rows)]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=100)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*\n"
        "  - split: validation\n    path: validation-*\n---\n"
    )
    return folder


def test_two_folders_of_the_same_name_keep_their_own_rows(context: SourceContext, data: Path) -> None:
    for word in ("first", "second"):
        parquet_folder(data / word / "corpus", word)
    for word in ("first", "second"):
        found, _ = texts(context, dataset=f"{word}/corpus")
        assert found[0] == f"{word} is the word of train row 0."
        assert len(found) == 700


def test_replaced_files_give_their_new_rows_and_another_fingerprint(context: SourceContext, data: Path) -> None:
    config = HuggingFace.Config(type="hf", dataset="corpus", split="validation")
    parquet_folder(data / "corpus", "old")
    before = config.build(context).fingerprint()
    assert texts(context, dataset="corpus", split="validation")[0][0].startswith("old")
    shutil.rmtree(data / "corpus")
    parquet_folder(data / "corpus", "new")
    assert texts(context, dataset="corpus", split="validation")[0][0].startswith("new")
    assert config.build(context).fingerprint() != before


def test_a_folder_fingerprint_follows_the_names_inside_but_not_its_own(context: SourceContext, data: Path) -> None:
    parquet_folder(data / "corpus", "some")
    before = HuggingFace.Config(type="hf", dataset="corpus").build(context).fingerprint()
    (data / "corpus").rename(data / "renamed")
    assert HuggingFace.Config(type="hf", dataset="renamed").build(context).fingerprint() == before
    (data / "renamed" / "train-00000-of-00001.parquet").rename(data / "renamed" / "validation-1.parquet")
    assert HuggingFace.Config(type="hf", dataset="renamed").build(context).fingerprint() != before


def test_a_folder_fingerprint_follows_what_is_read_of_it(context: SourceContext, data: Path) -> None:
    def fingerprint(**options: Any) -> str:
        return HuggingFace.Config(type="hf", dataset="corpus", **options).build(context).fingerprint()

    (data / "corpus").mkdir()
    names = ("a_test.jsonl", "b_validation.jsonl", "c_train.jsonl")
    for name, text in zip(names, ("alpha", "beta", "alpha"), strict=True):
        (data / "corpus" / name).write_text(json.dumps({"text": text}))
    before = fingerprint()
    assert fingerprint(data_files="a_test.jsonl") != fingerprint(data_files="b_validation.jsonl") != before
    (data / "corpus" / "c_train.jsonl").write_text(json.dumps({"text": "beta"}))
    assert fingerprint() != before


def test_the_real_stream_resumes_at_the_exact_record(data: Path) -> None:
    folder = parquet_folder(data / "corpus", "some")
    left = [650, 300, 10]

    class Breaking:
        def __init__(self) -> None:
            self.stream = open_hub_stream(DatasetAddress(str(folder), on_hub=False))
            self.state_dict, self.load_state_dict = self.stream.state_dict, self.stream.load_state_dict

        def __iter__(self) -> Iterator[Any]:
            for record in self.stream:
                if left and record["text"].endswith(f" {left[-1]}."):
                    left.pop()
                    raise ConnectionResetError("reset")
                yield record

    records = list(resumed_records(Breaking, "x", NO_WAIT, lambda message: None))
    assert [record["text"] for record, _ in records] == [f"some is the word of train row {n}." for n in range(700)]
    assert left == []


def test_the_real_stream_goes_on_in_another_process_from_a_mark_that_was_written_down(data: Path) -> None:
    address = DatasetAddress(str(parquet_folder(data / "corpus", "some")), on_hub=False)

    def read(mark: dict[str, Any] | None) -> list[Marked]:
        return list(resumed_records(lambda: open_hub_stream(address), "x", NO_WAIT, lambda message: None, mark))

    everything = read(None)
    marks = [number for number, (_, mark) in enumerate(everything) if mark is not None]
    assert marks == [255, 511]
    for number in marks:
        written = json.loads(json.dumps(everything[number][1]))
        assert [record for record, _ in read(written)] == [record for record, _ in everything[number + 1 :]]


def test_an_unknown_split_is_the_users_mistake_and_lists_the_splits(context: SourceContext, data: Path) -> None:
    parquet_folder(data / "corpus", "some")
    with pytest.raises(UserMistake, match=r"train.*validation"):
        texts(context, dataset="corpus", split="test")


def test_a_format_with_an_unknown_field_lists_the_fields_of_a_stream(context: SourceContext, data: Path) -> None:
    parquet_folder(data / "corpus", "some")
    with pytest.raises(UserMistake) as caught:
        texts(context, dataset="corpus", format="Q: {query}")
    assert caught.value.what == "the records have no field 'query'"
    assert caught.value.valid == ("text",)


ROWS = [{"question": f"What is the name of number {n}?", "answer": f"It is {n}."} for n in range(40)]
FORMAT = "Q: {question}\nA: {answer}"
EXPECTED = [FORMAT.format(**row) for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.json", json.dumps(ROWS), {"dataset": "json"}),
        ("a.json", "\n".join(map(json.dumps, ROWS)), {"dataset": "json"}),
        ("a.json", json.dumps({"data": {"rows": ROWS}}), {"dataset": "json", "records_path": "data.rows"}),
        ("a.csv", "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS), {"dataset": "csv"}),
        (
            "a.tsv",
            "".join(f"{r['question']}\t{r['answer']}\n" for r in ROWS),
            {"dataset": "csv", "delimiter": "\t", "column_names": ["question", "answer"]},
        ),
    ],
)
def test_local_files_of_every_shape_give_the_same_documents(
    context: SourceContext, data: Path, name: str, content: str, options: dict[str, Any]
) -> None:
    (data / name).write_text(content)
    assert texts(context, data_files=name, format=FORMAT, **options)[0] == EXPECTED


def test_a_row_with_too_few_or_many_columns_is_counted(context: SourceContext, data: Path) -> None:
    (data / "a.csv").write_text("question,answer\nWhat is the first of them?,One\nlonely\na,b,c\n")
    found, report = texts(context, dataset="csv", data_files="a.csv", format=FORMAT)
    assert found == ["Q: What is the first of them?\nA: One"]
    assert report.drops == {"record: 1 columns instead of 2": 1, "record: 3 columns instead of 2": 1}


def test_every_line_is_a_record_of_the_text_builder(context: SourceContext, data: Path) -> None:
    (data / "a.txt").write_text("The first line of the file.\n\nThe second line of the file.\n")
    found, _ = texts(context, dataset="text", data_files="a.txt")
    assert found == ["The first line of the file.", "The second line of the file."]


def test_a_hub_fingerprint_needs_no_network_and_follows_the_revision(context: SourceContext) -> None:
    config = HuggingFace.Config(type="hf", dataset="a/b")
    source = config.build(context)
    assert not source.bounded
    pinned = config.model_copy(update={"revision": "abc"}).build(context)
    other = config.model_copy(update={"dataset": "a/c"}).build(context)
    assert len({source.fingerprint(), pinned.fingerprint(), other.fingerprint()}) == 3
    assert config.model_copy(update={"name": "mine"}).build(context).fingerprint() == source.fingerprint()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Says what a revision stands for; a test moves `main` on or takes the network away."""

    def __init__(self, main: str) -> None:
        self.main, self.reachable = main, True
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, dataset: str, revision: str | None) -> str:
        self.asked.append((dataset, revision))
        if not self.reachable:
            raise ConnectionError("name resolution failed")
        return self.main


def test_the_version_is_the_commit_of_the_revision_asked_for_once(context: SourceContext) -> None:
    hub = Hub(COMMIT)
    source = HuggingFace(HuggingFace.Config(type="hf", dataset="a/b", revision="v2"), context, NO_WAIT, hub)
    assert source.version() == COMMIT
    hub.main = "f" * 40
    assert source.version() == COMMIT
    assert hub.asked == [("a/b", "v2")]


def test_without_network_the_version_is_not_known_and_asked_for_again(context: SourceContext) -> None:
    hub = Hub(COMMIT)
    source = HuggingFace(HuggingFace.Config(type="hf", dataset="a/b"), context, NO_WAIT, hub)
    hub.reachable = False
    with pytest.raises(DataError, match="no connection: name resolution failed"):
        source.version()
    hub.reachable = True
    assert source.version() == COMMIT


def test_exactly_the_version_is_streamed_also_when_main_moves_on(
    context: SourceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, opened = Hub(COMMIT), list[str | None]()
    breaks = {100}

    class Texts(FailingStream):
        def __iter__(self) -> Iterator[Any]:
            return ({"text": f"This is the document number {record['n']}."} for record in super().__iter__())

    def stream(address: DatasetAddress) -> FailingStream:
        opened.append(address.revision)
        hub.main = "f" * 40
        return Texts(200, breaks, reset)

    monkeypatch.setattr(huggingface, "open_hub_stream", stream)
    source = HuggingFace(HuggingFace.Config(type="hf", dataset="a/b"), context, NO_WAIT, hub)
    assert len(list(source.documents(SourceReport("b")))) == 200
    assert opened == [COMMIT, COMMIT]


def test_a_commit_stands_for_itself_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_stream, "check_network", lambda: pytest.fail("the network was used"))
    assert commit_of("a/b", COMMIT) == COMMIT


def test_the_hub_is_asked_for_the_commit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def dataset_info(self: object, dataset: str, **options: Any) -> huggingface_hub.DatasetInfo:
        assert (dataset, options["revision"], options["expand"]) == ("a/b", "v2", ["sha"])
        return huggingface_hub.DatasetInfo(id="a/b", sha=COMMIT)

    monkeypatch.setattr(hub_stream, "check_network", lambda: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    assert commit_of("a/b", "v2") == COMMIT


def test_a_data_set_that_the_hub_does_not_have_is_said_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def missing(self: object, dataset: str, **options: Any) -> None:
        raise ValueError("Repository Not Found for url")

    monkeypatch.setattr(hub_stream, "check_network", lambda: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", missing)
    with pytest.raises(DataError) as caught:
        commit_of("a/b", None)
    assert caught.value.what == "cannot be found on the hub: Repository Not Found for url"
    assert caught.value.where == "a/b@main"


@pytest.mark.parametrize("options", [{"dataset": "corpus"}, {"dataset": "csv", "data_files": "a.csv"}])
def test_local_data_has_no_version_besides_its_content(
    context: SourceContext, data: Path, options: dict[str, Any]
) -> None:
    (data / "corpus").mkdir()
    assert HuggingFace(HuggingFace.Config(type="hf", **options), context, NO_WAIT, Hub(COMMIT)).version() == ""
