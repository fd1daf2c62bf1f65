"""Contracts about what may influence what: causality, the targets, rows and padding, documents."""

import math
from functools import lru_cache

import torch
from contract_subject import (
    CLOSE,
    LENGTH,
    SAME,
    Subject,
    apart,
    differ_in_every_row,
    draws_numbers,
    logits,
    one_document,
    other,
    packed,
    run,
    tokens,
)
from hidden_tokens import stay_hidden
from promises import promise
from torch import Tensor

from dreamlm.core.nn.decoder import DreamLM

LEARNING_STEPS = 24
LEFT_PADDING = (0, 3, 6, 0)


@promise(1, "causal")
def causal(subject: Subject, training: bool) -> None:
    """Changing token t leaves the logits before t bit-identical, and changes the one at t.

    Where blocks are filled in, no token moves a slot that must not see it: `hidden_tokens` says which.
    """
    model = subject.random(training)
    ids = tokens(3)
    several = torch.tensor([packed(16), packed(6, 10), packed(3, 8, 5)])
    for documents, records in ((several, True), (several, False), (one_document(ids), False)):
        begin, boundaries = model.start(3, records=records), documents is several
        before = logits(model, ids, documents, begin, boundaries)
        for t in (0, 3, 6, 9, LENGTH - 1):
            changed = ids.clone()
            changed[:, t] = other(ids[:, t])
            after = logits(model, changed, documents, begin, boundaries)
            assert torch.equal(before[:, :t], after[:, :t]), f"changing token {t} changes logits before it"
            assert differ_in_every_row(before[:, t], after[:, t]), f"changing token {t} does not change its logits"
    if subject.config.diffusion is not None:
        stay_hidden(subject, model, tokens(3, LENGTH + 1), torch.tensor([packed(17), packed(6, 11), packed(3, 8, 6)]))


@promise(2, "no copying")
def no_copying(subject: Subject, training: bool) -> None:
    """After some learning on random tokens, new random tokens still cost ln V each: nothing leaks the answer.

    V is how many there are to choose from: with pictures, fewer than ids.
    """
    model = _learned(subject).train(training)
    ids = tokens(256, LENGTH + 1, seed=LEARNING_STEPS)
    with torch.no_grad():
        losses = subject.losses(model, ids, one_document(ids))
    cost = (losses.nll / losses.tokens).item()
    # What knows nothing pays ln V or more; the mean of 4,096 targets strays from that by less than 0.01.
    assert cost >= math.log(subject.answers) - 0.03, f"random tokens cost {cost:.3f} nats, not ln V"


@lru_cache(maxsize=1)
def _learned(subject: Subject) -> DreamLM:
    """Kept until the other mode has asked for it too."""
    model = subject.fresh(training=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0.0)
    for step in range(LEARNING_STEPS):
        ids = tokens(16, LENGTH + 1, seed=step)
        subject.step_loss(subject.losses(model, ids, one_document(ids), seed=step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@promise(6, "rows and padding")
def rows_and_padding(subject: Subject, training: bool) -> None:
    """Neither another row nor padding influences a row, whatever they hold."""
    model = subject.random(training)
    ids = tokens(4)
    # Rows: one document; padding on both sides; padding on the left; whole segments of padding inside a document.
    within = [*packed(4), *[-1] * 8, *packed(4)]
    documents = torch.tensor([packed(16), [-1] * 3 + packed(4, 6) + [-1] * 3, [-1] * 6 + packed(10), within])
    for announced in ((), LEFT_PADDING):
        begin = model.start(4, left_padding=announced)
        whole = logits(model, ids, documents, begin)
        for row in range(4):
            neighbours = other(ids)
            neighbours[row] = ids[row]
            seen = logits(model, neighbours, documents, begin)
            rest = [one for one in range(4) if one != row]
            assert apart(seen[row], whole[row]) <= SAME, f"the rows beside row {row} influence it"
            assert differ_in_every_row(seen[rest], whole[rest]), "rows do not depend on their own tokens"
        repadded = logits(model, torch.where(documents < 0, other(ids), ids), documents, begin)
        real = documents >= 0
        assert apart(repadded[real], whole[real]) <= SAME, "what padding holds influences real tokens"
    _losses_ignore_padding(subject, model, torch.cat([documents, documents[:, -1:]], dim=1))
    _padding_behind_costs_nothing(subject, model)
    if not (training and draws_numbers(model)):
        _alone(model, ids, documents)


def _losses_ignore_padding(subject: Subject, model: DreamLM, documents_BX: Tensor) -> None:
    ids_BX = tokens(4, LENGTH + 1)
    repadded_BX = torch.where(documents_BX < 0, other(ids_BX), ids_BX)
    with torch.no_grad():
        losses, repadded = (subject.losses(model, ids, documents_BX) for ids in (ids_BX, repadded_BX))
    for name, loss in losses.objectives.items():
        assert apart(repadded.objectives[name] / losses.tokens, loss / losses.tokens) <= SAME, f"padding moves {name}"


def _padding_behind_costs_nothing(subject: Subject, model: DreamLM) -> None:
    """Padding may complete a segment that the text does not, and stand behind one that the text ends with."""
    for length in (LENGTH - 1, LENGTH + 1):
        ids_BX = tokens(4, length)
        longer_BX = torch.cat([ids_BX, tokens(4, 8)], dim=1)
        padding_BX = torch.full((4, 8), -1, dtype=torch.int32)
        documents_BX = torch.cat([one_document(ids_BX), padding_BX], dim=1)
        with torch.no_grad():
            losses, again = (subject.losses(model, ids_BX, one_document(ids_BX), seed) for seed in (5, 6))
            padded = subject.losses(model, longer_BX, documents_BX)
        for name, loss in losses.objectives.items():
            drawn = apart(again.objectives[name], loss) > 0  # of numbers whose count depends on the padding
            difference = apart(padded.objectives[name] / losses.tokens, loss / losses.tokens)
            assert drawn or difference <= CLOSE, f"padding behind moves {name}"


def _alone(model: DreamLM, ids: Tensor, documents: Tensor) -> None:
    whole = logits(model, ids, documents, model.start(4, left_padding=LEFT_PADDING))
    # Padding inside a document counts where a segment's end is concerned, so only a model without modules ignores it.
    for row in range(3 if model.cognition else 4):
        real = documents[row] >= 0
        alone = logits(model, ids[row : row + 1, real], documents[row : row + 1, real])
        assert apart(alone[0], whole[row, real]) <= CLOSE, f"row {row} is another one without neighbours and padding"
    chosen = torch.tensor([3, 2, 0])
    for cut in (7, 8, 10):
        with torch.no_grad():
            carry = run(model, ids[:, :cut], documents[:, :cut], model.start(4, left_padding=LEFT_PADDING))[1]
        rest = logits(model, ids[chosen, cut:], documents[chosen, cut:], carry.select(chosen))
        assert apart(rest, whole[chosen, cut:]) <= CLOSE, f"rows chosen from a carry at {cut} do not go on alone"


@promise(11, "documents")
def documents_apart(subject: Subject, training: bool) -> None:
    """The logits of a packed document do not depend on its neighbours."""
    model = subject.random(training)
    ids = tokens(2)
    for lengths in ((9, 7), (8, 8), (2, 3, 11), (5, 1, 10)):
        documents = torch.tensor([packed(*lengths)] * 2)
        whole = logits(model, ids, documents)
        for index in range(len(lengths)):
            own = documents[0] == index
            changed = logits(model, torch.where(documents == index, ids, other(ids)), documents)
            assert apart(changed[:, own], whole[:, own]) <= SAME, f"documents {lengths}: {index} reads its neighbours"
            assert differ_in_every_row(changed[:, ~own], whole[:, ~own]), "documents do not depend on their own tokens"
    if not (training and draws_numbers(model)):
        whole = logits(model, ids, torch.tensor([packed(8, 8)] * 2))
        alone = torch.cat([logits(model, ids[:, :8]), logits(model, ids[:, 8:])], dim=1)
        assert apart(whole, alone) <= CLOSE, "a document that begins with a segment is another one when packed"
