"""The index says of every n-gram whether the training text has it, and survives what a cache goes through."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from corpora_by_hand import MakeCorpus
from hypothesis import given
from hypothesis import strategies as st

from dreamlm.core.errors import OutOfSpace, RangeError
from dreamlm.data_sources import seen
from dreamlm.data_sources.seen import SeenNgrams

TRAIN = {"a": [[[11, 12, 13], [14]], [[15, 16, 11, 12]]], "b": [[[21, 22, 23, 24, 25]]]}
HELD_OUT = {"a": [[[31, 32, 33]]]}


def grams(documents: Sequence[Sequence[int]], n: int) -> set[tuple[int, ...]]:
    return {tuple(one[start : start + n]) for one in documents for start in range(len(one) - n + 1)}


def test_an_ngram_is_seen_where_a_training_document_has_it(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    known = SeenNgrams.open(make_corpus(TRAIN, HELD_OUT), 2, tmp_path)
    assert known([11, 12, 13, 14]) == [True, True, False]
    assert known([22, 21, 22]) == [False, True]
    assert known([31, 32]) == [False], "held-out text is no training text"
    assert known([0, 11]) == known([13, 0]) == known([16, 21]) == [False], "no n-gram reaches into another document"
    assert len(known) == len(grams([[11, 12, 13], [15, 16, 11, 12], [21, 22, 23, 24, 25]], 2))


def test_ids_without_an_ngram_have_no_answer(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    known = SeenNgrams.open(make_corpus(TRAIN), 4, tmp_path)
    assert known([]) == known([15, 16, 11]) == []
    assert known([15, 16, 11, 12]) == [True]


def test_a_corpus_without_an_ngram_has_seen_nothing(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    known = SeenNgrams.open(make_corpus({"a": [[[11, 12], [13]]]}), 4, tmp_path)
    assert (len(known), known([11, 12, 13, 14])) == (0, [False])


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("piece", [1, 3, 7, 1 << 20])
def test_pieces_of_any_size_give_the_same_answers(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, piece: int
) -> None:
    monkeypatch.setattr(seen, "PIECE_TOKENS", piece)
    draw = np.random.default_rng(4)
    documents = [draw.integers(2, 6, size=size).tolist() for size in (9, 1, 30, 4, 0, 17)]
    known = SeenNgrams.open(make_corpus({"a": [documents[:2], documents[2:4]], "b": [documents[4:]]}), n, tmp_path)
    there, asked = grams(documents, n), draw.integers(2, 6, size=200).tolist()
    assert known(asked) == [tuple(asked[start : start + n]) in there for start in range(len(asked) - n + 1)]
    assert len(known) == len(there)


def test_the_file_is_sorted_and_the_same_whatever_the_pieces(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(TRAIN)
    contents = set()
    for piece in (2, 5, 1000):
        monkeypatch.setattr(seen, "PIECE_TOKENS", piece)
        SeenNgrams.open(corpus, 2, tmp_path / str(piece))
        (path,) = (tmp_path / str(piece)).rglob("*.u64")
        contents.add(path.read_bytes())
    assert len(contents) == 1
    hashes = np.frombuffer(contents.pop(), "<u8")[1:]
    assert (hashes[:-1] < hashes[1:]).all()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=12), st.integers(1, 5))
def test_a_hash_belongs_to_the_ids_of_its_own_ngram(ids: list[int], n: int) -> None:
    hashes = seen._hashed(np.array(ids, dtype=np.int64), n)
    alone = [seen._hashed(np.array(ids[start : start + n], dtype=np.int64), n)[0] for start in range(len(hashes))]
    assert hashes.tolist() == alone


def test_hashes_of_like_ngrams_do_not_collide_and_fill_their_range() -> None:
    ids = np.indices((40, 40, 40)).reshape(3, -1).T
    hashes = np.array([seen._hashed(gram, 3)[0] for gram in ids[::7]])
    assert len(np.unique(hashes)) == len(hashes)
    per_bit = [(hashes >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert np.abs(np.array(per_bit) - 0.5).max() < 0.03


def test_a_second_opening_builds_nothing(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(TRAIN)
    first = SeenNgrams.open(corpus, 2, tmp_path)
    monkeypatch.setattr(seen, "_build", None)
    assert SeenNgrams.open(corpus, 2, tmp_path)([11, 12, 14]) == first([11, 12, 14]) == [True, False]


def test_another_corpus_and_another_n_have_files_of_their_own(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(TRAIN)
    SeenNgrams.open(corpus, 2, tmp_path)
    assert SeenNgrams.open(corpus, 3, tmp_path)([11, 12, 13]) == [True]
    corpus.folder.rename(tmp_path / "old")
    other = make_corpus({"a": [[[91, 92]]]})
    assert SeenNgrams.open(other, 2, tmp_path)([11, 12]) == [False]
    assert len(list(tmp_path.rglob("*.u64"))) == 3


@pytest.mark.parametrize("damage", [b"", b"short", b"\x07" * 8, b"\x00" * 24])
def test_a_damaged_file_is_built_again(make_corpus: MakeCorpus, tmp_path: Path, damage: bytes) -> None:
    corpus = make_corpus(TRAIN)
    SeenNgrams.open(corpus, 2, tmp_path)
    (path,) = tmp_path.rglob("*.u64")
    path.unlink()
    path.write_bytes(damage)
    assert SeenNgrams.open(corpus, 2, tmp_path)([11, 12, 14]) == [True, False]


def test_what_a_failed_building_leaves_is_cleared(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(TRAIN)
    with monkeypatch.context() as broken:
        broken.setattr(seen, "sync_file", _fails)
        with pytest.raises(OutOfSpace, match="not enough disk space") as caught:
            SeenNgrams.open(corpus, 2, tmp_path)
        assert "DREAMLM_HOME" in caught.value.hint
    assert {path.suffix for path in (tmp_path / "ngrams").iterdir()} <= {".lock"}
    assert SeenNgrams.open(corpus, 2, tmp_path)([11, 12]) == [True]


def _fails(path: Path) -> None:
    raise OSError(28, os.strerror(28))


KILLED = """
import os, sys, signal
from pathlib import Path
from dreamlm.data_sources import seen
from dreamlm.data_sources.corpus import Corpus
seen._merge = lambda runs, path: (path.write_bytes(b"half"), os.kill(os.getpid(), signal.SIGKILL))
seen.SeenNgrams.open(Corpus.open(Path(sys.argv[1])), 2, Path(sys.argv[2]))
"""


def test_a_building_that_was_killed_is_done_again(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(TRAIN)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(corpus.folder), str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert list(tmp_path.rglob("*.building")) != []
    assert SeenNgrams.open(corpus, 2, tmp_path)([11, 12, 14]) == [True, False]
    assert list(tmp_path.rglob("*.building")) == []


def test_of_several_that_find_no_file_one_builds_it(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, built, build, opened = make_corpus(TRAIN), [], seen._build, seen._opened
    looked, everybody = threading.local(), threading.Barrier(4)

    def looking(path: Path) -> np.ndarray | None:
        found = opened(path)
        if not hasattr(looked, "once"):
            looked.once = True
            everybody.wait(timeout=60)
        return found

    monkeypatch.setattr(seen, "_opened", looking)
    monkeypatch.setattr(seen, "_build", lambda *parts: built.append(1) or build(*parts))
    with ThreadPoolExecutor(4) as threads:
        indices = list(threads.map(lambda _: SeenNgrams.open(corpus, 2, tmp_path), range(4)))
    assert [known([11, 12]) for known in indices] == [[True]] * 4
    assert len(built) == 1


def test_zero_tokens_are_no_ngram(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    with pytest.raises(RangeError, match="no 0-grams"):
        SeenNgrams.open(make_corpus(TRAIN), 0, tmp_path)
