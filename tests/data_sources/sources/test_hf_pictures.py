"""Claims about data sets of the `datasets` library whose records hold pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures_by_hand import declared, plain, write_folder

from dreamlm.core.errors import UserMistake
from dreamlm.core.types import Document, ImageForm
from dreamlm.data_sources.retry import RetryPolicy
from dreamlm.data_sources.sources import hub_stream
from dreamlm.data_sources.sources.huggingface import HuggingFace
from dreamlm.data_sources.sources.source import SourceContext, SourceReport


@pytest.fixture
def seeing(context: SourceContext) -> SourceContext:
    """The context of a model that takes pictures."""
    return replace(context, image_form=ImageForm(size=4, places=2))


def source(context: SourceContext, **options: Any) -> HuggingFace:
    config = HuggingFace.Config(**{"type": "hf", "image_field": "image", **options})
    return HuggingFace(config, context, RetryPolicy(attempts=1), lambda dataset, revision: "1" * 40)


def read(context: SourceContext, **options: Any) -> tuple[list[Document], SourceReport]:
    """All documents of a data set, and the report."""
    report = SourceReport("pictures")
    return list(source(context, **options).documents(report)), report


def middles(documents: list[Document]) -> list[tuple[str, list[int]]]:
    """The caption and the colour of each."""
    return [(one.text, one.picture[:, 1, 1].tolist()) for one in documents]  # type: ignore[index]


def write_parquet(path: Path, *pictures: dict[str, Any] | None, captions: list[str] | None = None) -> None:
    texts = captions or [f"Picture {number}." for number in range(len(pictures))]
    pq.write_table(pa.table({"image": pa.array(pictures), "caption": texts}), path)


def test_parquet_files_hold_their_pictures(seeing: SourceContext, data: Path) -> None:
    write_parquet(
        data / "a.parquet",
        {"bytes": plain("red"), "path": "a.png"},
        {"bytes": declared(50_000, 50_000), "path": None},
        {"bytes": None, "path": "/etc/passwd"},
        None,
        {"bytes": plain("blue"), "path": None},
    )
    documents, report = read(seeing, dataset="parquet", data_files="a.parquet")
    assert middles(documents) == [("Picture 0.", [255, 0, 0]), ("Picture 4.", [0, 0, 255])]
    assert report.drops == {"picture: more than 67,108,864 pixels": 1, "record: field image holds no picture": 2}


def test_a_folder_is_read_as_datasets_lays_it_out(seeing: SourceContext, data: Path) -> None:
    write_folder(data / "set" / "train", {"a.png": "A dot.", "b.png": "Ox"}, {"b.png": declared(50_000, 50_000)})
    documents, report = read(seeing, dataset="set")
    assert middles(documents) == [("A dot.", [0, 0, 128])]
    assert report.drops == {"picture: more than 67,108,864 pixels": 1}


def test_a_record_cannot_name_a_picture_outside_of_its_folder(seeing: SourceContext, data: Path) -> None:
    (data / "set").mkdir()
    for picture in (data / "outside.png", data / "set" / "inside.png"):
        picture.write_bytes(plain("red"))
    paths = [data / "outside.png", data / "set" / ".." / "outside.png", data / "set" / "inside.png"]
    pictures: list[dict[str, Any] | None] = [{"bytes": None, "path": str(path)} for path in paths]
    write_parquet(data / "set" / "train.parquet", {"bytes": plain("blue"), "path": None}, *pictures)
    documents, report = read(seeing, dataset="set", data_files="*.parquet", fields="caption")
    assert middles(documents) == [("Picture 0.", [0, 0, 255]), ("Picture 3.", [255, 0, 0])]
    assert report.drops == {"record: field image holds no picture": 2}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of the hub with a picture in two columns, one of them a bomb."""
    features = datasets.Features(
        {"image": datasets.Image(), "other": datasets.Image(), "caption": datasets.Value("string")}
    )
    rows = {
        "image": [{"bytes": plain("red"), "path": None}, {"bytes": plain("blue"), "path": None}],
        "other": [{"bytes": declared(50_000, 50_000), "path": None}] * 2,
        "caption": ["A red dot.", "Ox"],
    }
    stream = datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()
    monkeypatch.setattr(hub_stream, "open_hub_stream", lambda address: stream)


@pytest.mark.usefixtures("hub")
def test_a_stream_of_the_hub_decodes_no_picture_by_itself(seeing: SourceContext) -> None:
    documents, report = read(seeing, dataset="some/pictures", fields="caption")
    assert middles(documents) == [("A red dot.", [255, 0, 0]), ("Ox", [0, 0, 255])]
    assert {one.input for one in documents} == {"some/pictures@main/train"}
    assert not (seeing.cache_folder / "hub").exists()
    assert (report.inputs, report.drops) == (3, {})


@pytest.mark.usefixtures("hub")
def test_a_field_that_holds_nothing_is_named(seeing: SourceContext) -> None:
    with pytest.raises(UserMistake, match="the records have no field 'picture'") as caught:
        read(seeing, dataset="some/pictures", image_field="picture")
    assert caught.value.valid == ("image", "other", "caption")


@pytest.mark.usefixtures("hub")
def test_short_captions_stay_unless_the_source_itself_says_otherwise(seeing: SourceContext) -> None:
    assert seeing.min_text_length == 20
    documents, report = read(seeing, dataset="some/pictures", fields="caption", min_text_length=3)
    assert [one.text for one in documents] == ["A red dot."]
    assert report.drops == {"caption: shorter than 3 characters": 1}


def test_a_picture_that_lies_on_the_hub_is_fetched_with_its_record(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "a.png").write_bytes(plain("red"))
    monkeypatch.setattr("datasets.utils.file_utils.xopen", lambda path, mode: (tmp_path / path[-5:]).open(mode))
    fetched = hub_stream._with_content("image", {"image": {"bytes": None, "path": "hf://datasets/x/a.png"}})
    assert fetched["image"]["bytes"] == plain("red")
    for elsewhere in ("/etc/passwd", "https://example.org/a.png"):
        record = {"image": {"bytes": None, "path": elsewhere}}
        assert hub_stream._with_content("image", record) == record


def test_options_for_pictures_change_no_older_fingerprint() -> None:
    plainly = HuggingFace.Config(type="hf", dataset="some/text").model_dump(mode="json")
    assert "image_field" not in plainly
    assert "min_text_length" not in plainly
    pictured = HuggingFace.Config(type="hf", dataset="some/text", image_field="image", min_text_length=2)
    assert HuggingFace.Config.model_validate(pictured.model_dump(mode="json")) == pictured


def test_the_pictures_of_a_folder_may_be_links_to_where_the_content_is_kept(seeing: SourceContext, data: Path) -> None:
    (data / "snapshot" / "train").mkdir(parents=True)
    (data / "blobs").mkdir()
    write_folder(data / "snapshot" / "train", {"a.png": "A dot."}, {"a.png": plain("red")})
    (data / "snapshot" / "train" / "a.png").rename(data / "blobs" / "abc123")
    (data / "snapshot" / "train" / "a.png").symlink_to("../../blobs/abc123")
    (data / "link").symlink_to("snapshot")
    for dataset in ("snapshot", "link", "blobs/../snapshot"):
        documents, report = read(seeing, dataset=dataset, fields="text")
        assert (middles(documents), report.drops) == ([("A dot.", [255, 0, 0])], {})
