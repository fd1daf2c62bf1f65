"""The stream: every window once an epoch, the same tail from every cursor, and rows that hold the right tokens."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from corpora_by_hand import END, MakeCorpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dreamlm.core.errors import DataError, UserMistake
from dreamlm.core.types import Cursor, Window
from dreamlm.data_sources.stream import CorpusStream

STRATEGIES = ["round_robin", "sequential", "weighted"]


def counting(first: int, *lengths: int) -> list[list[int]]:
    """Documents whose tokens count up, so that every token tells its place."""
    starts = np.cumsum([first, *lengths])
    return [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=False)]


def stream_over(make_corpus: MakeCorpus, seq_length: int = 4, seed: int = 7, **config: object) -> CorpusStream:
    corpus = make_corpus({"a": [counting(100, 5, 3), counting(108, 9)], "b": [counting(200, 30)]})
    return CorpusStream(corpus, CorpusStream.Config.model_validate(config), seq_length, seed)


def restored(cursor: Cursor) -> Cursor:
    """The cursor after a trip through a JSON file."""
    values = json.loads(json.dumps(asdict(cursor)))
    return Cursor(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_restoring_at_every_step_gives_the_same_tail(make_corpus: MakeCorpus, strategy: str) -> None:
    stream = stream_over(make_corpus, mix_strategy=strategy)
    whole, end = stream.draw(stream.start(), 60)
    cursor = stream.start()
    for step in range(60):
        (window,), cursor = stream.draw(restored(cursor), 1)
        assert window == whole[step]
        assert stream.draw(restored(cursor), 59 - step) == (whole[step + 1 :], end)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_epoch_holds_every_window_once_and_the_next_is_in_another_order(
    make_corpus: MakeCorpus, strategy: str
) -> None:
    stream = stream_over(make_corpus, mix_strategy=strategy, seq_length=1)
    windows, _ = stream.draw(stream.start(), 160)
    for source, length in enumerate(stream.windows_per_epoch()):
        by_epoch = [[w.index for w in windows if (w.source, w.epoch) == (source, epoch)] for epoch in (0, 1)]
        assert sorted(by_epoch[0]) == sorted(by_epoch[1]) == list(range(length))
        assert by_epoch[0] != by_epoch[1]


def test_seeds_and_sources_have_their_own_order(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus({"a": [counting(100, 50)], "b": [counting(200, 50)]})
    orders = {}
    for seed in (1, 2):
        windows, _ = CorpusStream(corpus, CorpusStream.Config(), 1, seed).draw(
            Cursor(0, (0, 0), (0, 0), (0.5, 0.5)), 100
        )
        for source in (0, 1):
            orders[seed, source] = tuple(window.index for window in windows if window.source == source)
    assert len(set(orders.values())) == 4


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_sees_one_sequence(make_corpus: MakeCorpus, ranks: int) -> None:
    stream = stream_over(make_corpus, mix_strategy="weighted", source_weights={"a": 1, "b": 2})
    expected, _ = stream.draw(stream.start(), 24)
    seen: list[Window] = []
    cursor = stream.start()
    for _ in range(24 // 8):
        windows, cursor = stream.draw(cursor, 8)
        for rank in range(ranks):
            rows = 8 // ranks
            seen += stream.read(windows[rank * rows : (rank + 1) * rows]).windows
    assert tuple(seen) == expected


def test_changed_weights_act_from_the_next_window_on(make_corpus: MakeCorpus) -> None:
    stream = stream_over(make_corpus, mix_strategy="weighted")
    _, cursor = stream.draw(stream.start(), 5)
    windows, after = stream.draw(stream.reweigh(cursor, [0, 2]), 10)
    assert [window.source for window in windows] == [1] * 10
    assert after.weights == (0.0, 1.0)


def test_windows_cover_the_source_and_share_one_token(make_corpus: MakeCorpus) -> None:
    stream = stream_over(make_corpus)
    tokens = [END, *range(100, 105), END, *range(105, 108), END, *range(108, 117), END]
    assert stream.windows_per_epoch()[0] == 5
    for index in range(5):
        start = min(4 * index, len(tokens) - 5)
        row = stream.read([Window(0, index, 0)]).tokens[0]
        assert row.tolist() == tokens[start : start + 5]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.data())
def test_rows_agree_with_the_documents_written_out(make_corpus: MakeCorpus, data: st.DataObject) -> None:
    lengths = st.lists(st.integers(1, 12), min_size=1, max_size=4)
    shards = [counting(100 * n, *data.draw(lengths)) for n in range(1, 1 + data.draw(st.integers(1, 3)))]
    shards.append(counting(900, 20))
    seq_length = data.draw(st.integers(1, 20))
    flat = [token for shard in shards for document in shard for token in (END, *document)] + [END]
    number = np.cumsum(np.array(flat) == END)
    corpus = make_corpus({"a": shards})
    stream = CorpusStream(corpus, CorpusStream.Config(), seq_length, 0)
    windows = [Window(0, index, 0) for index in range(stream.windows_per_epoch()[0])]
    batch = stream.read(windows)
    covered = np.zeros(len(flat), dtype=int)
    for row, window in enumerate(windows):
        start = min(window.index * seq_length, len(flat) - 1 - seq_length)
        place = slice(start, start + seq_length + 1)
        assert batch.tokens[row].tolist() == flat[place]
        assert batch.documents[row].tolist() == (number[place] - number[start]).tolist()
        covered[start + 1 : start + seq_length + 1] += 1
    assert covered[1:].min() == 1
    shutil.rmtree(corpus.folder)


def test_concat_packing_knows_no_boundaries(make_corpus: MakeCorpus) -> None:
    stream = stream_over(make_corpus, packing="concat", seq_length=15)
    assert not stream.read([Window(0, 0, 0)]).documents.any()


def test_a_window_names_the_documents_it_overlaps(make_corpus: MakeCorpus) -> None:
    stream = stream_over(make_corpus, seq_length=6)
    assert stream.describe(Window(0, 1, 0)) == [
        "a: a-0.txt, document 1 of shard 0",
        "a: a-1.txt, document 0 of shard 1",
    ]


def test_a_source_shorter_than_a_window_is_named_with_its_length(make_corpus: MakeCorpus) -> None:
    with pytest.raises(DataError, match="source a has 21 tokens, a window needs 31"):
        stream_over(make_corpus, seq_length=30)


def test_weights_for_an_unknown_source_are_refused(make_corpus: MakeCorpus) -> None:
    with pytest.raises(UserMistake, match="no source of the corpus: c") as caught:
        stream_over(make_corpus, mix_strategy="weighted", source_weights={"c": 1})
    assert caught.value.valid == ("a", "b")


def test_weights_without_their_strategy_are_refused() -> None:
    with pytest.raises(ValidationError, match="mix_strategy 'weighted'"):
        CorpusStream.Config(source_weights=[1.0])
