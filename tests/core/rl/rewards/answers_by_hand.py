"""Answers made of ids, and references whose every probability a test can work out by itself."""

from collections.abc import Sequence
from functools import cache

import torch
from hypothesis import strategies as st

from dreamlm.core.nn.decoder import DreamLM
from dreamlm.core.objectives.causal import CausalObjective
from dreamlm.core.rl.answer import Answer, Prompt
from dreamlm.core.rl.reference import Reference
from dreamlm.core.tokenizer import BytePair, Tokenizer

END = 0
LENGTH = 24
"""Of the references' windows."""
CONFIG = DreamLM.Config(hidden_size=16, num_layers=2, num_heads=2, seq_length=LENGTH)
IDS = st.lists(st.integers(2, 257), max_size=30)
"""Any tokens but the special ones; some lists are longer than the window."""


@cache
def tokenizer() -> Tokenizer:
    made = BytePair(vocab_size=258).build(["words"])
    assert made.end_of_document_id == END
    return made


@cache
def sharp() -> Reference:
    """Random weights, far from uniform."""
    torch.manual_seed(3)
    model = CONFIG.build(tokenizer().vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return Reference(model, tokenizer(), rows=4)


@cache
def flat() -> Reference:
    """Every token has probability 1 / 258, whatever came before."""
    model = CONFIG.build(tokenizer().vocab_size)
    torch.nn.init.zeros_(model.head.weight)
    return Reference(model, tokenizer())


@cache
def copying() -> Reference:
    """Trained on runs of six tokens that are said twice, so that it expects what it has just read once more."""
    torch.manual_seed(0)
    model = CONFIG.model_copy(update={"hidden_size": 32}).build(tokenizer().vocab_size)
    objective, optimizer = CausalObjective(model, 0.0), torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(1)
    for _ in range(120):
        said = torch.randint(2, 18, (24, 6), generator=draw)
        ids = torch.cat([torch.full((24, 1), END), said, said], dim=1)
        losses = objective(ids, torch.zeros_like(ids), False)
        optimizer.zero_grad()
        (losses.objectives["token"] / losses.tokens).backward()
        optimizer.step()
    return Reference(model, tokenizer())


@torch.no_grad()
def naive_logs(reference: Reference, sequence: Sequence[int], last: int) -> list[float]:
    """log p of the last tokens of a sequence, each by a softmax over a reading of what comes before it alone."""
    found = []
    for place in range(len(sequence) - last, len(sequence)):
        before = torch.tensor([list(sequence[:place])])
        signal = reference.model.eval()(before, torch.zeros_like(before), reference.model.start(1), boundaries=False)
        probabilities = reference.model.logits(signal.hidden)[0, -1].double().softmax(dim=0)
        found.append(probabilities[sequence[place]].log().item())
    return found


def answer(prompt: Sequence[int], ids: Sequence[int], text: str = "", wanted: str = "") -> Answer:
    return Answer(Prompt("what?", wanted), (END, *prompt), tuple(ids), text, ended=bool(ids) and ids[-1] == END)
