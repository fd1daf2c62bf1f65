"""Claims about local text, JSON Lines and Parquet files."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.data_sources.sources import record_files
from dreamlm.data_sources.sources import text as text_module
from dreamlm.data_sources.sources.source import SourceContext, SourceReport
from dreamlm.data_sources.sources.text import TextFiles


def texts(context: SourceContext, **options: Any) -> tuple[list[str], SourceReport]:
    """All documents of a source, and its report."""
    config = TextFiles.Config(**{"paths": ".", **options})
    report = SourceReport(config.source_name)
    return [document.text for document in config.build(context).documents(report)], report


def lines(*records: object) -> str:
    """The records as JSON Lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def test_a_short_file_is_one_document_and_a_long_one_several(
    context: SourceContext, data: Path, prose: Callable[..., str]
) -> None:
    (data / "short.txt").write_text(prose(5))
    (data / "long.md").write_text("\n\n".join(prose(6, seed) for seed in range(60)))
    found, report = texts(context, type="text", document_characters=5000)
    assert prose(5) in found
    assert all(len(text) <= 5000 for text in found)
    words = (data / "long.md").read_text().split() + prose(5).split()
    assert sum(len(text.split()) for text in found) == len(words)
    assert (report.inputs, report.documents, report.drops) == (2, len(found), {})


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compression_changes_no_document(
    context: SourceContext, data: Path, prose: Callable[..., str], suffix: str
) -> None:
    (data / "plain.txt").write_text("\ufeff" + prose(2000))
    plain, _ = texts(context, type="text")
    content = (data / "plain.txt").read_bytes()
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    (data / "plain.txt").unlink()
    (data / f"plain.txt{suffix}").write_bytes(packed)
    assert texts(context, type="text")[0] == plain
    assert len(plain) > 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_was_cut_off_is_damaged(
    context: SourceContext, data: Path, prose: Callable[..., str], suffix: str, share: float
) -> None:
    content = prose(20000).encode()
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.compress(content)
    (data / "whole.txt").write_text(prose(20, seed=1))
    (data / f"cut.txt{suffix}").write_bytes(packed[: int(len(packed) * share)])
    _, report = texts(context, type="text")
    assert report.drops == {"file: damaged": 1}
    assert "early" in report.examples["file: damaged"][0] or suffix == ".gz"


def test_zstd_files_may_have_many_frames(context: SourceContext, data: Path, prose: Callable[..., str]) -> None:
    paragraphs = [prose(5, seed) + "\n\n" for seed in range(40)]
    frames = [zstandard.compress(one.encode()) for one in paragraphs]
    skipped = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"ignored"
    (data / "a.txt.zst").write_bytes(skipped.join(frames))
    found, report = texts(context, type="text", document_characters=100_000)
    assert report.drops == {}
    assert "\n\n".join(found).split() == "".join(paragraphs).split()


@pytest.mark.parametrize("content", [b"\x28\xb5\x2f\xfd and nothing", b"no zstd at all", b"\x28\xb5"])
def test_what_is_no_zstd_is_damaged(
    context: SourceContext, data: Path, prose: Callable[..., str], content: bytes
) -> None:
    (data / "whole.txt").write_text(prose(20))
    (data / "a.txt.zst").write_bytes(content)
    assert texts(context, type="text")[1].drops == {"file: damaged": 1}


def test_a_link_is_read_by_its_own_name(context: SourceContext, data: Path, prose: Callable[..., str]) -> None:
    (data.parent / "blobs").mkdir()
    (data.parent / "blobs" / "abc123").write_bytes(gzip.compress(prose(20).encode()))
    (data / "a.txt.gz").symlink_to("../blobs/abc123")
    (data / "again.txt.gz").symlink_to("a.txt.gz")
    found, report = texts(context, type="text")
    assert found == [prose(20)]
    assert report.drops == {}


@pytest.mark.parametrize("paths", [".", "*"])
def test_what_may_not_be_looked_at_is_noted(
    context: SourceContext, data: Path, prose: Callable[..., str], monkeypatch: pytest.MonkeyPatch, paths: str
) -> None:
    (data / "mine.txt").write_text(prose(20))
    (data / "private.txt").write_text(prose(20, seed=1))
    is_file = Path.is_file

    def forbidden(path: Path) -> bool:
        if path.name == "private.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", forbidden)
    found, report = texts(context, type="text", paths=paths)
    assert found == [prose(20)]
    assert report.drops == {"file: cannot be read": 1}
    assert report.examples["file: cannot be read"][0].startswith("private.txt ([Errno 13] Permission denied")
    with pytest.raises(DataError, match=r"cannot be read: .*Permission denied: .*private.txt"):
        TextFiles.Config(type="text", paths=("private.txt",)).build(context).fingerprint()


def test_names_and_folders_change_neither_order_nor_fingerprint(
    context: SourceContext, data: Path, prose: Callable[..., str]
) -> None:
    for seed in range(6):
        (data / f"{seed}.txt").write_text(prose(5, seed))
    before, _ = texts(context, type="text")
    fingerprint = TextFiles.Config(type="text", paths=(".",)).build(context).fingerprint()
    (data / "below").mkdir()
    for seed in range(6):
        (data / f"{seed}.txt").rename(data / "below" / f"{9 - seed}.md")
    assert texts(context, type="text")[0] == before
    assert TextFiles.Config(type="text", paths=("below",)).build(context).fingerprint() == fingerprint


def test_every_change_of_content_or_options_changes_the_fingerprint(context: SourceContext, data: Path) -> None:
    (data / "a.jsonl").write_text(lines({"text": "one"}))
    config = TextFiles.Config(type="jsonl", paths=("a.jsonl",))
    seen = {config.build(context).fingerprint()}
    seen.add(config.model_copy(update={"fields": ("text",)}).build(context).fingerprint())
    seen.add(config.model_copy(update={"max_documents": 1}).build(context).fingerprint())
    seen.add(config.build(replace(context, min_text_length=9)).fingerprint())
    (data / "a.jsonl").write_text(lines({"text": "two"}))
    seen.add(config.build(context).fingerprint())
    assert len(seen) == 5
    assert config.model_copy(update={"name": "other"}).build(context).fingerprint() in seen


def test_the_same_content_under_two_names_is_read_once(context: SourceContext, data: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (data / name).write_text("The same words stand in both files.")
    found, report = texts(context, type="text")
    assert len(found) == 1
    assert report.examples == {"file: the same content as another file": ["b.txt"]}


def test_bad_lines_are_counted_and_good_ones_read(context: SourceContext, data: Path) -> None:
    good = {"text": "A line with enough words in it."}
    (data / "a.jsonl").write_text(lines(good) + "{broken\n\n7\n" + lines({"text": ""}, {"other": 1}, {"text": "short"}))
    found, report = texts(context, type="jsonl")
    assert found == [good["text"]]
    assert report.drops == {
        "record: no JSON": 1,
        "record: no JSON object": 1,
        "record: field text is empty": 1,
        "record: lacks the field text": 1,
        "record: shorter than 20 characters": 1,
    }
    assert report.examples["record: shorter than 20 characters"] == ["a.jsonl record 4"]


def test_a_json_array_is_read_like_lines(context: SourceContext, data: Path) -> None:
    records = [{"text": f"The record with the number {n}."} for n in range(3)]
    (data / "a.json").write_text(json.dumps(records, indent=1))
    assert texts(context, type="jsonl")[0] == [record["text"] for record in records]


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "T",
            "paragraphs": [{"context": "Paris is big.", "qas": [{"question": "Big?", "answers": ["Paris"]}]}],
        }
    ],
}


def test_records_inside_a_document_are_reached_and_know_what_is_around_them(context: SourceContext, data: Path) -> None:
    (data / "squad.json").write_text(json.dumps(SQUAD))
    form = "{title}: {context} Q: {question} A: {answers[0]}"
    found, _ = texts(context, type="jsonl", records_path="data.paragraphs.qas", format=form)
    assert found == ["T: Paris is big. Q: Big? A: Paris"]


def test_a_keyed_object_is_walked_with_a_star(context: SourceContext, data: Path) -> None:
    (data / "keyed.json").write_text(json.dumps({"id1": {"text": "The first of the records."}}))
    assert texts(context, type="jsonl", records_path="*")[0] == ["The first of the records."]


def test_a_nested_document_without_a_path_is_a_mistake_that_names_the_way_out(
    context: SourceContext, data: Path
) -> None:
    (data / "squad.json").write_text(json.dumps(SQUAD))
    with pytest.raises(UserMistake) as caught:
        texts(context, type="jsonl")
    assert caught.value.valid == ("version", "data")
    assert "records_path" in caught.value.hint


def test_a_path_that_leads_nowhere_lists_the_keys(context: SourceContext, data: Path) -> None:
    (data / "squad.json").write_text(json.dumps(SQUAD))
    with pytest.raises(UserMistake) as caught:
        texts(context, type="jsonl", records_path="data.passages")
    assert caught.value.valid == ("paragraphs", "title")


def test_an_endless_line_costs_no_memory_and_is_counted(
    context: SourceContext, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_files, "LONGEST_LINE_BYTES", 1000)
    good = lines({"text": "A line with enough words in it."})
    (data / "a.jsonl").write_text(good + lines({"text": "x" * 5000}) + good.replace("A line", "And one"))
    found, report = texts(context, type="jsonl")
    assert [text[:7] for text in found] == ["A line ", "And one"]
    assert report.drops == {"record: line of over 0 MiB": 1}


def test_parquet_gives_the_documents_of_the_same_json_lines(context: SourceContext, data: Path) -> None:
    records = [{"id": n, "text": f"The record with the number {n}." if n % 7 else None} for n in range(1000)]
    pq.write_table(pa.Table.from_pylist(records), data / "a.parquet", row_group_size=100)
    (data / "a.jsonl").write_text(lines(*records))
    from_parquet, report = texts(context, type="parquet")
    from_lines, other = texts(context, type="jsonl")
    assert from_parquet == from_lines
    assert report.drops == other.drops == {"record: field text is null": 143}


def test_the_compression_suffix_is_part_of_what_a_file_is(
    context: SourceContext, data: Path, prose: Callable[..., str]
) -> None:
    packed = gzip.compress(prose(5).encode())
    (data / "other.txt").write_text(prose(5, 1))
    (data / "book.txt").write_bytes(packed)
    source = TextFiles.Config(type="text", paths=(".",))
    mistaken = source.build(context).fingerprint()
    (data / "book.txt.gz").write_bytes(packed)
    found, report = texts(context, type="text")
    assert sorted(found) == sorted([prose(5), prose(5, 1)])
    assert report.examples["file: not in UTF-8"] == ["book.txt (at byte 1)"]
    (data / "book.txt").unlink()
    assert source.build(context).fingerprint() != mistaken


@pytest.mark.parametrize("packed", [False, True])
def test_a_long_text_is_cut_off_before_a_byte_that_is_no_utf8(
    context: SourceContext, data: Path, prose: Callable[..., str], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 1000)
    before = ("\ufeff" + "\n\n".join(prose(20, seed) for seed in range(30)).replace(".", "\u2026")).encode()
    content = before + b"caf\xe9 " + prose(2000).encode()
    (data / ("a.txt.gz" if packed else "a.txt")).write_bytes(gzip.compress(content) if packed else content)
    found, report = texts(context, type="text", document_characters=5000)
    (where,) = report.examples["file: cut off where it is not in UTF-8"]
    assert where == f"a.txt{'.gz' if packed else ''} (at byte {len(before) + 3:,})"
    assert len(before.decode()) - 10_000 < sum(map(len, found)) < len(before.decode())


def test_the_field_of_the_first_record_is_read_of_all_files(context: SourceContext, data: Path) -> None:
    said = [f"The record with the number {n}." for n in range(4)]
    (data / "a.jsonl").write_text(
        lines({"body": said[0], "title": None}, {"body": said[1], "title": "T"}, {"error": "No such page is here."})
        + lines({"body": said[2]})
    )
    assert texts(context, type="jsonl")[0] == said[:3]
    (data / "b.jsonl").write_text(lines({"error": "No such page is here."}, {"body": said[3]}))
    found, report = texts(context, type="jsonl")  # a.jsonl first: its hash is lower
    assert found == [*said[:3], "No such page is here.", said[3]]
    assert report.drops == {"record: lacks the field body": 1}


def test_text_is_read_wherever_a_record_has_it(context: SourceContext, data: Path) -> None:
    said = [f"The record with the number {n}." for n in range(3)]
    (data / "a.jsonl").write_text(lines({"source": said[0]}, *({"text": one, "source": "crawl"} for one in said[1:])))
    found, report = texts(context, type="jsonl")
    assert (found, report.drops) == (said, {})


def test_a_file_of_other_fields_is_a_mistake_though_another_was_read(context: SourceContext, data: Path) -> None:
    (data / "a.jsonl").write_text(lines({"body": "The words of a record."}))
    (data / "b.jsonl").write_text(lines({"x": "The words of a record.", "y": "Other words of it."}))
    with pytest.raises(UserMistake, match="no field `text`"):
        texts(context, type="jsonl")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["one.jsonl", "one.json"])
def test_compressed_records_are_read_like_others(context: SourceContext, data: Path, name: str, suffix: str) -> None:
    said = [f"The record with the number {n}." for n in range(3)]
    records = [{"text": one} for one in said]
    content = lines(*records) if name == "one.jsonl" else json.dumps(records)
    pack = gzip.compress if suffix == ".gz" else zstandard.compress
    (data / f"{name}{suffix}").write_bytes(pack(content.encode()))
    found, report = texts(context, type="jsonl")
    assert (found, report.drops) == (said, {})


def test_a_list_that_was_cut_short_gives_no_record(context: SourceContext, data: Path) -> None:
    (data / "one.json").write_text('[\n{"text": "The words of a record."},\n{"text": "The words of another."}\n')
    (data / "two.jsonl").write_text(lines({"text": "The words of a whole file."}))
    found, report = texts(context, type="jsonl")
    assert (found, report.drops) == (["The words of a whole file."], {"file: damaged or no jsonl": 1})


@pytest.mark.parametrize("folder", ["proj [v2]", "what?", "a*b", "[[]x]"])
def test_a_pattern_starts_at_a_folder_of_any_name(context: SourceContext, data: Path, folder: str) -> None:
    for part in (folder, "proj v"):
        (data / part / "notes").mkdir(parents=True)
        (data / part / "notes" / "good.txt").write_text(f"The words of a file in {part}.")
    inside = replace(context, base_folder=data / folder)
    assert texts(inside, type="text", paths="notes/*.txt")[0] == [f"The words of a file in {folder}."]
    with pytest.raises(DataError, match="no such file or folder"):
        texts(inside, type="text", paths="gone.txt")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.txt.gz", gzip.compress(b"Words " * 50_000)[:-100], "file: damaged"),
        ("bad.txt.zst", b"(\xb5/\xfd nonsense", "file: damaged"),
        ("bad.txt", b"\xe9caf and many other words", "file: not in UTF-8"),
        ("bad.parquet", b"PAR1 nonsense", "file: damaged or no parquet"),
        ("bad.jsonl.gz", b"no gzip at all", "file: damaged or no jsonl"),
        ("bad.jsonl", b"[" * 200_000, "file: damaged or no jsonl"),
    ],
)
def test_a_damaged_file_is_counted_and_the_others_are_read(
    context: SourceContext, data: Path, name: str, content: bytes, reason: str
) -> None:
    kind = {"txt": "text", "jsonl": "jsonl", "parquet": "parquet"}[name.split(".")[1]]
    good = "A line with enough words in it."
    (data / "good.txt").write_text(good)
    (data / "good.jsonl").write_text(lines({"text": good}))
    pq.write_table(pa.table({"text": [good]}), data / "good.parquet")
    (data / name).write_bytes(content)
    found, report = texts(context, type=kind)
    assert good in found
    assert list(report.drops) == [reason]
    assert report.examples[reason][0].startswith(name)


def test_the_limits_stop_the_source(context: SourceContext, data: Path) -> None:
    (data / "a.jsonl").write_text(lines(*({"text": f"The record with number {n:02}."} for n in range(50))))
    assert len(texts(context, type="jsonl", max_documents=7)[0]) == 7
    assert len(texts(context, type="jsonl", max_bytes=100)[0]) == 4


def test_a_source_without_any_document_says_what_was_dropped(context: SourceContext, data: Path) -> None:
    (data / "a.jsonl").write_text(lines({"text": "short"}, {"text": ""}))
    with pytest.raises(DataError) as caught:
        texts(context, type="jsonl", name="mine")
    assert str(caught.value) == (
        "no usable text in 1 input (1 x record: field text is empty; 1 x record: shorter than 20 characters)\nat: mine"
    )


@pytest.mark.parametrize("path", ["gone", "gone*.txt", "."])
def test_a_path_without_files_is_named(context: SourceContext, data: Path, path: str) -> None:
    with pytest.raises(DataError, match=r"no such file or folder|no file found"):
        texts(context, type="text", paths=path)


def test_patterns_and_hidden_files(context: SourceContext, data: Path) -> None:
    for name in ("part-1.txt", "part-2.txt", "other.txt", ".hidden.txt"):
        (data / name).write_text(f"The words of the file {name}.")
    assert sorted(texts(context, type="text", paths="part-*.txt")[0]) == [
        "The words of the file part-1.txt.",
        "The words of the file part-2.txt.",
    ]
    assert len(texts(context, type="text", paths=".")[0]) == 3


def test_fields_make_no_sense_for_plain_text() -> None:
    with pytest.raises(ValidationError, match="text has no records"):
        TextFiles.Config(type="text", paths=("a",), fields=("text",))


@pytest.mark.parametrize(
    ("path", "name"), [("corpora/my books", "my-books"), ("a/b.txt.gz", "b"), ("*.txt", "text"), ("x/*.txt", "x")]
)
def test_the_default_name_comes_from_the_path(path: str, name: str) -> None:
    assert TextFiles.Config(type="text", paths=(path,)).source_name == name


@pytest.mark.parametrize(("path", "kind"), [("a.jsonl", "jsonl"), ("x/*.json.gz", "jsonl"), ("a.PARQUET", "parquet")])
def test_records_are_not_read_as_plain_text(path: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f'holds records: the type "{kind}" reads them'):
        TextFiles.Config(type="text", paths=("notes", path))


def test_an_empty_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full.txt").write_text("Some text that is long enough.")
    report = SourceReport("text")
    context = SourceContext(base_folder=tmp_path, cache_folder=tmp_path)
    documents = list(TextFiles.Config(type="text", paths=(".",)).build(context).documents(report))
    assert len(documents) == 1
    assert report.examples == {"file: empty": ["empty.txt"]}


def test_a_tilde_that_names_no_home_is_part_of_a_name(
    context: SourceContext, data: Path, prose: Callable[..., str]
) -> None:
    (data / "~$a.txt").write_text(prose(5))
    assert texts(context, type="text", paths="~$a.txt")[0] == [prose(5)]
    with pytest.raises(DataError, match=r"no such file or folder: .*~nobody-of-that-name/x"):
        texts(context, type="text", paths="~nobody-of-that-name/x")
