"""A corpus made by hand, so that tests of its readers know every token in it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.manifest import (
    MANIFEST_FILE,
    ImageRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    Split,
    TokenizerRecord,
)
from dreamlm.data_sources.shards import Shard, write_shard

END, PADDING = 0, 1
VOCABULARY, PLACES, SIZE = 1000, 3, 2
"""Of tokens, of a picture, and of its sides."""
Documents = Sequence[Sequence[int]]
MakeCorpus = Callable[..., Corpus]


def picture_of(document: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The picture of a document that has one: its first token in every pixel."""
    return np.full((3, SIZE, SIZE), document[0] % 256, dtype=np.uint8)


def shard_of(documents: Documents, input_name: str, pictured: bool = False) -> Shard:
    """Documents of real tokens, each behind its end-of-document token; a token stands for two bytes.

    Where they are `pictured`, each shows `picture_of` it; the shard has the pictures in reverse order.
    """
    opening = [END, *range(VOCABULARY, VOCABULARY + PLACES)] if pictured else [END]
    whole = [[*opening, *document] for document in documents]
    pictures: dict[str, Any] = {}
    if pictured:
        pictures["pixels"] = np.stack([picture_of(document) for document in documents[::-1]])
        pictures["pictures"] = np.arange(len(documents), dtype=np.uint32)[::-1].copy()
        pictures["places"] = PLACES
    return Shard(
        **pictures,
        tokens=np.array([token for document in whole for token in document], dtype=np.uint16),
        document_starts=np.cumsum([0, *(len(document) for document in whole[:-1])], dtype=np.int64),
        document_bytes=np.array([2 * len(document) for document in documents], dtype=np.int64),
        sources=np.zeros(len(documents), dtype=np.uint32),
        inputs=(input_name,),
        tokenizer_digest="digest",
    )


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Writes `{source: [documents of shard 0, documents of shard 1, ...]}` for both splits and opens the corpus.

    Documents of `pictured` sources have pictures.
    """

    def make(
        train: Mapping[str, Sequence[Documents]],
        validation: Mapping[str, Sequence[Documents]] | None = None,
        failed: Sequence[str] = (),
        pictured: Collection[str] = (),
    ) -> Corpus:
        folder = tmp_path / "corpus"
        records = []
        splits: list[tuple[Split, Mapping[str, Sequence[Documents]]]] = [
            ("train", train),
            ("validation", validation or {}),
        ]
        for split, sources in splits:
            (folder / split).mkdir(parents=True)
            for source, shards in sources.items():
                for number, documents in enumerate(shards):
                    shard = shard_of(documents, f"{source}-{number}.txt", source in pictured)
                    path = f"{split}/{source}-{number:05}.safetensors"
                    size, sha256 = write_shard(folder / path, shard)
                    records.append(
                        ShardRecord(
                            path=path,
                            source=source,
                            split=split,
                            documents=len(documents),
                            tokens=len(shard.tokens),
                            text_bytes=int(shard.document_bytes.sum()),
                            file_bytes=size,
                            sha256=sha256,
                            places=shard.places * len(documents),
                        )
                    )
        manifest = Manifest(
            key={"code": "1"},
            tokenizer=TokenizerRecord(
                digest="digest", vocab_size=VOCABULARY, end_of_document_id=END, padding_id=PADDING
            ),
            images=ImageRecord(size=SIZE, places=PLACES) if pictured else None,
            sources=[
                *(SourceRecord(name=name, fingerprint="f") for name in train),
                *(SourceRecord(name=name, fingerprint="", failure="no network") for name in failed),
            ],
            shards=records,
        )
        (folder / MANIFEST_FILE).write_text(manifest.to_json())
        return Corpus.open(folder)

    return make
