"""The spool gives back what was put in, a block at a time."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.types import Document
from dreamlm.data_sources.preparation import spool as spool_module
from dreamlm.data_sources.preparation.duplicates import SeenDocuments
from dreamlm.data_sources.preparation.spool import Spool, SpoolWriter, digests_of


def spool_of(folder: Path, documents: list[Document], lowest: int = 3) -> Spool:
    with SpoolWriter("s", folder / "000", lowest) as writer:
        for document in documents:
            text = document.text.encode()
            writer.add(document, text, digests_of(text, None).side)
        return writer.finish()


def everything(spool: Spool, batch_bytes: int) -> list[tuple[str, str]]:
    found = []
    for _, entries in spool.entries():
        names = spool.names(entries)
        texts = [text.decode() for _, batch in spool.texts(entries, batch_bytes) for text in batch]
        found += list(zip(texts, names, strict=True))
    return found


@pytest.mark.parametrize("batch_bytes", [1, 7, 10_000])
def test_documents_come_back_in_order(tmp_path: Path, batch_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "INDEX_BLOCK", 3)
    documents = [Document("é" * (n % 5 + 1), f"file {n // 4}\udcff") for n in range(20)]
    spool = spool_of(tmp_path, documents)
    assert everything(spool, batch_bytes) == [(document.text, document.input) for document in documents]
    assert (spool.documents, spool.text_bytes) == (20, sum(len(d.text.encode()) for d in documents))


def test_the_lowest_hashes_are_remembered(tmp_path: Path) -> None:
    documents = [Document(f"text {n}", "x") for n in range(50)]
    sides = [digests_of(document.text.encode(), None).side for document in documents]
    hashes = sorted(int.from_bytes(side[:8], "big") for side in sides)
    assert list(spool_of(tmp_path, documents, lowest=7).lowest_hashes) == hashes[:7]


def test_a_discarded_spool_leaves_no_file(tmp_path: Path) -> None:
    with SpoolWriter("s", tmp_path / "000", 1) as writer:
        writer.add(Document("text", "x"), b"text", digests_of(b"text", None).side)
        writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_of_equal_documents_is_new(tmp_path: Path) -> None:
    with SeenDocuments(tmp_path / "seen") as seen:
        digests = [digests_of(text, None).whole for text in (b"a", b"b", b"a", b"A")]
        assert [seen.add(digest, 0) for digest in digests] == [True, True, False, True]


def test_a_forgotten_source_leaves_its_documents_to_others(tmp_path: Path) -> None:
    with SeenDocuments(tmp_path / "seen") as seen:
        seen.add(b"of source 0", 0)
        seen.add(b"of source 1", 1)
        seen.forget(1)
        assert not seen.add(b"of source 0", 2)
        assert seen.add(b"of source 1", 2)


@given(st.lists(st.binary(min_size=1, max_size=3), max_size=40))
def test_the_set_on_disk_is_a_set(digests: list[bytes]) -> None:
    import tempfile

    known: set[bytes] = set()
    with tempfile.TemporaryDirectory() as folder, SeenDocuments(Path(folder) / "seen") as seen:
        for digest in digests:
            assert seen.add(digest, 0) == (digest not in known)
            known.add(digest)
