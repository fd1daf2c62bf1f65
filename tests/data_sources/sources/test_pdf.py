"""Claims about folders of PDFs: what is read, what is skipped and why, and that one bad file harms no other."""

import hashlib
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from dreamlm.data_sources.sources import pdf_process
from dreamlm.data_sources.sources.pdf import PdfFolder
from dreamlm.data_sources.sources.pdf_process import Extraction, PdfProcess
from dreamlm.data_sources.sources.source import SourceContext, SourceReport

MakePdf = Callable[..., bytes]
Prose = Callable[..., str]


def texts(context: SourceContext, **options: Any) -> tuple[list[str], SourceReport]:
    """All documents of the folder, and the report."""
    config = PdfFolder.Config(**{"type": "pdf", "paths": ".", **options})
    report = SourceReport(config.source_name)
    return [document.text for document in config.build(context).documents(report)], report


def pdf_by_hand(content: bytes) -> bytes:
    """A PDF of one page that shows a content stream, which is stored deflated."""
    packed = zlib.compress(content, 9)
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 " + font + b" >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed) + packed + b"\nendstream",
    ]
    written, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(written)
    return written + b"xref\n0 5\n0000000000 65535 f \n" + table + trailer


@pytest.fixture
def mixed_folder(data: Path, make_pdf: MakePdf, prose: Prose) -> Path:
    """Good and bad files as a real folder has them."""
    (data / "sub" / "deep").mkdir(parents=True)
    (data / "good.pdf").write_bytes(make_pdf(prose(30, 1), prose(30, 2)))
    (data / "sub" / "deep" / "GOOD.PDF").write_bytes(make_pdf(prose(20, 3)))
    (data / "sub" / "copy.pdf").write_bytes((data / "good.pdf").read_bytes())
    (data / "open.pdf").write_bytes(make_pdf(prose(20, 4), password=""))
    (data / "locked.pdf").write_bytes(make_pdf(prose(20, 5), password="secret"))
    (data / "scan.pdf").write_bytes(make_pdf("", "", picture=True))
    (data / "blank.pdf").write_bytes(make_pdf(""))
    (data / "cut.pdf").write_bytes(make_pdf(prose(30, 6))[:300])
    (data / "empty.pdf").write_bytes(b"")
    (data / "notes.txt").write_text("not a PDF")
    return data


def test_every_file_is_read_or_counted_with_its_reason(
    context: SourceContext, mixed_folder: Path, prose: Prose
) -> None:
    found, report = texts(context)
    together = " ".join(" ".join(found).split())
    assert prose(20, 3) in together
    assert prose(20, 4) in together
    assert report.inputs == 8
    assert report.documents == len(found) == 3
    assert report.drops == {
        "file: the same content as another file": 1,
        "file: encrypted, needs a password": 1,
        "file: image-only": 1,
        "file: no text": 1,
        "file: broken": 2,
    }
    assert report.examples["file: encrypted, needs a password"] == ["locked.pdf"]
    assert sorted(example.split(" (")[0] for example in report.examples["file: broken"]) == ["cut.pdf", "empty.pdf"]


def test_the_number_of_workers_changes_nothing(context: SourceContext, mixed_folder: Path, tmp_path: Path) -> None:
    alone = texts(replace(context, cache_folder=tmp_path / "one", workers=1))
    three = texts(replace(context, cache_folder=tmp_path / "three", workers=3))
    assert alone == three


def test_changing_one_pdf_reads_one_pdf_again(
    context: SourceContext,
    data: Path,
    make_pdf: MakePdf,
    prose: Prose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in range(4):
        (data / f"{seed}.pdf").write_bytes(make_pdf(prose(20, seed)))
    read: list[str] = []
    really_read = PdfProcess.read

    def counted(self: PdfProcess, path: Path) -> Extraction:
        read.append(path.name)
        return really_read(self, path)

    monkeypatch.setattr(PdfProcess, "read", counted)
    first, _ = texts(context)
    assert sorted(read) == ["0.pdf", "1.pdf", "2.pdf", "3.pdf"]
    read.clear()
    (data / "3.pdf").rename(data / "renamed.pdf")
    assert texts(context)[0] == first
    assert read == []
    (data / "2.pdf").write_bytes(make_pdf(prose(20, 77)))
    changed, _ = texts(context)
    assert read == ["2.pdf"]
    assert len(set(changed) & set(first)) == 3


def test_a_damaged_cache_entry_is_read_again(
    context: SourceContext, data: Path, make_pdf: MakePdf, prose: Prose
) -> None:
    (data / "a.pdf").write_bytes(make_pdf(prose(20)))
    first, _ = texts(context)
    (entry,) = context.cache_folder.rglob("*.json.gz")
    entry.write_bytes(entry.read_bytes()[:40])
    assert texts(context)[0] == first


def test_pieces_have_their_sizes_and_end_with_sentences(
    context: SourceContext, data: Path, make_pdf: MakePdf, prose: Prose
) -> None:
    (data / "long.pdf").write_bytes(make_pdf(*(prose(60, seed) for seed in range(10))))
    found, _ = texts(context)
    assert len(found) > 5
    assert all(3000 <= len(text) <= 5000 for text in found[:-1])
    assert all(text.endswith(".") for text in found)


def test_repeated_pages_running_heads_and_garbage_pages_leave(
    context: SourceContext, data: Path, make_pdf: MakePdf, prose: Prose
) -> None:
    page = "A Book About Nothing {}\n{}"
    pages = [page.format(number, prose(20, number)) for number in range(1, 5)]
    (data / "a.pdf").write_bytes(make_pdf(*pages, pages[1], prose(20, 9).replace(" ", ""), "/g12/g45/g7 " * 60))
    found, report = texts(context)
    assert report.drops == {"page: repeated": 1, "page: glued words": 1, "page: glyph names instead of text": 1}
    assert "A Book About Nothing" not in " ".join(found)
    assert prose(20, 3) in " ".join(" ".join(found).split())


def test_a_slow_file_is_skipped_and_the_next_one_is_read(
    context: SourceContext, data: Path, make_pdf: MakePdf, prose: Prose
) -> None:
    bomb = pdf_by_hand(b"BT /F1 9 Tf 9 9 Td (word) Tj ET\n" * 300_000)
    assert len(bomb) < 60_000
    (data / "bomb.pdf").write_bytes(bomb)
    (data / "good.pdf").write_bytes(make_pdf(prose(20)))
    found, report = texts(context, time_limit_seconds=1)
    assert found == [text for text in found if prose(20)[:40] in text]
    assert len(found) == 1
    assert report.drops == {"file: over the time limit of 1 s": 1}


def test_a_file_that_needs_too_much_memory_is_skipped_and_the_next_one_is_read(
    context: SourceContext, data: Path, make_pdf: MakePdf, prose: Prose
) -> None:
    (data / "bomb.pdf").write_bytes(pdf_by_hand(b"BT (" + b"w " * 35_000_000 + b") Tj ET"))
    (data / "good.pdf").write_bytes(make_pdf(prose(20)))
    found, report = texts(context, memory_limit_megabytes=256)
    assert len(found) == 1
    assert report.drops == {"file: over the memory limit of 256 MiB": 1}


OBEDIENT_WORKER = """
import json, os, sys, time
for line in sys.stdin:
    request = json.loads(line)
    name = os.path.basename(request.get("path", ""))
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("crash"):
        os.abort()
    if name.startswith("once") and not os.path.exists(request["path"] + ".tried"):
        open(request["path"] + ".tried", "w").close()
        os._exit(9)
    words = "It is a sentence like any other one. " * 9
    print(json.dumps({"pages": [words + name], "page_errors": [], "images": False}), flush=True)
"""


@pytest.fixture
def obedient_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the reading script by one that hangs or dies when the name of the file says so."""
    script = tmp_path / "worker.py"
    script.write_text(OBEDIENT_WORKER)
    monkeypatch.setattr(pdf_process, "WORKER", script)
    monkeypatch.setattr(pdf_process, "STALL_FACTOR", 0.5)


@pytest.mark.usefixtures("obedient_worker")
@pytest.mark.parametrize("workers", [1, 2])
def test_hanging_and_crashing_files_lose_no_other_file(context: SourceContext, data: Path, workers: int) -> None:
    for name in ("hang", "crash", "once", "a", "b", "c", "d"):
        (data / f"{name}.pdf").write_bytes(name.encode())
    found, report = texts(replace(context, workers=workers), time_limit_seconds=2)
    assert sorted(text.split()[-1] for text in found) == ["a.pdf", "b.pdf", "c.pdf", "d.pdf", "once.pdf"]
    assert report.drops == {"file: over the time limit of 2 s": 1, "file: crashed the reader": 1}
    assert report.examples["file: crashed the reader"] == ["crash.pdf (exit code -6)"]


@pytest.mark.usefixtures("obedient_worker")
def test_stopping_early_leaves_no_process_and_caches_no_half_answer(context: SourceContext, data: Path) -> None:
    first = next(text for text in map(str, range(10_000)) if hashlib.sha256(text.encode()).hexdigest() < "00f")
    for name, content in {"a": first, "hang1": "1", "hang2": "2", "hang3": "3"}.items():
        (data / f"{name}.pdf").write_bytes(content.encode())
    before = set(psutil.Process().children())
    start = time.monotonic()
    source = PdfFolder.Config(type="pdf", paths=(".",), time_limit_seconds=600).build(replace(context, workers=4))
    documents = source.documents(SourceReport("pdf"))
    assert next(documents).input == "a.pdf"
    documents.close()
    assert time.monotonic() - start < 60
    assert set(psutil.Process().children()) <= before
    assert len(list(context.cache_folder.rglob("*.json.gz"))) == 1


def test_a_bad_page_costs_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_pdf: MakePdf) -> None:
    import pypdf

    from dreamlm.data_sources.sources.pdf_worker import read_pdf

    (tmp_path / "a.pdf").write_bytes(make_pdf("page one", "page two", "page three", "page four"))
    real = pypdf.PageObject.extract_text
    errors = {"two": NotImplementedError("what is this"), "three": RecursionError("deep")}

    def failing(self: pypdf.PageObject, *args: Any, **options: Any) -> str:
        text = real(self, *args, **options)
        for word, error in errors.items():
            if word in text:
                raise error
        return text

    monkeypatch.setattr(pypdf.PageObject, "extract_text", failing)
    answer = read_pdf(str(tmp_path / "a.pdf"))
    assert [page and page.strip() for page in answer["pages"]] == ["page one", None, None, "page four"]
    assert answer["page_errors"] == ["page 2: NotImplementedError: what is this", "page 3: RecursionError: deep"]


def test_glued_words_are_divided_where_the_page_shows_narrow_gaps(context: SourceContext, data: Path) -> None:
    words = ["Longer", "sentences", "without", "space", "glyphs", "between", "their", "words", "stay", "readable"]
    line = b" -200 ".join(b"(%s)" % word.encode() for word in words)
    (data / "a.pdf").write_bytes(pdf_by_hand(b"BT /F1 10 Tf 20 700 Td [" + line + b"] TJ ET"))
    found, _ = texts(context)
    assert found == [" ".join(words)]


def test_lone_surrogates_and_nul_never_leave_the_source(
    context: SourceContext, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "a.pdf").write_bytes(b"anything")
    raw = "Words with a \ud835 lone surrogate and a \x00 NUL stand here."
    monkeypatch.setattr(PdfProcess, "read", lambda self, path: Extraction(pages=(raw,)))
    found, _ = texts(context)
    assert found == ["Words with a  lone surrogate and a  NUL stand here."]
    assert texts(context)[0] == found


def test_the_fingerprint_follows_content_and_options(context: SourceContext, data: Path, make_pdf: MakePdf) -> None:
    (data / "a.pdf").write_bytes(make_pdf("one"))
    (data / "b.pdf").write_bytes(make_pdf("two"))
    config = PdfFolder.Config(type="pdf", paths=(".",))
    first = config.build(context).fingerprint()
    (data / "a.pdf").rename(data / "z.pdf")
    assert config.build(context).fingerprint() == first
    assert config.model_copy(update={"piece_characters": (100, 200)}).build(context).fingerprint() != first
    (data / "b.pdf").write_bytes(make_pdf("three"))
    assert config.build(context).fingerprint() != first


def test_piece_sizes_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="100 <= shortest <= longest"):
        PdfFolder.Config(type="pdf", paths=("a",), piece_characters=(5000, 3000))


@pytest.mark.usefixtures("obedient_worker")
def test_a_crash_is_not_remembered(context: SourceContext, data: Path) -> None:
    (data / "a.pdf").write_bytes(b"a")
    (data / "crash.pdf").write_bytes(b"crash")
    assert len(texts(context)[0]) == 1
    (data / "crash.pdf").rename(data / "b.pdf")  # what killed the reader is gone
    assert len(texts(context)[0]) == 2
