"""Documents at their own length: no token lost, no figure changed by what lies beside it, and little padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_model import SEQ_LENGTH, small_model

from dreamlm.core.evaluation import estimates
from dreamlm.core.evaluation.by_document import ByDocument
from dreamlm.core.evaluation.perplexity import Evaluation
from dreamlm.core.evaluation.score import score
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.pictures import Shown
from dreamlm.core.types import Batch

PADDING = 39
MIXED = [3, 30, 1, 12, 7, 2, 2, 13, 25, 5, 1, 24]
"""Targets of documents: shorter than a window, of its length, and longer."""


class Text:
    """A text of two sources with documents of given lengths, and what is held out of it."""

    def __init__(self, targets: Sequence[int], seq_length: int = SEQ_LENGTH) -> None:
        self.targets = np.array(targets)
        self.source = np.arange(len(targets)) % 2
        self.start = np.zeros(len(targets), np.int64)
        for source in (0, 1):
            own = self.targets[self.source == source]
            self.start[self.source == source] = np.cumsum(own) - own
        self.tokens = np.random.default_rng(6).integers(0, PADDING, (2, sum(targets) + 1))
        self.held_out = ByDocument(
            self.source, self.start, self.targets, self.fill, seq_length=seq_length, padding_id=PADDING, utf8_bytes=500
        )

    def fill(self, source: int, start: int, tokens: npt.NDArray[np.int64]) -> Sequence[Shown]:
        tokens[:] = self.tokens[source, start : start + len(tokens)]
        return ()

    def documents(self) -> list[npt.NDArray[np.int64]]:
        """The tokens of each document, and the one that follows it."""
        places = zip(self.source, self.start, self.targets, strict=True)
        return [self.tokens[source, start : start + targets + 1] for source, start, targets in places]


def pieces_of(batches: Sequence[Batch]) -> list[tuple[int, tuple[int, ...]]]:
    """(source, real tokens) of every row."""
    return [
        (int(source), tuple(tokens[documents >= 0].tolist()))
        for batch in batches
        for tokens, documents, source in zip(batch.tokens, batch.documents, batch.sources, strict=True)
    ]


@given(targets=st.lists(st.integers(1, 40), min_size=1, max_size=30), rows=st.integers(1, 9), length=st.integers(1, 15))
def test_every_target_comes_once_from_its_own_document(targets: list[int], rows: int, length: int) -> None:
    text = Text(targets, length)
    expected = [
        (int(source), tuple(ids[begin : begin + length + 1].tolist()))
        for source, ids in zip(text.source, text.documents(), strict=True)
        for begin in range(0, len(ids) - 1, length)
    ]
    batches = text.held_out.batches(rows)
    assert sorted(pieces_of(batches)) == sorted(expected)
    for (_, ids), owner in zip(pieces_of(batches), text.held_out.owner_N, strict=True):
        whole = text.documents()[owner].tolist()
        assert any(tuple(whole[begin : begin + len(ids)]) == ids for begin in range(0, len(whole) - 1, length))
    assert text.held_out.tokens == sum(targets) == sum(len(ids) - 1 for _, ids in expected)
    room = rows * min(length, max(targets))
    for batch in batches:
        assert batch.documents[:, :-1].size <= room
        assert (batch.documents[0] == 0).all()  # the longest comes first, and a batch is as long as that
        assert ((batch.documents == -1) == (batch.tokens == PADDING)).all()


@torch.no_grad()
def nll_alone(model: DreamLM, ids: npt.NDArray[np.int64]) -> float:
    """Nats of a document's windows, each in a pass of its own, by the formula."""
    total = 0.0
    for begin in range(0, len(ids) - 1, SEQ_LENGTH):
        tokens = torch.from_numpy(ids[begin : begin + SEQ_LENGTH + 1])[None]
        signal = model(tokens[:, :-1], torch.zeros_like(tokens[:, :-1]), model.start(1), boundaries=False)
        scores = model.logits(signal.hidden)[0].double().log_softmax(dim=-1)
        total -= float(scores.gather(1, tokens[0, 1:, None]).sum())
    return total


@pytest.mark.parametrize("rows", [1, 2, 5, 100])
def test_each_document_has_the_loss_that_it_has_alone(rows: int) -> None:
    model, text = small_model(), Text(MIXED)
    scores = score(model, text.held_out, rows)
    nats: dict[tuple[int, tuple[int, ...]], float] = {}
    for piece, nll in zip(pieces_of(text.held_out.batches(rows)), scores.nll_N, strict=True):
        nats[piece] = float(nll)
    for source, ids in zip(text.source, text.documents(), strict=True):
        own = [
            nats[int(source), tuple(ids[begin : begin + SEQ_LENGTH + 1].tolist())]
            for begin in range(0, len(ids) - 1, SEQ_LENGTH)
        ]
        assert sum(own) == pytest.approx(nll_alone(model, ids), abs=1e-5)
    assert scores.nll_N.sum() == pytest.approx(sum(nll_alone(model, ids) for ids in text.documents()), abs=1e-4)


def test_padding_to_the_window_changes_no_loss_and_costs_more() -> None:
    class Padded(ByDocument):  # type: ignore[misc]
        """As long as a window, whatever its documents need."""

        def read(self, begin: int, end: int) -> Batch:
            batch = super().read(begin, end)
            lack = ((0, 0), (0, SEQ_LENGTH + 1 - batch.tokens.shape[1]))
            tokens = np.pad(batch.tokens, lack, constant_values=PADDING)
            return Batch(tokens, np.pad(batch.documents, lack, constant_values=-1), batch.sources)

    model, text = small_model(), Text(MIXED)
    padded = Padded(
        text.source, text.start, text.targets, text.fill, seq_length=SEQ_LENGTH, padding_id=PADDING, utf8_bytes=500
    )
    own, whole = (Evaluation.Config(rows=3).build().run(model, held_out) for held_out in (text.held_out, padded))
    assert own.cross_entropy == pytest.approx(whole.cross_entropy, abs=1e-6)
    assert own.position_cross_entropy == pytest.approx(whole.position_cross_entropy, abs=1e-5)
    assert [one.cross_entropy for one in own.sources] == pytest.approx([one.cross_entropy for one in whole.sources])
    pieces = sum(-(-targets // SEQ_LENGTH) for targets in MIXED)
    assert whole.padding == pytest.approx(1 - sum(MIXED) / (pieces * SEQ_LENGTH))
    assert 2 * own.padding < whole.padding


def test_short_documents_share_the_room_of_long_ones() -> None:
    batches = Text([12, 6, 6, 4, 4, 4]).held_out.batches(1)
    assert [batch.tokens.shape for batch in batches] == [(1, 13), (2, 7), (3, 5)]
    assert batches[-1].tokens.shape == batches[0:3][2].tokens.shape
    with pytest.raises(IndexError):
        batches[3]


def test_evaluation_takes_documents_when_it_is_asked_to() -> None:
    class Choice:
        """Windows that must not be read."""

        tokens, utf8_bytes = sum(MIXED), 500

        def batches(self, rows: int) -> Sequence[Batch]:
            raise AssertionError

        def by_document(self) -> ByDocument:
            return Text(MIXED).held_out

    report = Evaluation.Config(rows=2, by="document").build().run(small_model(), Choice())
    assert (report.tokens, report.utf8_bytes) == (sum(MIXED), 500)
    assert report.to_json()["padding"] == report.padding


def test_the_report_counts_the_padding_of_each_batch() -> None:
    report = Evaluation.Config(rows=3).build().run(small_model(), Text([5, 1]).held_out)
    assert report.padding == pytest.approx(4 / 10)


def test_the_pieces_of_a_document_are_resampled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = small_model(), Text([5 * SEQ_LENGTH, 3 * SEQ_LENGTH, 4, 4, 7, 2, 9, SEQ_LENGTH + 1])
    seen = []
    resample = estimates.bootstrap_ratio

    def noted(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], *rest: Any) -> Any:
        seen.append((sums, counts))
        return resample(sums, counts, *rest)

    monkeypatch.setattr(estimates, "bootstrap_ratio", noted)
    report = Evaluation.Config(by="document", rows=3).build().run(model, text.held_out)
    alone = [nll_alone(model, ids) for ids in text.documents()]
    (sums, counts), *by_source = seen
    assert sorted(counts.tolist()) == sorted(text.targets.tolist())
    assert sorted(sums.tolist()) == pytest.approx(sorted(alone), abs=1e-4)
    assert report.windows > len(counts)
    assert all(len(counts) >= 5 for _, counts in by_source)
