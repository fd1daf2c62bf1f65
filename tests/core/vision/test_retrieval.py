"""Retrieval: ranks by hand, and what is measured of a model."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from picture_models import VOCAB, pixels, seeing_model

from dreamlm.core.evaluation import retrieval
from dreamlm.core.evaluation.bootstrap import Resampling
from dreamlm.core.evaluation.retrieval import Compared, Retrieval, compared, directions
from dreamlm.core.evaluation.section import Section

SURE = Resampling(0.95, 200, 0)


def by_hand(similarity: list[list[float]], belongs: list[list[int]] | None = None) -> Compared:
    alike = np.array(similarity)
    own = np.eye(len(alike), dtype=bool) if belongs is None else np.array(belongs, dtype=bool)
    return Compared(alike, own, tuple(f"caption {number}" for number in range(len(alike))))


def measure(found: Compared) -> Section:
    return Retrieval.Config().build(SURE).measure(found)


def test_ranks_are_counted_both_ways() -> None:
    to_text, to_picture = directions(by_hand([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]]))
    assert to_text.rank_N.tolist() == [1, 2, 3]
    assert to_picture.rank_N.tolist() == [1, 1, 3]


def test_a_model_that_finds_all_alike_has_found_nothing() -> None:
    for way in directions(by_hand([[0.5] * 4] * 4)):
        assert way.rank_N.tolist() == [4] * 4


def test_any_right_answer_will_do() -> None:
    same = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    to_text, _ = directions(by_hand([[0.1, 0.9, 0.2], [0.8, 0.1, 0.3], [0.3, 0.2, 0.1]], same))
    assert to_text.rank_N.tolist() == [1, 1, 3]
    assert to_text.right_N.tolist() == [2, 2, 1]


def test_chance_is_what_random_orders_give() -> None:
    same = np.eye(8, dtype=int)
    same[0, 1] = same[1, 0] = 1
    way = directions(by_hand(np.zeros((8, 8)).tolist(), same.tolist()))[0]
    generator = np.random.default_rng(0)
    hits = [generator.permutation(8)[:3] < right for right in way.right_N for _ in range(4000)]
    assert way.chance(3) == pytest.approx(np.mean([one.any() for one in hits]), abs=0.01)
    assert way.chance(100) == 1.0


def test_the_section_has_recall_and_rank_with_intervals_and_chance() -> None:
    section = measure(by_hand(np.random.default_rng(1).random((40, 40)).tolist()))
    recall = section.figure("picture to text recall@5")
    assert recall.interval is not None
    assert recall.interval.low <= (recall.value or 0.0) <= recall.interval.high
    assert recall.interval.low < 5 / 40 < recall.interval.high
    assert "by chance 0.125" in recall.unit
    rank = section.figure("text to picture median rank")
    assert rank.interval is not None
    assert "by chance 20.5" in rank.unit
    assert section.to_json()["chance"]["text to picture recall@1"] == pytest.approx(1 / 40)
    assert len(section.to_json()["ranks"]) == 40


class Pairs:
    """Captioned pictures by hand. Implements `core.types.Captioned`."""

    def __init__(self, seen: torch.Tensor, captions: Sequence[list[int]]) -> None:
        self._seen, self._captions = seen, captions

    def __len__(self) -> int:
        return len(self._captions)

    def pixels(self, numbers: Sequence[int]) -> np.ndarray:
        return self._seen[list(numbers)].numpy()

    def caption(self, number: int) -> list[int]:
        return self._captions[number]

    def text(self, number: int) -> str:
        return f"text {number}"


def test_what_is_measured_depends_on_no_batch() -> None:
    model = seeing_model()
    generator = np.random.default_rng(0)
    captions = [generator.integers(1, VOCAB, length).tolist() for length in (1, 3, 30, 2, 7)]
    captions[3] = captions[1]
    pairs = Pairs(pixels(model, 5), captions)
    whole, single = (compared(model, pairs, range(5), rows) for rows in (5, 1))
    assert np.allclose(whole.similarity_NN, single.similarity_NN, atol=1e-5)
    assert whole.belongs_NN.sum(axis=1).tolist() == [1, 2, 1, 2, 1]
    assert whole.captions[4] == "text 4"


def test_all_captions_of_a_picture_and_all_pictures_of_a_caption_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two pictures are one, and so are the third caption and the fourth."""
    model = seeing_model()
    seen = pixels(model, 5)
    seen[1] = seen[0]
    alike = [
        [0.3, 0.9, 0.5, 0.5, 0.4],
        [0.3, 0.9, 0.5, 0.5, 0.4],
        [0.1, 0.2, 0.6, 0.6, 0.8],
        [0.6, 0.7, 0.4, 0.4, 0.5],
        [0.2, 0.1, 0.3, 0.3, 0.7],
    ]
    monkeypatch.setattr(retrieval, "similarity", lambda *_: torch.tensor(alike))
    found = compared(model, Pairs(seen, [[1], [2], [3, 4], [3, 4], [5]]), range(5), 1)
    to_text, to_picture = directions(found)
    assert to_text.right_N.tolist() == to_picture.right_N.tolist() == [2, 2, 2, 2, 1]
    assert to_text.rank_N.tolist() == [1, 1, 2, 4, 1]
    assert to_picture.rank_N.tolist() == [2, 1, 1, 1, 2]
    section = measure(found)
    for way in ("picture to text", "text to picture"):
        values = [section.figure(f"{way} {name}").value for name in ("recall@1", "recall@5", "median rank")]
        assert values == pytest.approx([0.6, 1.0, 1.0])


def test_many_pairs_are_thinned_evenly() -> None:
    few = Retrieval.Config(pairs=4).build(SURE)
    assert few.chosen(3) == [0, 1, 2]
    assert few.chosen(8) == [0, 2, 4, 6]


def test_a_shared_caption_is_told() -> None:
    section = measure(by_hand([[0.1, 0.2], [0.3, 0.4]], [[1, 1], [1, 1]]))
    assert "2 pictures have several right captions" in section.notes[0]
    assert math.isclose(section.to_json()["chance"]["picture to text recall@1"], 1.0)
