"""Reading with other dreams: a text's own change nothing, and every other kind changes just what it says.

Shapes: B rows, K segments of a text, T targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dreaming_model import DREAMS, EXPERTS, MODULE, dreaming_model
from thinking_model import END, SEGMENT, documents
from torch import Tensor

from dreamlm.core.evaluation.ablation import TextLosses, ablated, donors
from dreamlm.core.evaluation.by_document import ByDocument
from dreamlm.core.evaluation.dream_interventions import (
    Anothers,
    Intervened,
    Intervention,
    MeanDreams,
    OwnDreams,
    Reversed,
    Zeroed,
)
from dreamlm.core.evaluation.dream_reading import HeldOutDreams, TextDreams, collected
from dreamlm.core.evaluation.likelihood import likelihood_of
from dreamlm.core.evaluation.reading import Reading, read_plainly
from dreamlm.core.inference import inference
from dreamlm.core.modules.dreaming.dreaming import Dreaming
from dreamlm.core.modules.dreaming.roles import RolePooling
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.types import Batch

KINDS = ("causal", "diffusion")
OTHERS = ("zeroed", "mean", "another's", "reversed")


def nll(model: DreamLM, batch: Batch, read: Reading) -> npt.NDArray[np.float64]:
    with inference(model):
        return likelihood_of(model, END, 2, read=read).losses(model, batch, check=False).nll_BT


def changed(intervention: Intervention, batch: Batch) -> Intervened:
    return Intervened(MODULE, intervention, np.arange(len(batch.tokens)))


def every_intervention(found: HeldOutDreams) -> dict[str, Intervention]:
    lent = Anothers(found.texts, donors(found.owner_U))
    every = (OwnDreams(), Zeroed(), MeanDreams(found.means()), lent, Reversed(found.texts))
    return {one.name: one for one in every}


def losses_of(
    model: DreamLM, held_out: ByDocument, rows: int, interventions: Sequence[Intervention]
) -> dict[str, TextLosses]:
    ways = {one.name: partial(Intervened, MODULE, one) for one in interventions}
    return ablated(model, held_out, rows, ways, lambda read: likelihood_of(model, END, 2, read=read))


def repeated(*targets: int) -> ByDocument:
    """Documents with so many targets, all of which begin with the same tokens."""
    lengths = np.array(targets)
    tokens = np.random.default_rng(5).integers(1, 20, max(targets) + 1)

    def fill(source: int, start: int, row: npt.NDArray[np.int64]) -> tuple[()]:
        row[:] = tokens[: len(row)]
        return ()

    return ByDocument(
        np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64), lengths, fill,
        seq_length=16, padding_id=30, utf8_bytes=100,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_with_its_own_dreams_a_text_has_its_own_loss_to_the_bit(kind: str) -> None:
    model = dreaming_model(kind)
    for batch in documents().batches(3):
        assert (nll(model, batch, changed(OwnDreams(), batch)) == nll(model, batch, read_plainly)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OTHERS)
def test_only_tokens_that_read_dreams_lose_or_gain(kind: str, name: str) -> None:
    model, held_out = dreaming_model(kind), documents()
    intervention = every_intervention(collected(model, MODULE, held_out, 4))[name]
    (batch, *_) = held_out.batches(5)
    before, after = nll(model, batch, read_plainly), nll(model, batch, changed(intervention, batch))
    assert (before[:, :SEGMENT] == after[:, :SEGMENT]).all()
    assert np.abs(before - after)[:, SEGMENT:].max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_zeroed_is_what_reading_zeros_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (batch, *_) = dreaming_model(kind), documents().batches(5)
    found, read = nll(model, batch, changed(Zeroed(), batch)), Dreaming.read
    monkeypatch.setattr(
        Dreaming,
        "read",
        lambda self, hidden, memory: read(self, hidden, {"reasoning": torch.zeros_like(memory["reasoning"])}),
    )
    assert found == pytest.approx(nll(model, batch, read_plainly), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_reversed_is_what_a_pooling_of_the_segment_backwards_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (batch, *_) = dreaming_model(kind, use_node_memory=False), documents(16, 12, 8).batches(5)
    text = collected(model, MODULE, documents(16, 12, 8), 5).texts
    found, pool = nll(model, batch, changed(Reversed(text), batch)), RolePooling.forward
    monkeypatch.setattr(RolePooling, "forward", lambda self, hidden, own: pool(self, hidden.flip(1), own.flip(1)))
    assert found == pytest.approx(nll(model, batch, read_plainly), abs=1e-5)


def test_reversed_goes_on_from_the_memory_of_segments_that_came_as_they_are() -> None:
    model, held_out = dreaming_model(), documents(12)
    (text,) = collected(model, MODULE, held_out, 5).texts
    (batch,) = held_out.batches(5)
    tokens, module = torch.from_numpy(batch.tokens)[:, :12], model.cognition[0]
    incoming: list[Tensor] = []
    watch = module.register_forward_pre_hook(lambda _, given: incoming.append(given[0].hidden))
    with inference(model):
        signals = [*model.segments(tokens, torch.zeros_like(tokens), model.start(1))]
        memory = signals[1].carry.states[MODULE].memory
        real = torch.ones(1, SEGMENT, dtype=torch.bool)
        expected = module.write(memory, incoming[2].flip(1), real).memory["reasoning"]
        watch.remove()
        forgetful = module.write(module.blank(1, model.device), incoming[2].flip(1), real).memory["reasoning"]
    assert text.reversed_KGC[2] == pytest.approx(expected[0].numpy(), abs=1e-6)
    assert np.abs(text.reversed_KGC[2] - forgetful[0].numpy()).max() > 1e-2


@dataclass(frozen=True)
class Spy(Intervention):
    """Shows zeros, and keeps what it was given."""

    seen: list[tuple[int, Tensor]]
    name = "spy"

    def shown(self, own_BGC: Tensor, text_B: npt.NDArray[np.int64], segments: int) -> Tensor:
        self.seen.append((segments, own_BGC))
        return Zeroed().shown(own_BGC, text_B, segments)


def test_a_text_dreams_the_same_whatever_its_tokens_are_shown_and_they_see_just_that() -> None:
    model, (batch, *_), spy = dreaming_model(), documents(16, 7).batches(2), Spy([])
    tokens, places = torch.from_numpy(batch.tokens), torch.from_numpy(batch.documents)
    with inference(model):
        plain = read_plainly(model, tokens, places, True, True)
        signals = changed(spy, batch)(model, tokens, places, True, True)
    assert [number for number, _ in spy.seen] == [1, 2, 3, 4]
    for signal, own, (number, given) in zip(signals, plain, spy.seen, strict=True):
        memory, expected = signal.carry.states[MODULE].memory, own.carry.states[MODULE].memory
        there = 2 if number <= 2 else 1  # the second text has ended
        assert (given[:there] == expected["reasoning"][:there]).all()
        assert not memory["reasoning"].any(), "what the next segment, or a slot, is shown"
        for key in ("node_memory", "roles", "dreams", "gate", "edges"):
            assert (memory[key] == expected[key]).all(), key
            assert memory[key].any()


def text_of(*nodes: float, turned: float = 0.0) -> TextDreams:
    """A text with one node of one number after each segment; reversed, it is so much more."""
    read = np.array(nodes, np.float32).reshape(-1, 1, 1)
    nothing = np.zeros((len(nodes), 1, 1), np.float32)
    return TextDreams(read, read + np.float32(turned), nothing, nothing, nothing, nothing[:, 0])


def shown(intervention: Intervention, texts: Sequence[int], segments: int) -> list[float]:
    own = torch.full((len(texts), 1, 1), -1.0)
    return intervention.shown(own, np.array(texts), segments).flatten().tolist()


def test_each_intervention_shows_what_it_says() -> None:
    texts = [text_of(1, 2, 3, 4), text_of(5, 7), text_of()]
    lent = Anothers(texts, np.array([1, 0, 1]))
    assert shown(lent, [0, 1, 2], 1) == [5.0, 1.0, 5.0]
    assert shown(lent, [1, 0], 3) == [3.0, 7.0], "of a shorter one its last"
    assert shown(Anothers(texts, np.array([2, 2, 0])), [0], 1) == [0.0]
    mean = MeanDreams(HeldOutDreams(texts, np.arange(3)).means())
    assert [shown(mean, [0, 2], segments) for segments in (1, 2, 3, 4)] == [[3.0] * 2, [4.5] * 2, [3.0] * 2, [4.0] * 2]
    turned = Reversed([text_of(1, 2, turned=0.5), text_of(3, turned=0.5)])
    assert shown(turned, [1, 0], 2) == [3.5, 2.5]
    assert shown(OwnDreams(), [0, 1], 1) == [-1.0, -1.0]
    assert shown(Zeroed(), [0, 1], 1) == [0.0, 0.0]


def test_where_all_texts_are_the_same_other_dreams_cost_nothing_but_reversed_ones_do() -> None:
    model, held_out = dreaming_model(), repeated(16, 16, 12)
    found = collected(model, MODULE, held_out, 4)
    losses = losses_of(model, held_out, 4, [*every_intervention(found).values()])
    own = losses["own"].reading_N
    for name in ("mean", "another's"):
        assert losses[name].reading_N == pytest.approx(own, abs=1e-4), name
    for name in ("zeroed", "reversed"):
        assert np.abs(losses[name].reading_N - own).min() > 1e-2, name


@pytest.mark.parametrize("kind", KINDS)
def test_dreams_and_losses_are_the_same_in_any_batches(kind: str) -> None:
    model, held_out = dreaming_model(kind), documents(16, 5, 20, 3)
    one, many = (collected(model, MODULE, held_out, rows) for rows in (1, 7))
    for alone, together in zip(one.texts, many.texts, strict=True):
        for part, same in zip(vars(alone).values(), vars(together).values(), strict=True):
            assert part == pytest.approx(same, abs=1e-4)
    few, all_at_once = (
        losses_of(model, held_out, rows, [*every_intervention(found).values()]) for rows, found in ((1, one), (7, many))
    )
    assert list(few) == ["own", *OTHERS]
    for name in few:
        assert few[name].overall_N == pytest.approx(all_at_once[name].overall_N, abs=1e-3), name


def test_a_text_has_dreams_of_each_segment_that_it_completes() -> None:
    model, held_out = dreaming_model(), documents()
    found, (batch, *_) = collected(model, MODULE, held_out, 100), held_out.batches(100)
    assert [len(text.read_KGC) for text in found.texts] == [4, 4, 4, 4, 3, 2, 2, 1, 1, 1, 0]
    assert (found.segments, found.shape) == (26, (DREAMS, EXPERTS))
    assert not model.cognition[0]._forward_pre_hooks, "nobody watches any more"
    with inference(model):
        for tokens, real, text in zip(batch.tokens, batch.documents >= 0, found.texts, strict=True):
            row = torch.from_numpy(tokens[real])[None]
            signals = read_plainly(model, row, torch.zeros_like(row), False, True)
            for number, signal in enumerate(signals[: len(text.read_KGC)]):
                memory = {key: value[0].numpy() for key, value in signal.carry.states[MODULE].memory.items()}
                assert text.read_KGC[number] == pytest.approx(memory["reasoning"], abs=1e-4)
                assert text.roles_K3C[number] == pytest.approx(memory["roles"], abs=1e-4)
                assert text.dreams_KNV[number] == pytest.approx(memory["dreams"].reshape(DREAMS, -1), abs=1e-4)
                assert text.gate_KNE[number] == pytest.approx(memory["gate"], abs=1e-4)
                assert text.edges_KY[number] == pytest.approx(memory["edges"].sum(axis=(0, 1)), abs=1e-4)
                # Steps of two dreams lead on, and equal steps of both lead to and fro.
                assert text.edges_KY[number].sum() == pytest.approx(2 * 1 + 2 * 2, abs=1e-4)
