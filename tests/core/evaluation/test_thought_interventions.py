"""Reading with other thoughts: the true stack changes nothing, and every other one changes just what it says.

Shapes: B rows, M thoughts of a stack, T targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from thinking_model import END, MODULE, SEGMENT, STACK, documents, thinking_model
from torch import Tensor

from dreamlm.core.evaluation.ablation import TextLosses, ablated, donors
from dreamlm.core.evaluation.by_document import ByDocument
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.evaluation.reading import Reading, read_plainly
from dreamlm.core.evaluation.thought_interventions import (
    Anothers,
    Intervened,
    Intervention,
    Shuffled,
    TrueStack,
    Zeroed,
    stack_of,
)
from dreamlm.core.evaluation.thought_reading import collected
from dreamlm.core.inference import inference
from dreamlm.core.modules.ring import Ring
from dreamlm.core.modules.thought_stack import ThoughtStack
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.types import Batch

KINDS = ("causal", "diffusion")


def nll(model: DreamLM, batch: Batch, read: Reading) -> npt.NDArray[np.float64]:
    with inference(model):
        return likelihood_of(model, END, 2, read=read).losses(model, batch, check=False).nll_BT


def changed(intervention: Intervention, batch: Batch) -> Intervened:
    return Intervened(MODULE, intervention, np.arange(len(batch.tokens)))


def losses_of(
    model: DreamLM, held_out: ByDocument, rows: int, interventions: Sequence[Intervention]
) -> dict[str, TextLosses]:
    ways = {one.name: partial(Intervened, MODULE, one) for one in interventions}
    return ablated(model, held_out, rows, ways, lambda read: likelihood_of(model, END, 2, read=read))


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_true_stack_a_text_has_its_own_loss_to_the_bit(kind: str) -> None:
    model = thinking_model(kind)
    for batch in documents().batches(3):
        assert (nll(model, batch, changed(TrueStack(), batch)) == nll(model, batch, read_plainly)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeroed_is_a_stack_whose_thoughts_are_all_zero_for_both_its_readers(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (batch, *_) = thinking_model(kind), documents().batches(5)
    found, plain = nll(model, batch, changed(Zeroed(), batch)), nll(model, batch, read_plainly)
    read, write = ThoughtStack.read, ThoughtStack.write

    def blank(memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**memory, "thoughts": torch.zeros_like(memory["thoughts"])}

    monkeypatch.setattr(ThoughtStack, "read", lambda self, hidden, memory: read(self, hidden, blank(memory)))
    monkeypatch.setattr(ThoughtStack, "write", lambda self, memory, *rest: write(self, blank(memory), *rest))
    assert found == pytest.approx(nll(model, batch, read_plainly), abs=1e-6)
    assert np.abs(found - plain)[:, SEGMENT:].max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", [Zeroed(), Shuffled(0), "another"], ids=str)
def test_only_tokens_that_read_thoughts_lose_or_gain(kind: str, intervention: Intervention | str) -> None:
    model, held_out = thinking_model(kind), documents()
    if isinstance(intervention, str):
        intervention = Anothers(collected(model, MODULE, held_out, 4).texts, donors(held_out.owner_N))
    (batch, *_) = held_out.batches(5)
    before, after = nll(model, batch, read_plainly), nll(model, batch, changed(intervention, batch))
    first = SEGMENT if not isinstance(intervention, Shuffled) else 2 * SEGMENT
    assert (before[:, :first] == after[:, :first]).all(), "a single thought cannot be shuffled"
    assert np.abs(before - after)[:, first:].max() > 1e-3


@dataclass(frozen=True)
class Spy(Intervention):
    """Shows zeros, and keeps what it was given."""

    seen: list[tuple[int, Ring]]
    name = "spy"

    def shown(self, own: Ring, text_B: npt.NDArray[np.int64], segments: int) -> Ring:
        self.seen.append((segments, own))
        return Zeroed().shown(own, text_B, segments)


def test_the_texts_own_stack_holds_what_was_written_in_order_whatever_was_shown() -> None:
    model, (batch, *_), spy = thinking_model(), documents(16, 7).batches(2), Spy([])
    tokens, places = torch.from_numpy(batch.tokens), torch.from_numpy(batch.documents)
    with inference(model):
        signals = changed(spy, batch)(model, tokens, places, True, True)
    assert [number for number, _ in spy.seen] == [1, 2, 3, 4]
    for before, (number, own) in zip([None, *spy.seen], spy.seen, strict=False):
        assert own.count_B.tolist() == [min(number, STACK), min(number, 2)]
        if before is not None:
            assert (own.ordered()[0, :-1] == before[1].ordered()[0, 1:]).all()
    assert (spy.seen[3][1].ordered()[1] == spy.seen[1][1].ordered()[1]).all(), "the second text has ended"
    for signal in signals:
        assert not stack_of(signal.carry, MODULE).ordered().any(), "what the next segment, or a slot, is shown"


def ring(*counts: int) -> Ring:
    """Thoughts of one number each: of row r 10r + 1, 10r + 2, ..., the newest last."""
    shown = torch.zeros(len(counts), STACK, 1)
    for row, count in enumerate(counts):
        shown[row, STACK - count :, 0] = torch.arange(1, count + 1) + 10 * row
    return Ring.of(shown, torch.tensor(counts))


def there(shown: Ring) -> list[list[float]]:
    return [
        row[STACK - count :, 0].tolist() for row, count in zip(shown.ordered(), shown.count_B.tolist(), strict=True)
    ]


def test_shuffled_is_another_order_of_the_same_thoughts() -> None:
    own, orders = ring(3, 2, 1, 0), set()
    for segments in range(1, 60):
        found = there(Shuffled(0).shown(own, np.arange(4), segments))
        assert sorted(found[0]) == [1.0, 2.0, 3.0]
        assert found[1:] == [[12.0, 11.0], [21.0], []]
        orders.add(tuple(found[0]))
    assert len(orders) == 5, "all orders but its own"


def test_a_texts_order_is_drawn_by_its_number_and_its_segment_alone() -> None:
    both = [there(Shuffled(0).shown(ring(3, 3), np.array([4, 7]), segments)) for segments in range(20)]
    alone = [there(Shuffled(0).shown(ring(3), np.array([4]), segments))[0] for segments in range(20)]
    assert [first for first, _ in both] == alone
    assert [[one - 10 for one in second] for _, second in both] != alone


def test_anothers_are_those_that_it_had_at_that_time() -> None:
    texts = [np.array([[1.0], [2], [3], [4]]), np.array([[5.0]]), np.zeros((0, 1))]
    lent = Anothers(texts, np.array([1, 0, 1]))
    assert there(lent.shown(ring(3, 3), np.array([0, 1]), 4)) == [[5.0], [2.0, 3.0, 4.0]]
    assert there(lent.shown(ring(2, 1), np.array([1, 1]), 2)) == [[1.0, 2.0], [2.0]]
    assert there(lent.shown(ring(0, 2), np.array([0, 2]), 2)) == [[], [5.0]]
    assert there(Anothers(texts, np.array([2, 2, 0])).shown(ring(2), np.array([0]), 2)) == [[]]


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_and_losses_are_the_same_in_any_batches(kind: str) -> None:
    model, held_out = thinking_model(kind), documents()

    def losses(rows: int) -> dict[str, npt.NDArray[np.float64]]:
        found = collected(model, MODULE, held_out, rows)
        interventions = [TrueStack(), Zeroed(), Shuffled(5), Anothers(found.texts, donors(held_out.owner_N))]
        each = losses_of(model, held_out, rows, interventions)
        assert list(each) == ["true", "zeroed", "shuffled", "another's"]
        return {name: one.overall_N for name, one in each.items()}

    one, many = losses(1), losses(7)
    for name in one:
        assert one[name] == pytest.approx(many[name], abs=1e-4), name


def test_a_text_has_a_thought_for_each_segment_that_it_completes() -> None:
    model, held_out = thinking_model(), documents()
    found, (batch, *_) = collected(model, MODULE, held_out, 100), held_out.batches(100)
    assert [len(text) for text in found.texts] == [4, 4, 4, 4, 3, 2, 2, 1, 1, 1, 0]
    assert (found.numbers, found.texts[0].shape) == (12, (4, 12))
    assert found.owner_N.tolist()[:4] == [0, 2, 2, 6]
    with inference(model):
        for tokens, real, text in zip(batch.tokens, batch.documents >= 0, found.texts, strict=True):
            row = torch.from_numpy(tokens[real])[None]
            signals = read_plainly(model, row, torch.zeros_like(row), False, True)
            alone = [stack_of(signal.carry, MODULE).ordered()[0, -1].flatten().numpy() for signal in signals]
            assert text == pytest.approx(np.array(alone[: len(text)]).reshape(-1, 12), abs=1e-5)


def test_losses_are_summed_behind_the_first_segment_and_over_all() -> None:
    model, held_out = thinking_model(), documents(16, 6, 3)
    losses = losses_of(model, held_out, 2, [TrueStack()])["true"]
    assert (losses.reading_tokens_N.tolist(), losses.tokens_N.tolist()) == ([12, 2, 0], [16, 6, 3])
    (batch,) = held_out.batches(100)
    each = nll(model, batch, read_plainly)
    assert losses.overall_N == pytest.approx(each.sum(axis=1), abs=1e-4)
    assert losses.reading_N == pytest.approx(each[:, SEGMENT:].sum(axis=1), abs=1e-4)
