"""Opening a corpus: whole or refused, with the file named and the command that helps."""

from pathlib import Path

import numpy as np
import pytest
from corpora_by_hand import MakeCorpus, shard_of

from dreamlm.core.errors import DataError
from dreamlm.core.tokenizer import BytePair
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.shards import open_shard, write_shard

SMALL = {"a": [[[11, 12, 13], [14]], [[15, 16]]]}


def test_a_shard_survives_the_disk(tmp_path: Path) -> None:
    shard = shard_of([[5, 6], [7]], "book.txt")
    write_shard(tmp_path / "x.safetensors", shard)
    found = open_shard(tmp_path / "x.safetensors")
    assert found.tokens.tolist() == [0, 5, 6, 0, 7]
    assert found.document_starts.tolist() == [0, 3]
    assert found.document_lengths.tolist() == [3, 2]
    assert found.document_bytes.tolist() == [4, 2]
    assert found.sources.tolist() == [0, 0]
    assert (found.inputs, found.tokenizer_digest) == (("book.txt",), "digest")


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    write_shard(tmp_path / "x.safetensors", shard_of([[5, 6], [7]], "book.txt"))
    tensors = load_file(tmp_path / "x.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "tokens": np.uint16,
        "document_starts": np.int64,
        "document_bytes": np.int64,
        "sources": np.uint32,
    }


def test_the_same_shard_has_the_same_bytes(tmp_path: Path) -> None:
    written = {write_shard(tmp_path / f"{n}.safetensors", shard_of([[5, 6], [7]], "book.txt")) for n in range(5)}
    assert len(written) == 1


def test_a_folder_without_a_manifest_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest") as caught:
        Corpus.open(tmp_path)
    assert "dreamlm prepare" in caught.value.hint
    with pytest.raises(DataError, match="no corpus here"):
        Corpus.open(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1, "key": {}}'])
def test_a_damaged_manifest_is_named(make_corpus: MakeCorpus, content: str) -> None:
    path = make_corpus(SMALL).folder / "manifest.json"
    path.write_text(content)
    with pytest.raises(DataError, match="damaged manifest") as caught:
        Corpus.open(path.parent)
    assert caught.value.where == str(path)


def test_another_format_version_is_refused(make_corpus: MakeCorpus) -> None:
    path = make_corpus(SMALL).folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(DataError, match="version 99"):
        Corpus.open(path.parent)


def test_a_missing_or_short_shard_is_found_on_opening(make_corpus: MakeCorpus) -> None:
    folder = make_corpus(SMALL).folder
    path = folder / "train" / "a-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="bytes instead of") as caught:
        Corpus.open(folder)
    assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        Corpus.open(folder)


def test_one_changed_byte_is_found_by_verify(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(SMALL)
    path = corpus.folder / "train" / "a-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="sha256") as caught:
        Corpus.open(corpus.folder).verify()
    assert caught.value.where == str(path)


def test_another_tokenizer_is_refused(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(SMALL)
    BytePair(vocab_size=300).build(["words"]).save(corpus.folder)
    with pytest.raises(DataError, match="the corpus was made with digest") as caught:
        corpus.tokenizer()
    assert "dreamlm prepare" in caught.value.hint


def test_a_file_that_is_no_shard_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"short", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DataError):
            open_shard(tmp_path / "x")


def test_the_fingerprint_follows_the_tokens_alone(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(SMALL)
    renamed = corpus.manifest.model_copy(update={"key": {"code": "2"}})
    fewer = corpus.manifest.model_copy(update={"shards": corpus.manifest.shards[:1]})
    assert Corpus(corpus.folder, renamed).fingerprint == corpus.fingerprint
    assert Corpus(corpus.folder, fewer).fingerprint != corpus.fingerprint


def test_the_summary_counts_both_splits(make_corpus: MakeCorpus) -> None:
    summary = make_corpus(SMALL, {"a": [[[11]]]}).manifest.summary()
    assert summary["splits"] == {
        "train": {"documents": 3, "pictures": 0, "tokens": 9, "text_bytes": 12},
        "validation": {"documents": 1, "pictures": 0, "tokens": 2, "text_bytes": 2},
    }


def test_a_corpus_that_was_replaced_while_in_use_is_noticed(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    used = make_corpus(SMALL)
    used.folder.rename(tmp_path / "replaced")
    make_corpus({"a": [[[91, 92, 93], [94]], [[95, 96]]]})
    with pytest.raises(DataError, match="replaced by another while it was in use") as caught:
        used.sequence(0, "train").inputs(0, 5)
    assert "--corpus DIR" in caught.value.hint
