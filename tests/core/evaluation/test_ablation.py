"""Reading with something else in sight: who lends what to whom, and what of the losses is compared."""

import numpy as np

from dreamlm.core.evaluation.ablation import TextLosses, compared, complete_segments, donors
from dreamlm.core.types import Batch


def test_the_donor_is_the_next_longer_text_of_another_document() -> None:
    assert donors(np.array([4, 4, 2, 2, 7, 4])).tolist() == [2, 2, 1, 1, 3, 4]
    assert donors(np.array([1, 1, 1])).tolist() == [-1, -1, -1]
    assert donors(np.array([1])).tolist() == [-1]
    assert donors(np.array([], dtype=np.int64)).tolist() == []


def test_segments_count_when_all_their_tokens_are_read() -> None:
    documents = np.array([[0] * 9, [0] * 8 + [-1], [0] * 5 + [-1] * 4, [0] * 4 + [-1] * 5], np.int32)
    batch = Batch(tokens=np.zeros((4, 9), np.int64), documents=documents, sources=np.zeros(4, np.int32))
    assert complete_segments(batch, 4).tolist() == [2, 1, 1, 0], "the last token is a target alone"


def losses(reading: list[float], overall: list[float]) -> TextLosses:
    return TextLosses(np.array(reading), np.array(overall), np.array([2, 0]), np.array([4, 3]))


def test_every_way_is_compared_with_the_texts_own_where_it_reads_and_overall() -> None:
    found = compared({"own": losses([1, 0], [5, 3]), "zeroed": losses([4, 0], [8, 4])}, "own", "dreams", "nodes")
    assert {one.name: (one.sums, one.counts) for one in found} == {
        "loss, own dreams": ([1.0, 0.0], [2, 0]),
        "loss, zeroed dreams": ([4.0, 0.0], [2, 0]),
        "zeroed - own": ([3.0, 0.0], [2, 0]),
        "loss, own dreams, all tokens": ([5.0, 3.0], [4, 3]),
        "loss, zeroed dreams, all tokens": ([8.0, 4.0], [4, 3]),
        "zeroed - own, all tokens": ([3.0, 1.0], [4, 3]),
    }
    assert {one.unit for one in found} == {"nats per token that reads nodes", "nats per token"}
