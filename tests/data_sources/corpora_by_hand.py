"""A corpus made by hand, so that tests of its readers know every token in it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.manifest import MANIFEST_FILE, Manifest, ShardRecord, SourceRecord, Split, TokenizerRecord
from dreamlm.data_sources.shards import Shard, write_shard

END, PADDING = 0, 1
Documents = Sequence[Sequence[int]]
MakeCorpus = Callable[..., Corpus]


def shard_of(documents: Documents, input_name: str) -> Shard:
    """Documents of real tokens, each behind its end-of-document token; a token stands for two bytes."""
    whole = [[END, *document] for document in documents]
    return Shard(
        tokens=np.array([token for document in whole for token in document], dtype=np.uint16),
        document_starts=np.cumsum([0, *(len(document) for document in whole[:-1])], dtype=np.int64),
        document_bytes=np.array([2 * len(document) for document in documents], dtype=np.int64),
        sources=np.zeros(len(documents), dtype=np.uint32),
        inputs=(input_name,),
        tokenizer_digest="digest",
    )


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Writes `{source: [documents of shard 0, documents of shard 1, ...]}` for both splits and opens the corpus."""

    def make(
        train: Mapping[str, Sequence[Documents]],
        validation: Mapping[str, Sequence[Documents]] | None = None,
        failed: Sequence[str] = (),
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
                    shard = shard_of(documents, f"{source}-{number}.txt")
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
                        )
                    )
        manifest = Manifest(
            key={"code": "1"},
            tokenizer=TokenizerRecord(digest="digest", vocab_size=1000, end_of_document_id=END, padding_id=PADDING),
            sources=[
                *(SourceRecord(name=name, fingerprint="f") for name in train),
                *(SourceRecord(name=name, fingerprint="", failure="no network") for name in failed),
            ],
            shards=records,
        )
        (folder / MANIFEST_FILE).write_text(manifest.to_json())
        return Corpus.open(folder)

    return make
