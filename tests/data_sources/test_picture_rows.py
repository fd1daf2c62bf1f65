"""Rows with pictures: places and pixels where a naive reader puts them, and no place counted as a token of text."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from corpora_by_hand import END, PADDING, PLACES, MakeCorpus, picture_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.tokenizer import BytePair, Tokenizer
from dreamlm.core.training.backend.backend import WindowBatch, real_targets
from dreamlm.core.training.lengths import cut_rows
from dreamlm.core.types import Batch, Window
from dreamlm.data_sources.corpus import Corpus
from dreamlm.data_sources.seen import SeenNgrams
from dreamlm.data_sources.stream import CorpusStream

Captions = Sequence[Sequence[int]]
SHOWN = [-1 - place for place in range(PLACES)]
TRAIN = {"a": [[[11, 12, 13], [14]], [[15, 16]]], "b": [[[31] * 20]]}
HELD_OUT = {"a": [[[21, 22], [23]], [[24, 25, 26]]], "b": [[[41, 42]]]}


def written_out(captions: Captions) -> tuple[list[int], list[int]]:
    """All tokens of the documents end to end as a reader sees them, and the document of each place, else -1."""
    tokens, owners = [], []
    for number, caption in enumerate(captions):
        tokens += [END, *SHOWN, *caption]
        owners += [-1, *[number] * PLACES, *[-1] * len(caption)]
    return [*tokens, END], [*owners, -1]


def assert_shows(batch: Batch, row: int, owners: Sequence[int], captions: Captions) -> None:
    """Every place of the row shows its document's picture, and no other token shows any."""
    if batch.pictures is None:
        assert set(owners) == {-1}
        return
    of = batch.pictures.of[row]
    assert [number >= 0 for number in of] == [owner >= 0 for owner in owners]
    for number, owner in zip(of, owners, strict=True):
        if owner >= 0:
            assert (batch.pictures.pixels[number] == picture_of(captions[owner])).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.data())
def test_windows_agree_with_the_documents_written_out(make_corpus: MakeCorpus, data: st.DataObject) -> None:
    sizes = st.lists(st.integers(1, 7), min_size=1, max_size=4)
    numbers = iter(range(2, 256))
    shards = [
        [[next(numbers) for _ in range(size)] for size in data.draw(sizes)] for _ in range(data.draw(st.integers(1, 3)))
    ]
    captions = [caption for shard in shards for caption in shard]
    tokens, owners = written_out(captions)
    packing = data.draw(st.sampled_from(["document", "concat"]))
    seq_length = data.draw(st.integers(PLACES + 1, max(PLACES + 1, min(12, len(tokens) - 1))))
    corpus = make_corpus({"a": shards}, {"a": shards}, pictured={"a"})
    stream = CorpusStream(corpus, CorpusStream.Config(packing=packing), seq_length, 0)
    windows = [Window(0, index, 0) for index in range(stream.windows_per_epoch()[0])]
    batch = stream.read(windows)
    for row, window in enumerate(windows):
        start = min(window.index * seq_length, len(tokens) - 1 - seq_length)
        place = slice(start, start + seq_length + 1)
        assert batch.tokens[row].tolist() == tokens[place]
        assert_shows(batch, row, owners[place], captions)
    assert batch.documents.any() == (packing == "document" and END in batch.tokens[:, 1:])
    if batch.pictures is not None:
        in_rows = [set(of[of >= 0].tolist()) for of in batch.pictures.of]
        assert sum(map(len, in_rows)) == len(batch.pictures.pixels), "each once for each document of a row"

    held_out = corpus.held_out(seq_length, packing=packing)
    for found in (held_out, held_out.by_document()):
        batches = found.batches(3)
        assert sum(real_targets(batch) for batch in batches) == found.tokens == len(tokens) - 1 - PLACES * len(captions)
        shown = [one for batch in batches if batch.pictures is not None for one in batch.pictures.pixels[:, 0, 0, 0]]
        assert set(shown) == {caption[0] for caption in captions}
    shutil.rmtree(corpus.folder)


def test_documents_by_themselves_show_their_own_pictures(make_corpus: MakeCorpus) -> None:
    batch = make_corpus(TRAIN, HELD_OUT, pictured={"a"}).held_out(9).by_document().batches(10)[0]
    assert batch.tokens.tolist() == [
        [END, *SHOWN, 24, 25, 26, END],
        [END, *SHOWN, 21, 22, END, PADDING],
        [END, *SHOWN, 23, END, PADDING, PADDING],
        [END, 41, 42, END, *[PADDING] * 4],
    ]
    assert batch.pictures is not None
    assert batch.pictures.pixels[:, 0, 0, 0].tolist() == [24, 21, 23]
    assert batch.pictures.of.tolist() == [[-1, *[row] * 3, *[-1] * 4] for row in range(3)] + [[-1] * 8]


def test_a_sample_of_documents_keeps_their_pictures_and_counts_text_alone(make_corpus: MakeCorpus) -> None:
    many = {"a": [[[n, n + 1, n + 2] for n in range(10, 90, 4)]]}
    held_out = make_corpus(TRAIN, many, pictured={"a"}).held_out(8, max_tokens=20)
    assert (held_out.tokens, held_out.utf8_bytes) == (20, 5 * 6)
    for batch in held_out.by_document().batches(2):
        assert batch.pictures is not None
        for row, of in zip(batch.tokens, batch.pictures.of, strict=True):
            assert {int(batch.pictures.pixels[number, 0, 0, 0]) for number in of if number >= 0} == {
                int(row[1 + PLACES])
            }


def test_a_window_that_a_picture_would_fill_is_refused(make_corpus: MakeCorpus) -> None:
    with pytest.raises(UserMistake, match=r"a window of 3 tokens may hold nothing but the 3 places") as caught:
        CorpusStream(make_corpus(TRAIN, pictured={"a"}), CorpusStream.Config(), PLACES, 0)
    assert caught.value.where == "model.seq_length"


def test_text_beside_pictures_is_read_as_ever(make_corpus: MakeCorpus) -> None:
    stream = CorpusStream(make_corpus(TRAIN, pictured={"a"}), CorpusStream.Config(), 8, 0)
    assert stream.read([Window(1, 0, 0)]).pictures is None
    mixed = stream.read([Window(1, 0, 0), Window(0, 0, 0)])
    assert mixed.pictures is not None
    assert (mixed.pictures.of[0] == -1).all()
    assert mixed.pictures.of[1].tolist() == [-1, 0, 0, 0, -1, -1, -1, -1, 1]


@pytest.fixture
def batch(make_corpus: MakeCorpus) -> Batch:
    """Two windows of which the first begins and ends inside a picture."""
    stream = CorpusStream(make_corpus(TRAIN, pictured={"a"}), CorpusStream.Config(), 8, 0)
    return stream.read([Window(0, 1, 0), Window(0, 0, 0)])


def test_shorter_rows_keep_each_place_with_its_picture(batch: Batch) -> None:
    cut = cut_rows(batch, 4)
    assert cut.pictures is not None
    assert batch.pictures is not None
    assert cut.pictures.of.tolist() == [piece for of in batch.pictures.of.tolist() for piece in (of[:5], of[4:])]
    assert ((cut.tokens < 0) == (cut.pictures.of >= 0)).all()
    assert real_targets(cut) == real_targets(batch)


def test_padding_shows_nothing_and_counts_for_nothing(batch: Batch) -> None:
    micro = WindowBatch(batch, seed=0)
    padded = micro.padded(12)
    assert padded.batch.pictures is not None
    assert padded.batch.pictures.of.shape == (2, 13)
    assert (padded.batch.pictures.of[:, 9:] == -1).all()
    assert padded.targets == micro.targets == int((batch.tokens[:, 1:] >= 0).sum())
    assert padded.batch.pictures.pixels is batch.pictures.pixels  # type: ignore[union-attr]


def test_no_ngram_holds_a_place(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus({"a": TRAIN["a"]}, pictured={"a"})
    pairs = SeenNgrams.open(corpus, 2, tmp_path)
    assert len(pairs) == 3
    assert pairs([11, 12, 13]) == [True, True]
    assert len(SeenNgrams.open(corpus, 1, tmp_path)) == 6


def test_the_summary_counts_pictures_and_leaves_places_out(make_corpus: MakeCorpus) -> None:
    manifest = make_corpus(TRAIN, HELD_OUT, pictured={"a"}).manifest
    assert manifest.summary()["splits"] == {
        "train": {"documents": 4, "pictures": 3, "tokens": 9 + 21, "text_bytes": 12 + 40},
        "validation": {"documents": 4, "pictures": 3, "tokens": 9 + 3, "text_bytes": 12 + 4},
    }


def test_a_manifest_without_pictures_does_not_speak_of_them(make_corpus: MakeCorpus) -> None:
    text = make_corpus(TRAIN).manifest.to_json()
    assert not any(word in text for word in ("images", "pictures", "places"))


def test_pairs_are_counted_over_shards_and_read_one_by_one(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus({**TRAIN, "c": [[[51, 52]]]}, HELD_OUT, pictured={"a", "c"})
    corpus = _with_tokenizer(corpus)
    pairs = corpus.captioned("train")
    assert len(pairs) == 4
    assert [pairs.caption(number) for number in range(4)] == [[11, 12, 13], [14], [15, 16], [51, 52]]
    assert pairs.pixels([3, 0, 2])[:, 0, 0, 0].tolist() == [51, 11, 15]
    assert pairs.text(1) == corpus.tokenizer().decode([14])
    for number in (-1, 4):
        with pytest.raises(IndexError, match=f"no pair {number} of 4"):
            pairs.caption(number)


def test_a_part_without_pictures_says_so(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(TRAIN, {"b": HELD_OUT["b"]}, pictured={"a"})
    with pytest.raises(DataError, match="the validation part has no pictures"):
        corpus.captioned("validation")


def _with_tokenizer(corpus: Corpus) -> Corpus:
    """The corpus with a real tokenizer in its folder."""
    tokenizer = Tokenizer.train(BytePair(vocab_size=300), ["a few words"])
    tokenizer.save(corpus.folder)
    record = corpus.manifest.tokenizer.model_copy(update={"digest": tokenizer.digest})
    (corpus.folder / "manifest.json").write_text(corpus.manifest.model_copy(update={"tokenizer": record}).to_json())
    return Corpus.open(corpus.folder)


@pytest.mark.parametrize(
    "mixed",
    [
        {"mix_strategy": "round_robin"},
        {"mix_strategy": "sequential"},
        {"mix_strategy": "weighted", "source_weights": {"a": 0.3, "b": 0.7}},
    ],
    ids=lambda mixed: str(mixed["mix_strategy"]),
)
def test_the_plan_knows_how_many_targets_windows_have(make_corpus: MakeCorpus, mixed: dict[str, object]) -> None:
    corpus = make_corpus({"a": [[[7, 8]] * 300], "b": [[[9] * 20] * 40]}, pictured={"a"})
    stream = CorpusStream(corpus, CorpusStream.Config.model_validate(mixed), 10, 0)
    windows, _ = stream.draw(stream.start(), 10 * sum(stream.windows_per_epoch()))
    drawn = real_targets(stream.read(windows)) / len(windows)
    assert stream.targets_per_window == pytest.approx(drawn, rel=0.01)
    assert drawn < 9


def test_of_text_alone_every_token_is_a_target(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({name: [[[9] * 40]] for name in "abc"})
    weighted = CorpusStream.Config(mix_strategy="weighted", source_weights=[0.1, 0.2, 0.3])
    assert CorpusStream(corpus, weighted, 10, 0).targets_per_window == 10
