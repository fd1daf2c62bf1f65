"""Held-out windows predict every token once, and count the bytes those tokens stand for."""

import pytest
from corpora_by_hand import END, PADDING, MakeCorpus

from dreamlm.core.errors import DataError
from dreamlm.data_sources.held_out import HeldOutDocuments

TRAIN = {"a": [[[9] * 50]], "b": [[[9] * 50]]}
VALIDATION = {"a": [[[11, 12, 13], [14]], [[15, 16]]], "b": [[[21, 22]]]}


def targets(held_out: HeldOutDocuments, rows: int) -> list[int]:
    found = []
    for batch in held_out.batches(rows):
        real = batch.documents[:, 1:] >= 0
        found += batch.tokens[:, 1:][real].tolist()
    return found


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("seq_length", [1, 3, 8, 50])
def test_every_token_is_a_target_once(make_corpus: MakeCorpus, rows: int, seq_length: int) -> None:
    held_out = make_corpus(TRAIN, VALIDATION).held_out(seq_length)
    assert targets(held_out, rows) == [11, 12, 13, END, 14, END, 15, 16, END, 21, 22, END]
    assert held_out.tokens == 12
    assert held_out.utf8_bytes == 2 * 8


def test_padding_has_no_document(make_corpus: MakeCorpus) -> None:
    batch = make_corpus(TRAIN, VALIDATION).held_out(8).batches(10)[0]
    assert batch.tokens[1].tolist() == [16, END, *[PADDING] * 7]
    assert batch.documents[1].tolist() == [0, 1, *[-1] * 7]
    assert batch.sources.tolist() == [0, 0, 1]


def test_a_limit_takes_whole_documents_of_every_source(make_corpus: MakeCorpus) -> None:
    many = {"a": [[[n] * 9 for n in range(2, 42)], [[n] * 9 for n in range(42, 62)]], "b": [[[99] * 9] * 20]}
    corpus = make_corpus(TRAIN, many)
    held_out = corpus.held_out(7, max_tokens=200)
    found = targets(held_out, 4)
    assert held_out.tokens == len(found) == 200
    assert found.count(99) == 5 * 9
    assert all(found.count(token) in (0, 9) for token in range(2, 62))
    assert held_out.utf8_bytes == 200 // 10 * 18
    assert targets(corpus.held_out(7, max_tokens=200), 4) == found


def test_a_source_keeps_one_document_however_small_the_limit(make_corpus: MakeCorpus) -> None:
    held_out = make_corpus(TRAIN, VALIDATION).held_out(4, max_tokens=1)
    assert {window.source for window in held_out.windows} == {0, 1}


def test_a_corpus_without_held_out_documents_says_so(make_corpus: MakeCorpus) -> None:
    with pytest.raises(DataError, match="no document was held out"):
        make_corpus(TRAIN).held_out(4)


def test_batches_are_a_sequence(make_corpus: MakeCorpus) -> None:
    batches = make_corpus(TRAIN, VALIDATION).held_out(4).batches(2)
    assert [len(batch.tokens) for batch in batches[:]] == [2, 2][: len(batches)]
    assert (batches[-1].tokens == batches[len(batches) - 1].tokens).all()
    with pytest.raises(IndexError):
        batches[len(batches)]


def test_a_window_is_not_longer_than_the_longest_source(make_corpus: MakeCorpus) -> None:
    batch = make_corpus(TRAIN, VALIDATION).held_out(10**9).batches(10)[0]
    assert batch.tokens.tolist() == [
        [END, 11, 12, 13, END, 14, END, 15, 16, END],
        [END, 21, 22, END, *[PADDING] * 6],
    ]


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("seq_length", [1, 3, 8, 50])
def test_documents_by_themselves_hold_the_same_targets(make_corpus: MakeCorpus, rows: int, seq_length: int) -> None:
    held_out = make_corpus(TRAIN, VALIDATION).held_out(seq_length).by_document()
    assert sorted(targets(held_out, rows)) == sorted([11, 12, 13, END, 14, END, 15, 16, END, 21, 22, END])
    assert (held_out.tokens, held_out.utf8_bytes) == (12, 2 * 8)


def test_documents_begin_with_their_own_token_and_reach_to_the_next_one(make_corpus: MakeCorpus) -> None:
    batch = make_corpus(TRAIN, VALIDATION).held_out(8).by_document().batches(10)[0]
    assert batch.tokens.tolist() == [
        [END, 11, 12, 13, END],
        [END, 15, 16, END, PADDING],
        [END, 21, 22, END, PADDING],
        [END, 14, END, PADDING, PADDING],
    ]
    assert batch.sources.tolist() == [0, 0, 1, 0]
