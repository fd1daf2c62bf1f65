"""Masks made stretch by stretch are the mask, attention through them is the same attention, and none is kept."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamlm.core.nn import visibility as under_test
from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.nn.visibility import InStretches, Whole, visibility

VOCAB, LENGTH = 50, 24


@pytest.fixture
def in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, for the lengths of a test."""
    monkeypatch.setattr(under_test, "AT_ONCE", 40)
    monkeypatch.setattr(under_test, "QUERIES", 5)
    monkeypatch.setattr(under_test, "KEYS", 4)


@st.composite
def rows_of_documents(draw: st.DrawFn) -> list[list[int]]:
    """Documents of 30 tokens in each of two rows, with padding anywhere."""
    rows = []
    for _ in range(2):
        lengths = draw(st.lists(st.integers(1, 12), min_size=30, max_size=30))
        row = [document for document, length in enumerate(lengths) for _ in range(length)][:30]
        padded = draw(st.sets(st.integers(0, 29)))
        rows.append([-1 if column in padded else document for column, document in enumerate(row)])
    return rows


@pytest.mark.usefixtures("in_stretches")
@given(rows_of_documents(), st.integers(0, 25))
@settings(max_examples=60)
def test_stretches_put_together_are_the_definition(rows: list[list[int]], past: int) -> None:
    seen = visibility(torch.tensor(rows, dtype=torch.int32), past)
    expected = torch.tensor(
        [
            [
                [key == query or (key < query and row[key] == row[query] >= 0) for key in range(30)]
                for query in range(past, 30)
            ]
            for row in rows
        ]
    )[:, None]
    found = torch.zeros_like(expected)
    for queries, keys in seen.stretches():
        found[:, :, queries, keys] = seen.mask(queries, keys)
    assert torch.equal(found, expected)
    assert torch.equal(seen.mask(slice(0, 30 - past), slice(0, 30)), expected)


def test_a_stretch_leaves_out_keys_before_its_documents_and_behind_its_queries(in_stretches: None) -> None:
    documents = torch.tensor([[0] * 9 + [1] * 15, [0] * 13 + [1] * 11], dtype=torch.int32)
    seen = visibility(documents, 0)
    assert isinstance(seen, InStretches)
    cuts = [(queries.start, queries.stop, keys.start, keys.stop) for queries, keys in seen.stretches()]
    assert cuts == [(0, 5, 0, 8), (5, 10, 0, 12), (10, 15, 0, 16), (15, 20, 8, 20), (20, 24, 8, 24)]


def test_a_window_of_1024_has_its_mask_at_once_and_a_longer_one_never() -> None:
    assert isinstance(visibility(torch.zeros(2, 1024, dtype=torch.int32), 0), Whole)
    assert isinstance(visibility(torch.zeros(2, 1025, dtype=torch.int32), 0), InStretches)


CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ALiBi": {"positions": "alibi"},
    "sparsemax": {"attention_activation": "sparsemax"},
    "dropout": {"dropout": 0.2},
}
DOCUMENTS = torch.tensor([[0] * 9 + [1] * 15, [-1] * 6 + [0] * 7 + [1] * 8 + [-1] * 3])


def losses_and_gradients(choice: str, checkpointed: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "seq_length": LENGTH}
    model = DreamLM.Config.model_validate({**sizes, **CHOICES[choice]}).build(VOCAB)
    model.checkpoint_activations(checkpointed)
    ids = torch.randint(0, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    hidden = model(ids, DOCUMENTS, model.start(2)).hidden
    (hidden * torch.linspace(-1, 1, 32)).square().sum().backward()
    return [hidden[DOCUMENTS >= 0], *(one.grad for one in model.parameters() if one.grad is not None)]


@pytest.mark.parametrize("choice", CHOICES)
def test_stretches_change_neither_vectors_nor_gradients(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = losses_and_gradients(choice)
    for name, size in (("AT_ONCE", 40), ("QUERIES", 5), ("KEYS", 4)):
        monkeypatch.setattr(under_test, name, size)
    parts, recomputed = (losses_and_gradients(choice, checkpointed) for checkpointed in (False, True))
    for one, two, three in zip(whole, parts, recomputed, strict=True):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4)
        assert torch.equal(two, three)


def test_a_real_packed_window_has_the_vectors_of_its_whole_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": 1536}
    model = DreamLM.Config.model_validate(config).build(VOCAB)
    ids = torch.randint(0, VOCAB, (2, 1536))
    documents = torch.stack([torch.arange(1536) // 200, torch.arange(1536) // 1100])
    with torch.no_grad():
        parts = model(ids, documents, model.start(2)).hidden
        monkeypatch.setattr(under_test, "AT_ONCE", 1536**2)
        torch.testing.assert_close(parts, model(ids, documents, model.start(2)).hidden, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [1000, 1536], ids=["mask at once", "in stretches"])
def test_a_packed_document_of_real_length_has_the_vectors_that_it_has_alone(length: int) -> None:
    torch.manual_seed(0)
    config = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "seq_length": length}
    model = DreamLM.Config.model_validate(config).build(VOCAB)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids, documents = torch.randint(0, VOCAB, (1, length)), (torch.arange(length) >= 60).long()[None]
    with torch.no_grad():
        packed = model(ids, documents, model.start(1)).hidden[:, 60:]
        # Alone it needs no mask: the kernel's own triangle is all that it goes through.
        alone = model(ids[:, 60:], torch.zeros(1, length - 60).long(), model.start(1), boundaries=False).hidden
        torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


def a_pass(length: int, boundaries: bool) -> Tensor:
    torch.manual_seed(0)
    config = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "seq_length": length}
    model = DreamLM.Config.model_validate(config).build(VOCAB)
    ids = torch.zeros(1, length, dtype=torch.int64)
    return model(ids, torch.zeros_like(ids), model.start(1, records=False), boundaries).hidden


@pytest.mark.usefixtures("in_stretches")
@pytest.mark.parametrize("boundaries", [True, False], ids=["packed", "one document"])
def test_what_waits_for_the_backward_pass_grows_with_the_length_alone(boundaries: bool) -> None:
    def kept(length: int) -> int:
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda one: saved.append(one) or one, lambda one: one):
            a_pass(length, boundaries)
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in saved}
        return sum(storages.values())

    weights, once, twice = kept(8), kept(160), kept(320)
    assert (twice - weights) / (once - weights) == pytest.approx(2.0, rel=0.1)


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(one.numel() for one in tree_leaves(given) if isinstance(one, Tensor))])
        return given


@pytest.mark.usefixtures("in_stretches")
@pytest.mark.parametrize("boundaries", [True, False], ids=["packed", "one document"])
def test_no_tensor_of_any_operation_is_a_square_of_the_length(boundaries: bool) -> None:
    with Largest() as largest:
        a_pass(320, boundaries).square().sum().backward()
    assert largest.elements < 320**2 / 4
