"""What a preparation says can be printed and kept, and says so when a corpus is not what it seems."""

import json
import os
import sys
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest
import tokenizers
from pictures_by_hand import plain, write_folder
from prepare_by_hand import config_of, prepared, sentence, write_texts
from tokenizers import models, pre_tokenizers

from dreamlm.core.tokenizer import Tokenizer
from dreamlm.core.types import ImageForm
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.preparation.spool import digests_of
from dreamlm.data_sources.prepare import Preparation
from dreamlm.data_sources.progress import Silence
from dreamlm.data_sources.shards import open_shard


class Notices(Silence):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def notice(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not in UTF-8")
def test_a_file_name_that_is_not_in_utf8_can_be_told(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    write_texts(texts, 1, 30)
    Path(os.fsdecode(bytes(texts) + b"/r\xe9sum\xe9.jsonl")).write_text("no records")
    Path(os.fsdecode(bytes(texts) + b"/th\xe9.jsonl")).write_text(json.dumps({"text": sentence(900) * 3}))
    corpus = prepared(config_of({"type": "jsonl", "paths": "texts"}), tmp_path / "corpus", tmp_path)
    (source,) = Corpus.open(corpus.folder).manifest.sources
    assert source.documents == 31
    (example,) = source.examples["file: damaged or no jsonl"]
    assert example.startswith("r\\udce9sum\\udce9.jsonl (")


def test_names_with_a_lone_surrogate_can_be_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", {f"{n}.png": f"Picture {n}" for n in range(3)}, {"0.png": plain("red")})
    with (tmp_path / "pictures" / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "a\\ud800.png", "text": "Nowhere."}\n')
    source = {"type": "images", "paths": "pictures"}
    gone = {"type": "text", "paths": "gone\ud800", "name": "gone"}
    form = ImageForm(size=4, places=2)
    corpus = prepared(config_of(source, gone), tmp_path / "corpus", tmp_path, image_form=form)
    pictures, failed = Corpus.open(corpus.folder).manifest.sources
    assert any("a\\ud800.png" in name for names in pictures.examples.values() for name in names)
    assert "gone\\ud800" in str(failed.failure)
    json.dumps(corpus.manifest.summary(), ensure_ascii=False).encode()


def test_a_document_that_is_left_to_train_on_is_told(tmp_path: Path) -> None:
    low = next(n for n in count() if digests_of(sentence(n).encode(), None).side < b"\x02")  # of 256: below 0.01
    (tmp_path / "one.txt").write_text(sentence(low))
    notices = Notices()
    corpus = prepared(config_of({"type": "text", "paths": "one.txt"}), tmp_path / "corpus", tmp_path, progress=notices)
    assert [(shard.split, shard.documents) for shard in corpus.manifest.shards] == [("train", 1)]
    assert "source one: all documents would be held out; one stays to train on" in notices.messages


def test_what_a_killed_preparation_left_goes_whatever_the_name_of_the_corpus(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", 1, 20)
    stale = tmp_path / ".c [1].preparing-abc"
    stale.mkdir()
    prepared(config_of({"type": "jsonl", "paths": "texts"}), tmp_path / "c [1]", tmp_path)
    assert not stale.exists()


class Words:
    """The configuration of a tokenizer that knows a few words."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        words = ["[UNK]", "[PAD]", "[SEP]", "the", "of", "and"]
        backend = tokenizers.Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.add_special_tokens(words[:3])
        return Tokenizer(backend, "[SEP]", "[PAD]")


def test_text_that_the_tokenizer_does_not_know_is_told_with_its_share(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", 1, 40)
    notices = Notices()
    config = config_of({"type": "jsonl", "paths": "texts"}, shard_text_bytes=2**20)
    folders = {"cache_folder": tmp_path / "cache", "base_folder": tmp_path}
    corpus = Preparation(config, Words(), tmp_path / "corpus", progress=notices, **folders).run()  # type: ignore[arg-type]
    (shard,) = [shard for shard in corpus.manifest.shards if shard.split == "train"]
    tokens = open_shard(corpus.folder / shard.path).tokens
    lost = int((tokens == 0).sum())
    (notice,) = [message for message in notices.messages if "unknown token" in message]
    assert notice.startswith(f"{lost:,} of {len(tokens):,} training tokens ({lost / len(tokens):.2%}) are the unknown")
    assert lost > len(tokens) / 2
    assert "unknown_tokens" not in (corpus.folder / "manifest.json").read_text()


def test_a_tokenizer_that_loses_nothing_is_not_spoken_of(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts", 1, 20)
    notices = Notices()
    prepared(config_of({"type": "jsonl", "paths": "texts"}), tmp_path / "corpus", tmp_path, progress=notices)
    assert not [message for message in notices.messages if "unknown token" in message]
