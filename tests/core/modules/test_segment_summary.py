"""The segment summary compresses segments, later tokens read it, and its gate decides what stays.

Shapes: B rows, T tokens, R rows that write, S tokens of a segment, D width.
"""

import math
from dataclasses import replace

import pytest
import torch
from naive_segment_summary import naive
from torch import Tensor
from torch.nn import functional as F

from dreamlm.core.modules.module import Room
from dreamlm.core.modules.segment_summary import SegmentSummary
from dreamlm.core.nn.decoder import DreamLM

VOCAB, SIZE, SEGMENT = 24, 32, 4
FACTS = 8
"""The first so many tokens of the vocabulary."""
QUESTION = VOCAB - 1


def decoder(num_layers: int = 2) -> DreamLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": SIZE, "num_layers": num_layers, "num_heads": 4, "seq_length": 16}
    segments = {"segment_length": SEGMENT, "modules": [{"type": "segment_summary", "num_vectors": 3}]}
    return DreamLM.Config.model_validate({**sizes, **segments}).build(VOCAB)


def module_of(model: DreamLM) -> SegmentSummary:
    module = model.cognition[0]
    assert isinstance(module, SegmentSummary)
    return module


@torch.no_grad()
def randomise(module: SegmentSummary) -> None:
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.parametrize("cuts", [[16], [1] * 16, [5, 7, 4]])
def test_it_agrees_with_a_naive_walk_over_each_row(cuts: list[int]) -> None:
    model = decoder()
    module = module_of(model)
    randomise(module)
    incoming, outgoing = [], []
    module.register_forward_pre_hook(lambda _, given: incoming.append(given[0].hidden))
    module.register_forward_hook(lambda _, given, result: outgoing.append(result.hidden))
    documents = [
        [0] * 16,
        [0] * 6 + [1] * 10,
        [-1] * 3 + [0] * 7 + [1] * 3 + [2] * 3,
        [0] * 9 + [-1] * 7,
        [0] * 4 + [-1] * 8 + [0] * 4,
    ]
    padding = (0, 0, 3, 0, 0)
    ids, documents_BT = torch.randint(0, VOCAB, (5, 16)), torch.tensor(documents)
    carry, loss, begin = model.start(5, left_padding=padding), 0.0, 0
    with torch.no_grad():
        for length in cuts:
            signal = model(ids[:, begin : begin + length], documents_BT[:, begin : begin + length], carry)
            carry, begin = signal.carry, begin + length
            loss += float(signal.losses.get("segment_summary.reconstruction", 0.0))
        rows = [
            naive(module, hidden_TD, documents[row], padding[row], SEGMENT)
            for row, hidden_TD in enumerate(torch.cat(incoming, dim=1))
        ]
    summaries = carry.states["segment_summary"].memory["summary"]
    torch.testing.assert_close(
        torch.cat(outgoing, dim=1), torch.stack([row.out_TD for row in rows]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(summaries, torch.stack([row.summary_MD for row in rows]), atol=1e-5, rtol=1e-5)
    assert loss == pytest.approx(sum(row.loss for row in rows), rel=1e-4)


def written(module: SegmentSummary, segments: Tensor) -> Tensor:
    """The summary of rows (R, D) after segments (number, R, S, D)."""
    memory = module.blank(segments.shape[1], torch.device("cpu"))
    own_RS = torch.ones(segments.shape[1:3], dtype=torch.bool)
    for segment_RSD in segments:
        memory = module.write(memory, segment_RSD, own_RS).memory
    return memory["summary"]


@torch.no_grad()
def test_a_gate_that_keeps_keeps_and_one_that_does_not_forgets() -> None:
    module = module_of(decoder())
    segments = torch.randn(2, 5, SEGMENT, SIZE)
    module.gate.weight.zero_()
    module.gate.bias.fill_(0.0)
    half = written(module, segments)
    first, second = written(module, segments[:1]), written(module, segments[1:])
    torch.testing.assert_close(half, 0.5 * first + second)  # each alone is half blank
    memory = {"summary": first}
    own_RS = torch.ones(5, SEGMENT, dtype=torch.bool)
    module.gate.bias.fill_(30.0)
    torch.testing.assert_close(module.write(memory, segments[1], own_RS).memory["summary"], first)
    module.gate.bias.fill_(-30.0)
    torch.testing.assert_close(module.write(memory, segments[1], own_RS).memory["summary"], 2 * second)


def test_the_model_cannot_lower_the_loss_by_making_its_vectors_easy() -> None:
    """Reconstruction teaches what is kept; what is to be reconstructed gets no gradient as a target."""
    module = module_of(decoder())
    torch.nn.init.zeros_(module.pool_value.weight)  # the summary knows nothing, so the target is the only way
    hidden_RSD = torch.randn(2, SEGMENT, SIZE, requires_grad=True)
    own_RS = torch.ones(2, SEGMENT, dtype=torch.bool)
    loss_R = module.write(module.blank(2, hidden_RSD.device), hidden_RSD, own_RS).losses["reconstruction"]
    loss_R.sum().backward()
    assert hidden_RSD.grad is not None
    assert hidden_RSD.grad.abs().max() == 0


def test_it_learns_to_reconstruct_what_no_average_could() -> None:
    """The vectors have mean zero: without the summary, nothing costs less than 1."""
    torch.manual_seed(0)
    room = Room(hidden_size=16, num_heads=4, segment_length=SEGMENT, norm_epsilon=1e-5)
    module = SegmentSummary.Config().build("segment_summary", room)
    for parameter in module.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.4 / parameter.shape[1] ** 0.5)
    own_RS = torch.ones(128, SEGMENT, dtype=torch.bool)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(200):
        blank = module.blank(128, torch.device("cpu"))
        loss = module.write(blank, torch.randn(128, SEGMENT, 16), own_RS).losses["reconstruction"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.95
    assert sum(losses[-10:]) / 10 < 0.8


def test_a_fact_of_an_earlier_segment_is_recalled_through_the_summary_alone() -> None:
    model = decoder(num_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(120):
        loss = recall(model, blanked=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        remembered, forgotten = recall(model, blanked=False).item(), recall(model, blanked=True).item()
    assert remembered < 0.1 * math.log(FACTS)
    assert forgotten > 0.9 * math.log(FACTS)


def recall(model: DreamLM, blanked: bool) -> Tensor:
    """Cost of naming the fact of a first segment in a second one, whose key/value caches begin empty."""
    ids = torch.randint(FACTS, QUESTION, (64, SEGMENT))
    fact_B, place_B = torch.randint(0, FACTS, (64,)), torch.randint(0, SEGMENT, (64,))
    ids[torch.arange(64), place_B] = fact_B
    start = model.start(64)
    state = model(ids, torch.zeros_like(ids), start).carry.states["segment_summary"]
    if blanked:
        state = start.states["segment_summary"]
    question = torch.full((64, 1), QUESTION)
    carry = replace(start, states={**start.states, "segment_summary": state})
    answer = model(question, torch.zeros_like(question), carry).hidden[:, 0]
    return F.cross_entropy(model.logits(answer), fact_B)
