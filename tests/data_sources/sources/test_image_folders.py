"""Claims about folders of pictures with captions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pictures_by_hand import declared, moving, plain, write_folder
from pydantic import ValidationError

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.types import Document, ImageForm
from dreamlm.data_sources.sources import captioned
from dreamlm.data_sources.sources.images import ImageFolders
from dreamlm.data_sources.sources.source import SourceContext, SourceReport

FORM = ImageForm(size=4, places=2)


def source(context: SourceContext, **options: Any) -> ImageFolders:
    config = ImageFolders.Config(**{"type": "images", "paths": ".", **options})
    return config.build(context if context.image_form else replace(context, image_form=FORM))


def read(context: SourceContext, **options: Any) -> tuple[list[Document], SourceReport]:
    """All documents of a source, and its report."""
    report = SourceReport("images")
    return list(source(context, **options).documents(report)), report


def captions(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


def test_a_record_is_a_caption_with_its_picture(context: SourceContext, data: Path) -> None:
    write_folder(data, {"a.png": "A dot.", "sub/b.png": " Two\u00a0dots. "}, {"a.png": plain("red")})
    documents, report = read(context)
    assert [(one.text, one.input) for one in documents] == [("A dot.", "a.png"), ("Two dots.", "sub/b.png")]
    assert all(one.picture is not None and one.picture.shape == (3, 4, 4) for one in documents)
    assert documents[0].picture[:, 1, 1].tolist() == [255, 0, 0]  # type: ignore[index]
    assert (report.inputs, report.documents, report.bytes, report.drops) == (3, 2, 6 + 9, {})


def test_what_is_left_out_is_counted_by_reason_and_named(context: SourceContext, data: Path) -> None:
    names = ["good.png", "absent.png", "cut.png", "text.png", "moving.gif", "huge.png", "empty.png"]
    pictures = {
        "cut.png": plain("red", 30, 30)[:-25],
        "text.png": b"no picture",
        "moving.gif": moving(),
        "huge.png": declared(50_000, 50_000),
        "empty.png": b"",
    }
    write_folder(data, {name: f"This is {name}" for name in names}, pictures)
    (data / "absent.png").unlink()
    with (data / "metadata.jsonl").open("a") as file:
        for record in (
            {"file_name": "../outside.png", "text": "Elsewhere."},
            {"file_name": "/etc/passwd", "text": "Elsewhere."},
            {"file_name": "C:\\pictures\\a.png", "text": "Elsewhere."},
            {"file_name": None, "text": "Nothing."},
            {"file_name": "good.png"},
            {"file_name": "good.png", "text": " \u200b "},
            {"file_name": "good.png", "text": "Ã©Ã©Ã©Ã©"},
        ):
            file.write(json.dumps(record) + "\n")
        file.write("{broken\n")
    (data.parent / "outside.png").write_bytes(plain("red"))
    documents, report = read(context)
    assert captions(documents) == ["This is good.png"]
    assert report.drops == {
        "picture: missing": 1,
        "picture: truncated": 1,
        "picture: no picture of a known format": 1,
        "picture: more than one frame": 1,
        "picture: more than 67,108,864 pixels": 1,
        "picture: empty": 1,
        "record: the picture's path leaves the folder": 3,
        "record: names no picture": 1,
        "record: lacks the field text": 1,
        "record: no JSON": 1,
        "caption: shorter than 1 characters": 1,
        "caption: mojibake": 1,
    }
    assert report.examples["picture: missing"] == ["absent.png"]
    assert report.examples["record: the picture's path leaves the folder"][0] == "metadata.jsonl record 8"


def test_short_captions_stay_unless_the_source_itself_says_otherwise(context: SourceContext, data: Path) -> None:
    write_folder(data, {"a.png": "Ox", "b.png": "An ox in a field"})
    assert context.min_text_length == 20
    assert captions(read(context)[0]) == ["Ox", "An ox in a field"]
    documents, report = read(context, min_text_length=3)
    assert (captions(documents), report.drops) == (["An ox in a field"], {"caption: shorter than 3 characters": 1})


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_gives_the_same_documents(context: SourceContext, data: Path, workers: int) -> None:
    write_folder(data, {f"{number}.png": f"Picture {number}." for number in range(60)}, {"7.png": b"broken"})
    documents, report = read(replace(context, workers=workers))
    assert captions(documents) == [f"Picture {number}." for number in range(60) if number != 7]
    assert [int(one.picture[0, 0, 0]) for one in documents] == [n for n in range(60) if n != 7]  # type: ignore[index]
    assert report.inputs == 61


def test_few_pictures_wait_for_their_turn(context: SourceContext, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(data, {f"{number}.png": f"Picture {number}." for number in range(60)})
    opened, plainly = [], captioned.open_picture

    def counting(picture: Path | bytes, size: int) -> Any:
        opened.append(picture)
        return plainly(picture, size)

    monkeypatch.setattr(captioned, "open_picture", counting)
    documents = source(replace(context, workers=2)).documents(SourceReport("images"))
    next(documents)
    documents.close()  # type: ignore[attr-defined]
    assert len(opened) <= 2 * captioned.PICTURES_AHEAD + 1


def test_without_a_form_captions_come_alone(
    context: SourceContext, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(data, {"a.png": "A dot."})
    monkeypatch.setattr(captioned, "open_picture", lambda *_: pytest.fail("a picture was opened"))
    config = ImageFolders.Config(type="images", paths=".")
    assert list(config.build(context).documents(SourceReport("images"))) == [Document("A dot.", "a.png")]


def test_captions_are_found_under_usual_names_or_by_the_name_given(context: SourceContext, data: Path) -> None:
    (data / "a.png").write_bytes(plain("red"))
    (data / "metadata.csv").write_text("file_name,text\na.png,from csv\n")
    assert captions(read(context)[0]) == ["from csv"]
    (data / "captions.jsonl").write_text('{"file_name": "a.png", "text": "from captions"}\n')
    assert captions(read(context)[0]) == ["from captions"]
    (data / "other.json").write_text('[{"image": "a.png", "title": "A", "about": "dot"}]')
    documents, _ = read(context, captions="other.json", image_field="image", format="{title} {about}")
    assert captions(documents) == ["A dot"]


def test_folders_come_in_the_order_of_their_captions(context: SourceContext, data: Path) -> None:
    write_folder(data / "one", {"a.png": "First."})
    write_folder(data / "two", {"a.png": "Second."})
    assert captions(read(context, paths=["one", "two"])[0]) == captions(read(context, paths=["two", "one"])[0])


def test_the_fingerprint_covers_pictures_and_captions_but_no_place(context: SourceContext, data: Path) -> None:
    write_folder(data / "one", {"a.png": "A dot.", "b.png": "A line."})
    first = source(context, paths="one").fingerprint()
    (data / "one" / "unnamed.png").write_bytes(plain("red"))
    (data / "one").rename(data / "two")
    assert source(context, paths="two", name="dots").fingerprint() == first
    (data / "two" / "b.png").write_bytes(plain("red"))
    second = source(context, paths="two").fingerprint()
    (data / "two" / "b.png").unlink()
    third = source(context, paths="two").fingerprint()
    write_folder(data / "two", {"a.png": "A dot.", "b.png": "A thin line."})
    fourth = source(context, paths="two").fingerprint()
    assert len({first, second, third, fourth, source(context, paths="two", min_text_length=2).fingerprint()}) == 5


def test_the_fingerprint_knows_as_what_captions_are_read(context: SourceContext, data: Path) -> None:
    seen = set()
    for name in ("captions.csv", "captions.jsonl", "captions.jsonl.gz"):
        (data / name).write_text("file_name,text\n")
        seen.add(source(context, captions=name).fingerprint())
        (data / name).unlink()
    assert len(seen) == 3


def test_the_fingerprint_knows_which_picture_is_missing(context: SourceContext, data: Path) -> None:
    found = []
    for absent in ("a.png", "b.png"):
        write_folder(data, {"a.png": "A dot.", "b.png": "A line."}, {"a.png": plain("red"), "b.png": plain("red")})
        (data / absent).unlink()
        found.append(source(context).fingerprint())
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("options", "missing"), [({"image_field": "image"}, "image"), ({"fields": "caption"}, "caption")]
)
def test_a_field_that_no_record_has_is_named_with_those_there_are(
    context: SourceContext, data: Path, options: dict[str, str], missing: str
) -> None:
    write_folder(data, {"a.png": "A dot."})
    with pytest.raises(UserMistake, match=f"the records have no field '{missing}'") as caught:
        read(context, **options)
    assert set(caught.value.valid) <= {"file_name", "text"}
    assert caught.value.valid


def test_a_folder_without_captions_says_what_was_looked_for(context: SourceContext, data: Path) -> None:
    (data / "empty").mkdir()
    (data / "file").write_text("")
    with pytest.raises(DataError, match=r"no captions file in .*: looked for metadata.jsonl, captions.jsonl, meta"):
        source(context, paths="empty").fingerprint()
    with pytest.raises(DataError, match=r"there is no such folder: .*absent"):
        source(context, paths="absent").fingerprint()
    with pytest.raises(DataError, match=r"this is no folder: .*file"):
        source(context, paths="file").fingerprint()


def test_a_folder_of_nothing_usable_says_why(context: SourceContext, data: Path) -> None:
    write_folder(data, {"a.png": "A dot.", "b.png": "A line."}, {"a.png": b"", "b.png": b""})
    with pytest.raises(DataError, match=r"no usable text in 3 inputs \(2 x picture: empty\)"):
        read(context)


@pytest.mark.parametrize("captions_file", ["sub/captions.jsonl", "captions.txt", ""])
def test_a_captions_file_of_no_known_kind_is_refused(captions_file: str) -> None:
    with pytest.raises(ValidationError, match="captions"):
        ImageFolders.Config(type="images", paths=".", captions=captions_file)


@pytest.mark.parametrize("limit", [1, 7, 20, None])
def test_how_far_is_read_ahead_changes_no_report(
    context: SourceContext, data: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    names = [f"{n}.png" for n in range(60)]
    write_folder(data, dict.fromkeys(names, "A dot."), {name: plain("red") for name in names})
    lines = [json.dumps({"file_name": name, "text": None if n % 3 else "A dot."}) for n, name in enumerate(names)]
    (data / "metadata.jsonl").write_text("\n".join([*lines, "no JSON"]))
    reports = []
    for workers in (1, 2, 9):
        _, report = read(replace(context, image_form=FORM, workers=workers), max_documents=limit)
        reports.append(report.as_json())
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["drops"] != {} or limit == 1
    assert limit is not None or reports[0]["drops"] == {"record: field text is null": 40, "record: no JSON": 1}
